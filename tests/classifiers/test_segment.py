"""The part between two layers: what leads from one activation to the other."""

import pytest
import torch
from tests.networks import NETWORKS, UNTRACEABLE, images, input_shape

import pellucid as pl
from pellucid.classifiers import Segment
from pellucid.errors import LayerError


def classifier(name: str) -> pl.Classifier:
    return pl.Classifier(NETWORKS[name](), input_size=input_shape(name), name=name)


@pytest.mark.parametrize("name", sorted(set(NETWORKS) - UNTRACEABLE))
def test_a_segment_leads_from_every_layer_to_the_last_map(name: str) -> None:
    made, x = classifier(name), images(name)
    maps = [layer for layer in made.layers() if layer.clean and layer.is_spatial]
    stop = made.at([layer for layer in maps if made.at(layer.name).layout.order in ("NCHW", "NHWC")][-1].name)
    wanted = stop.activation(x)
    position = next(layer.position for layer in made.layers() if layer.name == stop.layer)
    starts = [layer.name for layer in made.layers() if layer.position <= position]
    assert len(starts) > 1
    for name_of_start in starts:
        start = made.at(name_of_start)
        found = Segment(start, stop)(start.activation(x))
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))


def test_a_segment_is_differentiable_and_follows_what_crosses_the_cut() -> None:
    made, x = classifier("dense"), images("dense")
    layer = next(info.name for info in made.layers() if not info.clean and info.is_spatial)
    start, stop = made.at(layer), made.at("final")
    activation, rows = start.activation(x), torch.tensor([2, 0, 2])
    leaf = activation[rows].clone().requires_grad_()
    side_inputs = activation.side_inputs.rows(rows)
    maps = Segment(start, stop)(leaf, side_inputs)
    torch.testing.assert_close(maps.detach(), stop.activation(x)[rows] * 1.0)
    (found,) = torch.autograd.grad(stop.logits(maps)[:, 1].sum(), leaf)
    (wanted,) = torch.autograd.grad(start.logits(leaf, side_inputs)[:, 1].sum(), leaf)
    torch.testing.assert_close(found, wanted)


def test_two_names_of_one_output_have_nothing_between_them() -> None:
    made = classifier("residual")
    between = Segment(made.at("layer3.0"), made.at("layer3"))
    assert {node.op for node in between.operations.graph.nodes} == {"placeholder", "output"}
    maps = torch.randn(2, 16, 5, 3)
    assert torch.equal(between(maps), maps)


@pytest.mark.parametrize(
    ("name", "start", "stop", "message"),
    [
        ("residual", "layer3", "layer2", "layer 'layer2' does not lie after 'layer3'"),
        ("residual", "layer3", "input", "layer 'input' does not lie after 'layer3'"),
        ("residual", "input", "layer1.0.conv1", "ends at a map and a clean cut; at 'layer1.0.conv1' there are"),
        ("vit", "input", "blocks.1", "ends at a map and a clean cut; at 'blocks.1' there are 1 leading token"),
        ("vit_mean", "input", "blocks.1", "ends at a map and a clean cut; at 'blocks.1' there are tokens"),
        ("control_flow", "stem", "merge", "are not known: the network could not be traced"),
    ],
)
def test_what_is_no_segment_is_refused(name: str, start: str, stop: str, message: str) -> None:
    made = classifier(name)
    with pytest.raises(LayerError, match=message):
        Segment(made.at(start), made.at(stop))

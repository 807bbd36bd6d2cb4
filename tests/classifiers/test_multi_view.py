"""Several layers from one pass: the activations of each view, and the logits with what was computed on the way."""

import pytest
import torch
from tests.networks import NETWORKS, UNTRACEABLE, images, input_shape
from torch import Tensor, nn

import pellucid as pl
from pellucid.errors import LayerError, ModelError, PellucidError


def _classifier(name: str) -> pl.Classifier:
    return pl.Classifier(NETWORKS[name](), input_size=input_shape(name), name=name)


def _layers(classifier: pl.Classifier) -> list[str]:
    """Up to six layers, the last first."""
    names = [info.name for info in classifier.layers()]
    return names[:: max(1, len(names) // 5)][::-1]


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_activations_are_those_of_each_view(name: str) -> None:
    classifier, x = _classifier(name), images(name)
    several = classifier.at_layers(_layers(classifier))
    assert sum(several.prefix_passes) == (len(several.views) if name in UNTRACEABLE else 1)
    for view, activation in zip(several.views, several.activations(x), strict=True):
        alone = view.activation(x)
        torch.testing.assert_close(activation.as_subclass(Tensor), alone.as_subclass(Tensor))
        assert activation.side_inputs.names == alone.side_inputs.names
        assert not activation.requires_grad
        torch.testing.assert_close(view.logits(activation), classifier.logits(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_a_run_gives_layers_and_logits_and_is_differentiable(name: str) -> None:
    classifier, x = _classifier(name), images(name).requires_grad_()
    several = classifier.at_layers(_layers(classifier))
    outputs = several.run(x)
    torch.testing.assert_close(outputs.logits, classifier.logits(x), rtol=1e-4, atol=1e-5)
    for view, activation in zip(several.views, outputs.activations, strict=True):
        torch.testing.assert_close(activation.detach(), view.activation(x.detach()).as_subclass(Tensor))
    try:
        (expected,) = torch.autograd.grad(classifier.logits(x).sum(), x)
    except RuntimeError:  # the network overwrites what its backward pass needs, or detaches
        return
    (gradient,) = torch.autograd.grad(outputs.logits.sum(), x)
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["residual", "control_flow", "vit"])
def test_the_vector_that_enters_the_head_gives_the_logits(name: str) -> None:
    classifier, x = _classifier(name), images(name)
    outputs = classifier.at_layers([]).run(x)
    (head,) = [module for module in classifier.module.modules() if isinstance(module, nn.Linear)][-1:]
    assert outputs.activations == ()
    assert outputs.head_input is not None
    torch.testing.assert_close(head(outputs.head_input), outputs.logits, rtol=1e-4, atol=1e-5)


def test_a_network_without_a_linear_head_has_no_vector() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert pl.Classifier(network.eval(), input_size=8).at_layers(["0"]).run(torch.zeros(1, 3, 8, 8)).head_input is None


def test_layers_are_ordered_by_computation_however_they_are_given() -> None:
    several = _classifier("residual").at_layers(["final", "input", "layer2", "layer1"])
    assert several.order == [1, 3, 2, 0]
    assert several.prefix_passes == (0, 1, 0, 0)


def test_what_does_not_belong_is_refused() -> None:
    one, other = _classifier("residual"), _classifier("dense")
    with pytest.raises(LayerError, match="no layer 'layer9'; did you mean"):
        one.at_layers(["layer9"])
    with pytest.raises(LayerError, match="layers of another classifier, dense"):
        one.at_layers([other.at("final")])
    with pytest.raises(PellucidError, match="takes images of shape"):
        one.at_layers(["final"]).activations(torch.zeros(3, 8, 8))
    with pytest.raises(ModelError, match="cannot be run on images of shape"):
        one.at_layers(["final"]).run(torch.zeros(1, 3, 0, 0))

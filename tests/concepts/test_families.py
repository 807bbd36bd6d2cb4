"""Visual-TCAV on networks of other kinds: tokens of a transformer, residual and dense blocks."""

from itertools import pairwise

import pytest
import torch
from tests.networks import NETWORKS, images, input_shape
from torch import Tensor

import pellucid as pl
from pellucid.classifiers import Activation, LayerView
from pellucid.concepts import (
    FitOptions,
    VisualTCAV,
    concept_map,
    fit_cavs,
    reference_attribution,
)
from pellucid.concepts.concept_scores import class_weights


def explained(classifier: pl.Classifier, layer: str, shape: tuple[int, int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    sets = {
        name: torch.randn(8, *shape, generator=generator) + shift for name, shift in (("bright", 0.7), ("dark", -0.7))
    }
    negatives = torch.randn(10, *shape, generator=generator)
    view = classifier.at(layer)
    cavs = fit_cavs(view, sets, negatives, options=FitOptions(splits=2, resamples=2))
    x = torch.randn(2, *shape, generator=generator) + 0.5
    result = VisualTCAV(view, cavs, permutations=9, max_steps=50)(x, [0, 1])
    activation = view.activation(x)
    assert result.maps.shape == (2, 2, *activation.shape[2:])
    assert activation.shape[2] > 1
    gradients = torch.stack([step_by_step(view, activation, k) for k in (0, 1)], dim=1)
    empty = view.logits(activation.as_subclass(Tensor) * 0, activation.side_inputs)
    weights = class_weights(view.logits(activation), empty)[:, [0, 1]]
    expected = [
        reference_attribution(
            activation[n].as_subclass(Tensor),
            gradients[n, t],
            cav.direction,
            concept_map(activation[n].as_subclass(Tensor), cav.direction, *cav.emblems),
            float(weights[n, t]),
        )
        for n in range(2)
        for cav in cavs
        for t in range(2)
    ]
    torch.testing.assert_close(result.reference, torch.stack(expected).view(2, 2, 2), atol=1e-5, rtol=1e-3)
    assert float(result.maps.max()) > 0


def step_by_step(view: LayerView, activation: Activation, target: int, steps: int = 50) -> Tensor:
    """Integrated gradients (N, C, h, w) by the trapezoid rule, one step at a time."""
    result = []
    for step in range(steps + 1):
        scaled = (activation.as_subclass(Tensor) * (step / steps)).detach().requires_grad_()
        result.append(torch.autograd.grad(view.logits(scaled, activation.side_inputs)[:, target].sum(), scaled)[0])
    mean = sum((one + other) / 2 for one, other in pairwise(result)) / steps
    return mean * activation.as_subclass(Tensor)


@pytest.mark.filterwarnings("ignore::pellucid.concepts.ConceptWarning")
@pytest.mark.parametrize("name", ["vit", "vit_mean", "residual", "dense", "inception"])
def test_concepts_are_explained_in_small_networks_of_every_kind(name: str) -> None:
    explained(pl.Classifier(NETWORKS[name](), input_size=input_shape(name)), "middle", tuple(images(name).shape[1:]))


@pytest.mark.filterwarnings("ignore::pellucid.concepts.ConceptWarning")
@pytest.mark.parametrize("model", ["torchvision:resnet18", "timm:vit_tiny_patch16_224"])
def test_concepts_are_explained_in_torchvision_and_timm_networks(model: str) -> None:
    library, _, name = model.partition(":")
    module = pytest.importorskip("torchvision.models" if library == "torchvision" else library)
    torch.manual_seed(0)
    network = getattr(module, name)() if library == "torchvision" else module.create_model(name)
    explained(pl.Classifier(network.eval(), input_size=224), "final", (3, 224, 224))

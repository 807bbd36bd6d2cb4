"""Attribute predictors, and the probe of the context in the classifier's features."""

import torch
from tests.surrogate.support import bars
from torch import Tensor

from pellucid.surrogate.model.auxiliary_models import AttributePredictors, fit_context_probe
from pellucid.surrogate.model.encoders import r2_score
from pellucid.surrogate.training.fit_predictors import fit_attribute_predictors
from pellucid.surrogate.training.image_datasets import InMemory, gather_images
from pellucid.surrogate.training_options import PRESETS

OPTIONS = PRESETS["ci-16"].replace(
    encoder_channel_base=64, encoder_max_channels=8, predictor_steps=150, predictor_batch_size=32
)


def fitted(seed: int = 0) -> tuple[tuple[AttributePredictors, Tensor], InMemory, Tensor]:
    data = bars(600, 0, 0.5)
    context = data.context.scale().standardize(data.context.values)
    family = torch.arange(600)
    images = InMemory(data.images * 2 - 1)
    options = OPTIONS.replace(seed=seed)
    return (
        fit_attribute_predictors(images, context, family, torch.ones(600), options, torch.device("cpu")),
        images,
        context,
    )


def test_predictors_predict_thickness_and_intensity_of_bars_they_never_saw() -> None:
    (predictors, r2), images, context = fitted()
    assert r2.shape == (2, 2)
    assert float(r2.min()) > 0.8
    rows = torch.arange(100)
    torch.testing.assert_close(
        predictors(gather_images(images, rows)), predictors.predict_each(gather_images(images, rows)).mean(0)
    )
    assert float(r2_score(predictors(gather_images(images, rows)), context[rows]).min()) > 0.8


def test_predictors_differ() -> None:
    (predictors, _), images, _ = fitted()
    shown = gather_images(images, torch.arange(5))
    first, second = predictors.predict_each(shown)
    assert float((first - second).abs().max()) > 0


def test_predictors_are_frozen_and_a_seed_reproduces_them() -> None:
    (first, _), _, _ = fitted()
    (again, _), _, _ = fitted()
    (other, _), _, _ = fitted(seed=1)
    assert not any(weight.requires_grad for weight in first.parameters())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


def test_fitting_leaves_the_global_random_numbers_alone() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    fitted()
    assert torch.equal(before, torch.random.get_rng_state())


def test_without_contexts_none_is_predicted() -> None:
    predictors = AttributePredictors(1, 0, OPTIONS)
    assert predictors(torch.randn(3, 1, 16, 16)).shape == (3, 0)


def test_the_probe_reads_what_the_features_tell_and_nothing_else() -> None:
    random = torch.Generator().manual_seed(0)
    phi = torch.randn(900, 6, generator=random)
    context = torch.stack([phi[:, 0] - phi[:, 1], torch.randn(900, generator=random)], dim=1)
    probe, cross_fitted = fit_context_probe(phi, context, steps=200, seed=0)
    readable, unreadable = r2_score(cross_fitted, context).tolist()
    assert readable > 0.9
    assert unreadable < 0.1
    assert probe(phi).shape == (900, 2)

"""Judges of context and readers of perceived context."""

import torch
from tests.surrogate.support import bars

from pellucid.surrogate.model.attribute_predictors import AttributePredictors, fit_attribute_predictors
from pellucid.surrogate.model.probes import fit_context_probe
from pellucid.surrogate.training.fitting import determination
from pellucid.surrogate.training.image_datasets import InMemory
from pellucid.surrogate.training.training_options import PRESETS

OPTIONS = PRESETS["ci-16"].replace(encoder_base=64, encoder_most=8, judge_steps=150, judge_batch=32)


def fitted(seed=0):
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


def test_judges_tell_thickness_and_intensity_of_bars_they_never_saw() -> None:
    (judges, quality), images, context = fitted()
    assert quality.shape == (2, 2)
    assert float(quality.min()) > 0.8
    rows = torch.arange(100)
    torch.testing.assert_close(judges(images[rows]), judges.each(images[rows]).mean(0))
    assert float(determination(judges(images[rows]), context[rows]).min()) > 0.8


def test_judges_differ_and_their_disagreement_is_their_distance() -> None:
    (judges, _), images, _ = fitted()
    shown = images[torch.arange(5)]
    first, second = judges.each(shown)
    torch.testing.assert_close(judges.disagreement(shown), (first - second).abs())
    assert float(judges.disagreement(shown).max()) > 0


def test_judges_are_frozen_and_a_seed_makes_them_again() -> None:
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


def test_no_contexts_are_judged_as_none() -> None:
    judges = AttributePredictors(1, 0, OPTIONS)
    assert judges(torch.randn(3, 1, 16, 16)).shape == (3, 0)


def test_what_the_features_tell_is_perceived_and_what_they_do_not_is_not() -> None:
    random = torch.Generator().manual_seed(0)
    phi = torch.randn(900, 6, generator=random)
    context = torch.stack([phi[:, 0] - phi[:, 1], torch.randn(900, generator=random)], dim=1)
    perception, unseen = fit_context_probe(phi, context, steps=200, seed=0)
    told, untold = determination(unseen, context).tolist()
    assert told > 0.9
    assert untold < 0.1
    assert perception(phi).shape == (900, 2)

"""Estimators of directions against scikit-learn in the full space, and against each other."""

import numpy as np
import pytest
import torch
from sklearn.covariance import ledoit_wolf_shrinkage as sklearn_shrinkage
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression as SklearnLogistic
from sklearn.linear_model import Ridge as SklearnRidge
from sklearn.svm import SVC
from torch import Tensor

from pellucid.concepts.estimators import (
    ESTIMATORS,
    LDA,
    DifferenceOfMeans,
    Estimator,
    LinearSVM,
    LogisticRegression,
    Pattern,
    Ridge,
    estimator_name,
    find_estimator,
    fit_directions,
    ledoit_wolf_shrinkage,
)
from pellucid.errors import PellucidError

SHOWN, ABSENT = 14, 20


def _features(width: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Features (n, F) of images with the concept and then without, scaled to mean squared distance 1, and labels."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(SHOWN + ABSENT, width, generator=generator, dtype=torch.float64)
    features = features * torch.linspace(0.2, 2, width) + 3
    labels = torch.cat([torch.ones(SHOWN), torch.zeros(ABSENT)]).double()
    features[:SHOWN] += torch.linspace(-1, 1.5, width)
    centered = features - features.mean(0)
    return features, centered / centered.square().sum(1).mean().sqrt(), labels


def _fit(estimator: Estimator, features: Tensor) -> Tensor:
    whole = (torch.arange(SHOWN), torch.arange(SHOWN, SHOWN + ABSENT))
    return fit_directions(estimator, features, [whole])[0]


def _same_direction(one: Tensor, other: np.ndarray, tolerance: float = 1e-9) -> None:
    cosine = torch.nn.functional.cosine_similarity(one, torch.tensor(other).double(), dim=0)
    assert float(cosine) > 1 - tolerance


WIDTHS = pytest.mark.parametrize("width", [5, 60])


@WIDTHS
def test_the_difference_of_means_is_signed_and_not_normalized(width: int) -> None:
    features, _, _ = _features(width)
    expected = features[:SHOWN].mean(0) - features[SHOWN:].mean(0)
    torch.testing.assert_close(_fit(DifferenceOfMeans(), features), expected, atol=1e-12, rtol=1e-12)


@WIDTHS
def test_the_pattern_is_the_slope_of_the_features_on_the_label_and_so_the_difference_of_means(width: int) -> None:
    features, _, labels = _features(width)
    pattern = _fit(Pattern(), features)
    slopes = [np.polyfit(labels.numpy(), column.numpy(), 1)[0] for column in features.T]
    torch.testing.assert_close(pattern, torch.tensor(slopes, dtype=torch.float64))
    torch.testing.assert_close(pattern, _fit(DifferenceOfMeans(), features))


@WIDTHS
def test_ridge_points_where_scikit_learns_does_in_the_full_space(width: int) -> None:
    features, scaled, labels = _features(width)
    model = SklearnRidge(alpha=0.05 * len(scaled)).fit(scaled.numpy(), labels.numpy())
    _same_direction(_fit(Ridge(penalty=0.05), features), model.coef_)


@WIDTHS
@pytest.mark.parametrize("shrinkage", [0.3, None])
def test_lda_points_where_scikit_learns_does_in_the_full_space(width: int, shrinkage: float | None) -> None:
    features, _, labels = _features(width)
    within = torch.cat([side - side.mean(0) for side in (features[:SHOWN], features[SHOWN:])]).numpy()
    expected = sklearn_shrinkage(within, assume_centered=True) if shrinkage is None else shrinkage
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=float(expected)).fit(features.numpy(), labels.numpy())
    _same_direction(_fit(LDA(shrinkage), features), model.coef_[0])


@WIDTHS
def test_logistic_regression_points_where_scikit_learns_does_in_the_full_space(width: int) -> None:
    features, scaled, labels = _features(width)
    model = SklearnLogistic(C=2.0, class_weight="balanced", tol=1e-10, max_iter=10000).fit(
        scaled.numpy(), labels.numpy()
    )
    _same_direction(_fit(LogisticRegression(strength=2.0), features), model.coef_[0], tolerance=1e-5)


@WIDTHS
def test_the_svm_points_where_scikit_learns_does_in_the_full_space(width: int) -> None:
    features, scaled, labels = _features(width)
    model = SVC(C=2.0, kernel="linear", class_weight="balanced", tol=1e-8).fit(scaled.numpy(), labels.numpy())
    _same_direction(_fit(LinearSVM(strength=2.0), features), model.coef_[0], tolerance=1e-4)


def test_shrinkage_in_coordinates_of_the_span_is_that_of_the_whole_space() -> None:
    residuals = torch.randn(12, 40, dtype=torch.float64)
    coordinates = torch.linalg.qr(residuals.T)[1].T
    expected = sklearn_shrinkage(residuals.numpy(), assume_centered=True)
    assert ledoit_wolf_shrinkage(coordinates, 40) == pytest.approx(expected, rel=1e-10)
    assert ledoit_wolf_shrinkage(residuals, 40) == pytest.approx(expected, rel=1e-10)
    assert ledoit_wolf_shrinkage(torch.zeros(4, 3), 3) == 1.0


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_points_towards_the_concept(name: str) -> None:
    features, _, labels = _features(40)
    levels = features @ _fit(find_estimator(name), features)
    assert float(levels[labels == 1].mean()) > float(levels[labels == 0].mean())


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_is_the_same_in_few_dimensions_as_in_all(name: str) -> None:
    features, _, _ = _features(40)
    estimator = find_estimator(name)
    _same_direction(_fit(estimator, features), estimator.fit(features[:SHOWN], features[SHOWN:], 40).numpy(), 1e-4)


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_the_unit_of_the_features_does_not_change_the_direction(name: str, scale: float) -> None:
    features, _, _ = _features(10)
    estimator = find_estimator(name)
    _same_direction(_fit(estimator, scale * features), _fit(estimator, features).numpy(), 1e-6)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_features_that_never_change_give_no_direction(name: str) -> None:
    assert float(_fit(find_estimator(name), torch.full((SHOWN + ABSENT, 7), 2.0).double()).norm()) < 1e-6


def test_several_divisions_are_fitted_each_on_its_own() -> None:
    features, _, _ = _features(50)
    divisions = [(torch.tensor([0, 0, 3]), torch.tensor([20, 21])), (torch.tensor([5, 6]), torch.tensor([30, 31, 32]))]
    both = fit_directions(Ridge(), features, divisions)
    for direction, division in zip(both, divisions, strict=True):
        torch.testing.assert_close(direction, fit_directions(Ridge(), features, [division])[0])


def test_an_unknown_estimator_is_an_error_and_a_nameless_one_too() -> None:
    with pytest.raises(PellucidError, match="unknown estimator 'tree': difference, pattern, ridge"):
        find_estimator("tree")

    class Mine(DifferenceOfMeans):
        pass

    with pytest.raises(PellucidError, match="Mine is not in ESTIMATORS"):
        estimator_name(Mine())

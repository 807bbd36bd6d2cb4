"""Estimators of the direction that separates images of a concept from others."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from pellucid.errors import PellucidError
from pellucid.shapes import Float


@dataclass(frozen=True)
class Estimator(ABC):
    """From features of images with and without a concept to a direction that points towards the concept.

    Rotating the features rotates the direction: that is what lets `fit_directions` work in few dimensions. All but
    `DifferenceOfMeans` and `Pattern` scale the features as a whole so that the mean squared distance from the centre is
    1; their options then mean the same at every layer, and only the direction, not the length, of the result counts.

    To add an estimator, derive from this class, and put it into `ESTIMATORS` under a name.

    Example:
        >>> ESTIMATORS["ridge"](penalty=0.1).options()
        {'penalty': 0.1}
    """

    @abstractmethod
    def fit(
        self, positive: Float[Tensor, "P F"], negative: Float[Tensor, "M F"], dimensions: int
    ) -> Float[Tensor, " F"]:
        """Fit the direction.

        Args:
            positive: (n1, r) float64 features of images with the concept.
            negative: (n0, r) of images without it.
            dimensions: of the space the features came from, where directions outside their span count too.

        Returns:
            (r,) float64; the projection on it is larger for the concept.
        """

    def options(self) -> dict[str, object]:
        """Every option with its value."""
        return {item.name: getattr(self, item.name) for item in fields(self)}


@dataclass(frozen=True)
class DifferenceOfMeans(Estimator):
    """Mean with the concept minus mean without it: signed, not normalized; Visual-TCAV's reference.

    Example:
        >>> DifferenceOfMeans().fit(torch.tensor([[3.0, 1.0]]), torch.tensor([[1.0, 1.0]]), dimensions=2).tolist()
        [2.0, 0.0]
    """

    def fit(
        self, positive: Float[Tensor, "P F"], negative: Float[Tensor, "M F"], dimensions: int
    ) -> Float[Tensor, " F"]:
        """Fit the direction."""
        return positive.mean(0) - negative.mean(0)


@dataclass(frozen=True)
class Pattern(Estimator):
    """Pattern-CAV (Pahde et al., 2025): slope of the regression of the features on the label, cov(x, t) / var(t).

    For labels with two values that is the difference of the two means, which the formula shows and a test checks: the
    two estimators differ only in where they come from.
    """

    def fit(
        self, positive: Float[Tensor, "P F"], negative: Float[Tensor, "M F"], dimensions: int
    ) -> Float[Tensor, " F"]:
        """Fit the direction."""
        features, labels = _with_labels(positive, negative)
        centered = labels - labels.mean()
        return centered @ (features - features.mean(0)) / (centered @ centered)


@dataclass(frozen=True)
class Ridge(Estimator):
    """Linear regression of the label with a penalty on the squared length of the direction.

    Attributes:
        penalty: minimizes mean squared error + penalty x length^2.
    """

    penalty: float = 0.01

    def fit(
        self, positive: Float[Tensor, "P F"], negative: Float[Tensor, "M F"], dimensions: int
    ) -> Float[Tensor, " F"]:
        """Fit the direction."""
        features, labels = _with_labels(*_unit_scale(positive, negative))
        covariance = features.T @ features / len(features)
        slope = features.T @ (labels - labels.mean()) / len(features)
        penalized = covariance + self.penalty * torch.eye(len(covariance), dtype=covariance.dtype)
        return _solve(penalized, slope)


@dataclass(frozen=True)
class LDA(Estimator):
    """Linear discriminant: inverse of the shrunk covariance within classes times the difference of means.

    Attributes:
        shrinkage: of the covariance towards a multiple of the identity, in (0, 1]; None for Ledoit and Wolf's estimate
            of the best one (2004).
    """

    shrinkage: float | None = None

    def fit(
        self, positive: Float[Tensor, "P F"], negative: Float[Tensor, "M F"], dimensions: int
    ) -> Float[Tensor, " F"]:
        """Fit the direction."""
        positive, negative = _unit_scale(positive, negative)
        within = torch.cat([positive - positive.mean(0), negative - negative.mean(0)])
        shrinkage = ledoit_wolf_shrinkage(within, dimensions) if self.shrinkage is None else self.shrinkage
        covariance = within.T @ within / len(within)
        identity = torch.eye(len(covariance), dtype=within.dtype)
        mean_variance = float(covariance.trace()) / dimensions
        # A covariance of zero separates the classes in every direction: the difference of means is as good as any.
        shrunk = (1 - shrinkage) * covariance + shrinkage * mean_variance * identity if mean_variance else identity
        return _solve(shrunk, positive.mean(0) - negative.mean(0))


@dataclass(frozen=True)
class LogisticRegression(Estimator):
    """Logistic regression with both classes weighed alike (scikit-learn).

    Attributes:
        strength: scikit-learn's C, the inverse of the penalty.
    """

    strength: float = 1.0

    def fit(
        self, positive: Float[Tensor, "P F"], negative: Float[Tensor, "M F"], dimensions: int
    ) -> Float[Tensor, " F"]:
        """Fit the direction."""
        from sklearn.linear_model import LogisticRegression as Model

        features, labels = _with_labels(*_unit_scale(positive, negative))
        model = Model(C=self.strength, class_weight="balanced", max_iter=1000)
        return torch.tensor(model.fit(features.numpy(), labels.numpy()).coef_[0])


@dataclass(frozen=True)
class LinearSVM(Estimator):
    """Linear support vector machine, hinge loss, with both classes weighed alike (scikit-learn).

    Attributes:
        strength: scikit-learn's C, the inverse of the penalty.
    """

    strength: float = 1.0

    def fit(
        self, positive: Float[Tensor, "P F"], negative: Float[Tensor, "M F"], dimensions: int
    ) -> Float[Tensor, " F"]:
        """Fit the direction."""
        from sklearn.svm import SVC

        features, labels = _with_labels(*_unit_scale(positive, negative))
        model = SVC(C=self.strength, kernel="linear", class_weight="balanced")
        return torch.tensor(model.fit(features.numpy(), labels.numpy()).coef_[0])


ESTIMATORS: dict[str, type[Estimator]] = {
    "difference": DifferenceOfMeans,
    "pattern": Pattern,
    "ridge": Ridge,
    "lda": LDA,
    "logistic": LogisticRegression,
    "svm": LinearSVM,
}
"""Estimators of directions by name."""


def find_estimator(estimator: str | Estimator) -> Estimator:
    """Find the estimator of that name, with its default options; an estimator is returned as it is.

    Raises:
        PellucidError: no such name.

    Example:
        >>> find_estimator("lda")
        LDA(shrinkage=None)
    """
    if isinstance(estimator, Estimator):
        return estimator
    if estimator not in ESTIMATORS:
        raise PellucidError(f"unknown estimator {estimator!r}: {', '.join(ESTIMATORS)}")
    return ESTIMATORS[estimator]()


def estimator_name(estimator: Estimator) -> str:
    """Find the name under which `ESTIMATORS` has an estimator, so that a saved CAV can be fitted again.

    Raises:
        PellucidError: `ESTIMATORS` does not have its class.
    """
    names = [name for name, kind in ESTIMATORS.items() if kind is type(estimator)]
    if not names:
        raise PellucidError(f"{type(estimator).__name__} is not in ESTIMATORS; add it there under a name first")
    return names[0]


def fit_directions(
    estimator: Estimator, features: Float[Tensor, "R F"], divisions: Iterable[tuple[Tensor, Tensor]]
) -> Float[Tensor, "S F"]:
    """Fit directions to several divisions of the same images into two sides: resamples, splits, relabelings.

    All directions lie in the span of the n images' features, so they are fitted in n dimensions: once the features are
    rotated there, a fit costs milliseconds, whatever the layer's width.

    Args:
        estimator: the estimator.
        features: (n, F) float64.
        divisions: (indices with the concept, indices without it); indices may repeat.

    Returns:
        (L, F) float64.

    Example:
        >>> features = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 1.0]]).double()
        >>> fit_directions(ESTIMATORS["difference"](), features, [(torch.tensor([0, 1]), torch.tensor([2]))]).tolist()
        [[2.0, -1.0]]
    """
    count, dimensions = features.shape
    if dimensions <= count:
        return torch.stack([estimator.fit(features[a], features[b], dimensions) for a, b in divisions])
    basis, rotated = torch.linalg.qr(features.T)  # (F, n), (n, n)
    coordinates = rotated.T
    fitted = [estimator.fit(coordinates[a], coordinates[b], dimensions) for a, b in divisions]
    directions: Tensor = torch.stack(fitted) @ basis.T
    return directions


def ledoit_wolf_shrinkage(residuals: Tensor, dimensions: int) -> float:
    """Estimate the best shrinkage of a covariance towards a multiple of the identity (Ledoit and Wolf, 2004).

    Args:
        residuals: (n, r), centered; coordinates in a space of `dimensions` >= r, zero in the others.
        dimensions: of the whole space.

    Returns:
        In [0, 1]; 1 if the residuals are all zero.

    Example:
        >>> ledoit_wolf_shrinkage(torch.zeros(4, 2), dimensions=2)
        1.0
    """
    count = len(residuals)
    covariance = residuals.T @ residuals / count
    squared = float(covariance.square().sum())
    distance = squared - float(covariance.trace()) ** 2 / dimensions
    error = float(residuals.square().sum(1).square().sum()) / count**2 - squared / count
    return 1.0 if distance <= 0 else min(max(error / distance, 0.0), 1.0)


def _solve(matrix: Tensor, right: Tensor) -> Tensor:
    solution: Tensor = torch.linalg.solve(matrix, right)
    return solution


def _with_labels(positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    labels = torch.cat([torch.ones(len(positive)), torch.zeros(len(negative))]).double()
    return torch.cat([positive, negative]), labels


def _unit_scale(positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    """Both sides centered together and scaled to mean squared length 1."""
    both = torch.cat([positive, negative])
    center = both.mean(0)
    scale = (both - center).square().sum(1).mean().sqrt().clamp(min=torch.finfo(both.dtype).tiny)
    return (positive - center) / scale, (negative - center) / scale

"""Do codes say what factors are known to have been at work, each in a place of its own?

Each mark has its blind spot, so all are given: a rotation of good codes keeps the R2 and loses the rest; two codes for
one factor cost completeness, MIG and SAP and leave disentanglement alone; factors that hang together in the data lower
MIG and SAP, however clean the codes are.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import log

import torch
from torch import Tensor

from pellucid.errors import PellucidError

BINS, FOLDS = 20, 5

_PER_FOLD = 10


@dataclass(frozen=True)
class Alignment:
    """Codes against known factors. Mappings are from factor to its mark.

    Attributes:
        codes, factors: names.
        r2: of a linear regression on all codes, over rows it was not fitted to; 1 is all, 0 or less nothing.
        informativeness: the same of gradient-boosted trees (DCI).
        disentanglement: 1 where each code tells of one factor only (DCI), in [0, 1].
        completeness: 1 where each factor is predicted by one code only (DCI), in [0, 1].
        importance: (codes, factors), what each code counts in the trees; every factor's column sums to 1.
        gap: lead of the best code over the second in mutual information, as a share of the factor's entropy (MIG).
        separation: the same lead in the R2 of a linear regression on one code (SAP).
        rows, bins, folds, seed: that it was made with.
    """

    codes: tuple[str, ...]
    factors: tuple[str, ...]
    r2: Mapping[str, float]
    informativeness: Mapping[str, float]
    disentanglement: float
    completeness: float
    importance: tuple[tuple[float, ...], ...]
    gap: Mapping[str, float]
    separation: Mapping[str, float]
    rows: int
    bins: int
    folds: int
    seed: int

    @property
    def mig(self) -> float:
        """Mutual information gap: the mean over factors."""
        return sum(self.gap.values()) / len(self.gap)

    @property
    def sap(self) -> float:
        """Separated attribute predictability: the mean over factors."""
        return sum(self.separation.values()) / len(self.separation)


def alignment(
    codes: Tensor,
    factors: Tensor,
    code_names: Sequence[str],
    factor_names: Sequence[str],
    *,
    bins: int = BINS,
    folds: int = FOLDS,
    seed: int = 0,
) -> Alignment:
    """All marks of codes (N, D) against factors (N, K).

    Args:
        codes: what is measured; a constant column predicts nothing and may be there.
        factors: what is known.
        code_names, factor_names: D and K names.
        bins: of equal numbers of rows, for the mutual information.
        folds: of the cross-validation.
        seed: of folds and trees.

    Raises:
        PellucidError: fewer than two codes or factors, too few rows, a number that is not finite, a constant factor.
    """
    if (len(code_names), len(factor_names)) != (codes.shape[1], factors.shape[1]):
        raise PellucidError(
            f"{len(code_names)} and {len(factor_names)} names were given for {codes.shape[1]} codes and "
            f"{factors.shape[1]} factors; give one each"
        )
    importance, informed = boosted_importance(codes, factors, folds=folds, seed=seed)

    def by_factor(marks: Tensor) -> dict[str, float]:
        return dict(zip(factor_names, marks.tolist(), strict=True))

    return Alignment(
        codes=tuple(code_names),
        factors=tuple(factor_names),
        r2=by_factor(linear_r2(codes, factors, folds=folds, seed=seed)),
        informativeness=by_factor(informed),
        disentanglement=disentanglement(importance),
        completeness=completeness(importance),
        importance=tuple(map(tuple, importance.tolist())),
        gap=by_factor(mutual_information_gap(codes, factors, bins=bins)),
        separation=by_factor(separated_predictability(codes, factors)),
        rows=len(codes),
        bins=bins,
        folds=folds,
        seed=seed,
    )


def linear_r2(codes: Tensor, factors: Tensor, *, folds: int = FOLDS, seed: int = 0) -> Tensor:
    """R2 (K,) of each factor by least squares on all codes (N, D), each row predicted by a fit that never saw it."""
    from sklearn.linear_model import LinearRegression
    from sklearn.model_selection import KFold, cross_val_predict

    given, expected = _checked(codes, factors, folds)
    split = KFold(folds, shuffle=True, random_state=seed)
    result = cross_val_predict(LinearRegression(), given.numpy(), expected.numpy(), cv=split)
    return _r2(torch.from_numpy(result), expected)


def boosted_importance(codes: Tensor, factors: Tensor, *, folds: int = FOLDS, seed: int = 0) -> tuple[Tensor, Tensor]:
    """What each code counts for each factor in gradient-boosted trees, and how well these tell the factor.

    Source: Eastwood and Williams, "A Framework for the Quantitative Evaluation of Disentangled Representations", ICLR
    2018, with the impurity importances of scikit-learn's GradientBoostingRegressor (100 trees of depth 3).

    Returns:
        Importances (D, K), mean over the folds, columns sum to 1; and R2 (K,) on the rows that were left out.
    """
    from sklearn.ensemble import GradientBoostingRegressor
    from sklearn.model_selection import KFold

    given, expected = _checked(codes, factors, folds)
    importance, result = torch.zeros(given.shape[1], expected.shape[1]).double(), torch.empty_like(expected)
    x, y = given.numpy(), expected.numpy()
    for fitted, held_out in KFold(folds, shuffle=True, random_state=seed).split(x):
        for factor in range(y.shape[1]):
            trees = GradientBoostingRegressor(random_state=seed).fit(x[fitted], y[fitted, factor])
            importance[:, factor] += torch.from_numpy(trees.feature_importances_) / folds
            result[held_out, factor] = torch.from_numpy(trees.predict(x[held_out]))
    return importance, _r2(result, expected)


def disentanglement(importance: Tensor) -> float:
    """One minus the entropy (base K) of each code's share among the K factors, codes weighed by what they count.

    D of Eastwood and Williams (2018) for importance (D, K), in [0, 1]; codes that count for nothing weigh nothing.
    """
    return _concentration(importance)


def completeness(importance: Tensor) -> float:
    """One minus the entropy (base D) of each factor's share among the D codes, factors weighed by their importance.

    C of Eastwood and Williams (2018) for importance (D, K), in [0, 1].
    """
    return _concentration(importance.T)


def _concentration(importance: Tensor) -> float:
    if importance.ndim != 2 or min(importance.shape) < 2 or not bool((importance >= 0).all()):
        raise PellucidError(
            f"importances {tuple(importance.shape)} must be (codes, factors), two or more of each, and not negative"
        )
    own = importance.sum(1)
    counted = importance[own > 0] / own[own > 0, None]
    single = 1 - torch.special.entr(counted).sum(1) / log(importance.shape[1])
    return float(single @ own[own > 0] / own.sum()) if len(counted) else 0.0


def mutual_information(codes: Tensor, factors: Tensor, *, bins: int = BINS) -> Tensor:
    """Mutual information (D, K) in nats of codes (N, D) and factors (N, K), both cut into bins of equal numbers.

    Increasing maps of a column change nothing. It is the plug-in estimate: about (bins - 1)^2 / 2N too high for columns
    that have nothing to do with each other.
    """
    one, other = (_binned(columns, bins) for columns in _checked(codes, factors))
    rows = [torch.stack([_information(a, b, bins) for b in other.unbind(1)]) for a in one.unbind(1)]
    return torch.stack(rows)


def mutual_information_gap(codes: Tensor, factors: Tensor, *, bins: int = BINS) -> Tensor:
    """How far the best code is ahead of the second, (K,), in mutual information over the factor's entropy.

    Source: Chen et al., "Isolating Sources of Disentanglement in Variational Autoencoders", NeurIPS 2018.
    """
    best = mutual_information(codes, factors, bins=bins).topk(2, dim=0).values
    cut = _binned(_checked(codes, factors)[1], bins)
    entropy = torch.stack([_information(column, column, bins) for column in cut.unbind(1)])
    return (best[0] - best[1]) / entropy


def separated_predictability(codes: Tensor, factors: Tensor) -> Tensor:
    """How far the best code is ahead of the second, (K,), in the R2 of a line through one code.

    Source: Kumar et al., "Variational Inference of Disentangled Latent Concepts from Unlabeled Observations", ICLR
    2018, for continuous factors.
    """
    given, expected = _checked(codes, factors)
    one, other = (columns - columns.mean(0) for columns in (given, expected))
    spread = one.square().sum(0)[:, None] * other.square().sum(0)
    r2 = torch.where(spread > 0, (one.T @ other).square() / spread, 0.0)
    best = r2.topk(2, dim=0).values
    return best[0] - best[1]


def _r2(predicted: Tensor, true: Tensor) -> Tensor:
    """R2 (K,) of each column: 1 is perfect, 0 no better than the mean."""
    residual = (predicted - true).square().sum(0)
    return 1 - residual / (true - true.mean(0)).square().sum(0).clamp_min(1e-12)


def _binned(columns: Tensor, bins: int) -> Tensor:
    """The bin of each value, 0 .. bins - 1; equal values share one."""
    inner = torch.arange(1, bins, dtype=columns.dtype) / bins
    each = columns.T.contiguous()
    edges = torch.quantile(each, inner, dim=1).T.contiguous()  # (columns, bins - 1)
    return torch.searchsorted(edges, each).T


def _information(one: Tensor, other: Tensor, bins: int) -> Tensor:
    joint = torch.bincount(one * bins + other, minlength=bins * bins).double().view(bins, bins) / len(one)
    entropy: Callable[[Tensor], Tensor] = lambda share: torch.special.entr(share).sum()  # noqa: E731
    return entropy(joint.sum(0)) + entropy(joint.sum(1)) - entropy(joint)


def _checked(codes: Tensor, factors: Tensor, folds: int = 1) -> tuple[Tensor, Tensor]:
    """Both as float64 on the CPU."""
    if codes.ndim != 2 or factors.ndim != 2 or len(codes) != len(factors):
        raise PellucidError(
            f"codes {tuple(codes.shape)} and factors {tuple(factors.shape)} must be (N, codes) and (N, factors)"
        )
    if min(codes.shape[1], factors.shape[1]) < 2:
        raise PellucidError(
            f"{codes.shape[1]} codes and {factors.shape[1]} factors are too few: give two or more of each"
        )
    if len(codes) < _PER_FOLD * max(2, folds):
        raise PellucidError(f"{len(codes)} rows are too few: give {_PER_FOLD * max(2, folds)} or more")
    given, expected = (columns.detach().to("cpu", torch.float64) for columns in (codes, factors))
    if not bool(given.isfinite().all() & expected.isfinite().all()):
        raise PellucidError("codes or factors hold NaN or infinite values: leave those rows out")
    constant = (expected == expected[0]).all(0).nonzero().flatten().tolist()
    if constant:
        raise PellucidError(f"factor {constant[0]} (counted from 0) is constant, nothing can tell it: leave it out")
    return given, expected

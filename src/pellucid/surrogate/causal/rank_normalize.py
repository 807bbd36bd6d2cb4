"""Ranks as Gaussians: a learned concept has an arbitrary monotone scale, and a graph must not depend on it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pellucid.errors import PellucidError

Floats = NDArray[np.float64]

_QUANTILES = 201


def rank_gaussianize(values: ArrayLike) -> Floats:
    """Each column as standard normal scores of its ranks (nonparanormal); equal values share their mean rank.

    Source: Liu, Lafferty, Wasserman (2009). The score of rank r of N is the normal quantile of (r - 0.5) / N. Ties that
    are broken at random would add noise to a discrete column, so that it no longer explains away what it causes.

    Args:
        values: (N, K).

    Returns:
        (N, K), invariant to any increasing transformation of a column.

    >>> rank_gaussianize([[1.0], [100.0], [3.0]]).round(2).T
    array([[-0.97,  0.97,  0.  ]])
    """
    from scipy.special import ndtri
    from scipy.stats import rankdata

    table = np.asarray(values, dtype=np.float64)
    return np.asarray(ndtri((rankdata(table, axis=0) - 0.5) / len(table)), dtype=np.float64)


def subtract_class_means(values: Floats, labels: ArrayLike) -> Floats:
    """Each column (N, K) without the mean of its class.

    >>> subtract_class_means(np.array([[1.0], [3.0], [7.0]]), ["a", "a", "b"]).T
    array([[-1.,  1.,  0.]])
    """
    _, rows = np.unique(np.asarray(labels), return_inverse=True)
    sums = np.zeros((rows.max() + 1, values.shape[1]))
    np.add.at(sums, rows, values)
    return values - (sums / np.bincount(rows)[:, None])[rows]


@dataclass(frozen=True)
class Marginal:
    """The distribution of one node as a monotone map to a standard normal and back, linear beyond the data.

    Attributes:
        values: (Q,) increasing quantiles of the node, in its unit.
        normals: (Q,) the standard normal quantiles they stand at, increasing.

    >>> marginal = Marginal.fit([1.0, 2.0, 4.0])
    >>> marginal.to_normal(2.0), marginal.from_normal(0.0)
    (array(0.), array(2.))
    """

    values: Floats
    normals: Floats

    @classmethod
    def fit(cls, sample: ArrayLike) -> "Marginal":
        """The marginal of a sample (N,).

        Raises:
            PellucidError: The sample is constant.
        """
        from scipy.special import ndtri

        numbers = np.sort(np.asarray(sample, dtype=np.float64))
        count = min(_QUANTILES, len(numbers))
        shares = (np.arange(count) + 0.5) / count
        quantiles, first = np.unique(np.quantile(numbers, shares), return_index=True)
        if len(quantiles) < 2:
            raise PellucidError("a node of the graph is constant, so it has no effect to speak of: leave it out")
        return cls(quantiles, np.asarray(ndtri(shares[first]), dtype=np.float64))

    def to_normal(self, values: ArrayLike) -> Floats:
        """Values (...) in the node's unit as normal scores."""
        return _piecewise(np.asarray(values, dtype=np.float64), self.values, self.normals)

    def from_normal(self, normals: ArrayLike) -> Floats:
        """Normal scores (...) as values in the node's unit."""
        return _piecewise(np.asarray(normals, dtype=np.float64), self.normals, self.values)


def _piecewise(points: Floats, knots: Floats, heights: Floats) -> Floats:
    slopes = np.diff(heights) / np.diff(knots)
    piece = np.clip(np.searchsorted(knots, points) - 1, 0, len(slopes) - 1)
    return np.asarray(heights[piece] + slopes[piece] * (points - knots[piece]), dtype=np.float64)

"""Methods that hide parts of the activation and watch the score: Occlusion and RISE. No masks are ever kept whole."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pellucid.attribution.cases import Case
from pellucid.attribution.method import Attribution, Method
from pellucid.attribution.view import View
from pellucid.errors import PellucidError


def occlusion_windows(size: int, window: int, stride: int) -> list[tuple[int, int]]:
    """Windows [start, end) along an axis, cut at its ends.

    They begin stride * (window // stride - 1) cells before the axis, size // stride + window // stride - 1 of them, so
    that the ends are covered as often as the middle where the stride divides window and size; one more where these
    would leave the last cells uncovered.

    Args:
        size: cells along the axis.
        window: cells of a window.
        stride: cells from one window to the next, at most `window`.

    >>> occlusion_windows(6, window=4, stride=2)
    [(0, 2), (0, 4), (2, 6), (4, 6)]
    """
    before = stride * (window // stride - 1)
    count = max(1, size // stride + window // stride - 1)
    if stride * (count - 1) - before + window < size:
        count += 1
    starts = range(-before, stride * count - before, stride)
    return [(max(start, 0), min(start + window, size)) for start in starts]


@dataclass(frozen=True, kw_only=True)
class Occlusion(Method):
    """Fall of the score when a window is hidden, spread over the window (Zeiler & Fergus, 2014).

    Each window adds drop / (cells of the window inside the map) to each of these cells. Where the logits are affine in
    the activation, one gradient gives every drop exactly.

    Attributes:
        window, stride: side and step of the window in cells; by default 16 and 8 at the input, 5 and 2 elsewhere.
        fill: what hidden cells are set to.

    >>> import pellucid as pl
    >>> view = pl.load("digit_cnn").at("final")
    >>> pl.attribution.Occlusion(window=3)(view, torch.rand(2, 1, 32, 32), "7").values.shape
    torch.Size([2, 1, 8, 8])
    """

    window: int | None = None
    stride: int | None = None
    fill: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._window_and_stride("input")

    def _window_and_stride(self, layer: str) -> tuple[int, int]:
        window, stride = self.window, self.stride
        if window is None:
            window = 16 if layer == "input" else 5
        if stride is None:
            stride = max(1, window // 2)
        if not 1 <= stride <= window:
            raise PellucidError(f"occlusion at {layer!r} needs 1 <= stride <= window, not {stride} and {window}")
        return window, stride

    def needs_gradients(self, view: View) -> bool:
        """Where the logits are affine in the activation."""
        return view.is_affine

    def attribute(self, case: Case) -> Attribution:
        """Maps of one case."""
        height, width = case.activation.shape[2:]
        window, stride = self._window_and_stride(case.view.layer)
        rows, columns = occlusion_windows(height, window, stride), occlusion_windows(width, window, stride)
        if case.is_affine:
            evidence = ((case.activation - self.fill)[:, None] * case.gradients).sum(2)
            drops = _window_sums(evidence, rows, columns)
        else:
            drops = self._drops(case, rows, columns)
        areas = torch.tensor([[(b - a) * (d - c) for c, d in columns] for a, b in rows]).to(drops)
        return Attribution(_spread(drops / areas, rows, columns, height, width))

    def _drops(self, case: Case, down: list[tuple[int, int]], across: list[tuple[int, int]]) -> Tensor:
        """Fall of the score (N, T, windows down, windows across)."""
        drops = case.activation.new_empty(len(case), case.target_count, len(down) * len(across))
        for rows, windows in case.perturbed_batches(len(down) * len(across)):
            hidden = case.activation[rows]
            for activation, window in zip(hidden, windows.tolist(), strict=True):
                (top, bottom), (left, right) = down[window // len(across)], across[window % len(across)]
                activation[:, top:bottom, left:right] = self.fill
            drops[rows, :, windows] = case.scores[rows] - case.score(hidden, rows)
        return drops.reshape(*drops.shape[:2], len(down), len(across))


def _membership(windows: list[tuple[int, int]], size: int) -> Tensor:
    """(windows, size) matrix of ones where a cell lies in a window."""
    cells = torch.arange(size)
    return torch.stack([(cells >= start) & (cells < end) for start, end in windows]).float()


def _window_sums(maps: Tensor, rows: list[tuple[int, int]], columns: list[tuple[int, int]]) -> Tensor:
    """(N, T, h, w) -> sums over every window (N, T, rows, columns)."""
    down, across = _membership(rows, maps.shape[2]).to(maps), _membership(columns, maps.shape[3]).to(maps)
    return down @ maps @ across.T


def _spread(
    values: Tensor, rows: list[tuple[int, int]], columns: list[tuple[int, int]], height: int, width: int
) -> Tensor:
    """Add each window's value (N, T, rows, columns) to all cells of the window."""
    return _membership(rows, height).to(values).T @ values @ _membership(columns, width).to(values)


@dataclass(frozen=True)
class _MaskAxis:
    """Bilinear interpolation of the coarse mask cells along one axis, before the random shift."""

    weights: Tensor  # (length, cells)
    size: int

    @property
    def shifts(self) -> int:
        """Shifts of one coarse cell; the interpolated mask has one cell to spare."""
        return math.ceil(self.size / self.weights.shape[1])


def _mask_axis(size: int, cells: int) -> _MaskAxis:
    """Order-1 interpolation with reflected ends from `cells` to (cells + 1) * ceil(size / cells) points."""
    length = (cells + 1) * math.ceil(size / cells)
    position = (torch.arange(length, dtype=torch.float64) + 0.5) * cells / length - 0.5
    low = position.floor()
    weights = torch.zeros(length, cells, dtype=torch.float64)
    for offset, weight in ((0, 1 - (position - low)), (1, position - low)):
        index = (low + offset).long().abs()
        index = torch.where(index >= cells, 2 * (cells - 1) - index, index).clamp(0, cells - 1)
        weights[torch.arange(length), index] += weight
    return _MaskAxis(weights.float(), size)


def rise_masks(count: int, height: int, width: int, *, cells: int, keep: float, seed: int) -> "_Masks":
    """The masks of RISE: `masks[indices]` makes (r, h, w) of them in [0, 1], always the same for the same seed.

    Args:
        count: number of masks.
        height: of the map, in its cells.
        width: of the map.
        cells: side of the coarse grid that masks are drawn on.
        keep: chance that a coarse cell is kept.
        seed: of the masks.

    >>> masks = rise_masks(100, 8, 8, cells=4, keep=0.5, seed=0)
    >>> masks[torch.tensor([3, 5])].shape
    torch.Size([2, 8, 8])
    """
    return _Masks(count, _mask_axis(height, cells), _mask_axis(width, cells), cells, keep, seed)


class _Masks:
    """Random masks kept as coarse cells and shifts; only those asked for are interpolated."""

    def __init__(self, count: int, down: _MaskAxis, across: _MaskAxis, cells: int, keep: float, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self._coarse = (torch.rand(count, cells, cells, generator=generator) < keep).float()
        self._tops = torch.randint(down.shifts, (count,), generator=generator)
        self._lefts = torch.randint(across.shifts, (count,), generator=generator)
        self._down, self._across = down, across

    def __getitem__(self, indices: Tensor) -> Tensor:
        rows = self._tops[indices][:, None] + torch.arange(self._down.size)
        columns = self._lefts[indices][:, None] + torch.arange(self._across.size)
        return self._down.weights[rows] @ self._coarse[indices] @ self._across.weights[columns].transpose(1, 2)


@dataclass(frozen=True, kw_only=True)
class RISE(Method):
    """Mean of random masks weighed by the score of what they let through (Petsiuk et al., 2018).

    The mean is divided by the chance of being kept.
    Where the logits are affine in the activation, those of every masked activation follow from one pass per cell.

    Attributes:
        masks: number of random masks.
        cells: side of the coarse grid that masks are drawn on.
        keep: chance that a coarse cell is kept.
        output: "probability" of the target's class, or "target", the score that is explained.
        seed: of the masks; they are the same for all images of one size.

    >>> import pellucid as pl
    >>> view = pl.load("digit_cnn").at("final")
    >>> pl.attribution.RISE(masks=20)(view, torch.rand(2, 1, 32, 32), "7").values.shape
    torch.Size([2, 1, 8, 8])
    """

    masks: int = 1000
    cells: int = 6
    keep: float = 0.1
    output: Literal["probability", "target"] = "probability"
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.masks < 1 or self.cells < 1 or not 0 < self.keep < 1 or self.output not in ("probability", "target"):
            raise PellucidError(
                "RISE needs masks >= 1, cells >= 1, 0 < keep < 1 and output probability or target, not "
                f"masks={self.masks}, cells={self.cells}, keep={self.keep}, output={self.output!r}"
            )

    @property
    def signed(self) -> bool:
        """Probabilities are >= 0, and so are the maps."""
        return self.output == "target"

    def attribute(self, case: Case) -> Attribution:
        """Maps of one case."""
        height, width = case.activation.shape[2:]
        masks = rise_masks(self.masks, height, width, cells=self.cells, keep=self.keep, seed=self.seed)
        target = case.target.as_probability() if self.output == "probability" else case.target
        sums = case.activation.new_zeros(len(case), case.target_count, height, width)
        for image in range(len(case)):
            logits_of = _masked_logits(case, image, self.masks)
            for indices in torch.split(torch.arange(self.masks), case.budget.rows("forward")):
                batch = masks[indices].to(sums)
                scores = target.scores(logits_of(batch), torch.full_like(indices, image))
                sums[image] += torch.einsum("rt,rhw->thw", scores, batch)
        return Attribution(sums / (self.masks * self.keep))


def _masked_logits(case: Case, image: int, count: int) -> Callable[[Tensor], Tensor]:
    """A function from masks (r, h, w) to the logits of the masked activation of one image."""
    activation = case.activation[image]
    cells = activation.shape[1] * activation.shape[2]

    def run(masks: Tensor) -> Tensor:
        with torch.no_grad():
            return case.logits(activation * masks[:, None], torch.full((len(masks),), image))

    if not case.view.is_affine or cells >= count:
        return run
    of_empty = run(activation.new_zeros(1, *activation.shape[1:]))
    single_cells = torch.eye(cells, dtype=activation.dtype, device=activation.device).reshape(
        cells, *activation.shape[1:]
    )
    of_cells = (
        torch.cat([run(masks) for masks in torch.split(single_cells, case.budget.rows("forward"))]) - of_empty
    )  # (h w, K)
    return lambda masks: of_empty + torch.tensordot(masks.flatten(1), of_cells, dims=1)

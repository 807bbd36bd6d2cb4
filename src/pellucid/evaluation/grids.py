"""Sets of grid images: which images may be used, which cell each goes to, and the manifest that says so."""

import os
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pellucid.errors import PellucidError
from pellucid.evaluation.localization import Grid, grid_shape
from pellucid.storage import RecordError, read_record, write_record

_FORMAT = "pellucid grid set"
_VERSION = 1
_ATTEMPTS = 10


class GridSetError(PellucidError):
    """Too few images or classes for the grids asked for, or a manifest that is none."""


@dataclass(frozen=True, order=True)
class Candidate:
    """An image that may go into a cell: its class index, its file, and the model's confidence in the class."""

    label: int
    path: str
    confidence: float = 1.0


@dataclass(frozen=True)
class GridSet:
    """The manifest of a set of grids.

    Attributes:
        grid: (rows, columns).
        same_class: True for DiFull and DiPart, where the last cell has another image of the first cell's class; False
            for GridPG, where all classes of a grid differ.
        seed: of the draw.
        cells: for every grid its images, row by row.
        options: how the pool was made (models, threshold, folder), as the caller tells it; JSON values.
    """

    grid: tuple[int, int]
    same_class: bool
    seed: int
    cells: tuple[tuple[Candidate, ...], ...]
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for index, row in enumerate(self.cells):
            self._check(index, row)

    def __len__(self) -> int:
        return len(self.cells)

    @property
    def labels(self) -> Tensor:
        """(grids, cells) class indices."""
        return torch.tensor([[cell.label for cell in row] for row in self.cells]).reshape(len(self), -1)

    @property
    def evaluated_cells(self) -> tuple[int, ...]:
        """The cells whose attributions are scored: all of them, or with a same-class pair its two corners."""
        count = self.grid[0] * self.grid[1]
        return (0, count - 1) if self.same_class else tuple(range(count))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the manifest as JSON, whole or not at all."""
        write_record(path, self, kind=_FORMAT, version=_VERSION)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> "GridSet":
        """Read a manifest; `GridSetError` if it is none, of another version, or breaks the rules of its kind."""
        try:
            return read_record(path, GridSet, kind=_FORMAT, version=_VERSION)
        except RecordError as error:
            raise GridSetError(f"{path} is not a manifest of grids ({error})") from error

    def _check(self, index: int, row: Sequence[Candidate]) -> None:
        count = self.grid[0] * self.grid[1]
        labels = [cell.label for cell in row]
        if len(row) != count or len({cell.path for cell in row}) != count:
            raise GridSetError(f"grid {index} has {[cell.path for cell in row]}; expected {count} different images")
        if len(set(labels)) != count - self.same_class or (self.same_class and labels[-1] != labels[0]):
            rule = "only the last is that of the first" if self.same_class else "all differ"
            raise GridSetError(f"grid {index} has classes {labels}; expected classes of which {rule}")


def candidate_pool(
    paths: Sequence[str], labels: Sequence[int], logits: Tensor, threshold: float = 0.99
) -> tuple[Candidate, ...]:
    """The images that a model classifies correctly with a softmax probability of at least `threshold`.

    Args:
        paths: N files.
        labels: N true class indices.
        logits: (N, K) of the model.
        threshold: 0.99 in Rao et al., CVPR 2022.

    Raises:
        GridSetError: the numbers of files, labels and logits differ, or logits are not finite.

    >>> candidate_pool(["a.png", "b.png"], [0, 1], torch.tensor([[9.0, 0.0], [2.0, 0.0]]))
    (Candidate(label=0, path='a.png', confidence=0.999...),)
    """
    if logits.ndim != 2 or not len(paths) == len(labels) == len(logits):
        raise GridSetError(f"{len(paths)} files, {len(labels)} labels and logits {tuple(logits.shape)} do not fit")
    if not bool(logits.isfinite().all()):
        raise GridSetError("the model's logits hold NaN or infinite values; its confidence is not defined")
    confidence, predicted = logits.double().softmax(1).max(1)
    rows = zip(paths, labels, confidence.tolist(), predicted.tolist(), strict=True)
    return tuple(
        Candidate(int(label), str(path), sure)
        for path, label, sure, guess in rows
        if guess == label and sure >= threshold
    )


def common_pool(pools: Sequence[Sequence[Candidate]]) -> tuple[Candidate, ...]:
    """The images in the pool of every model, each with its least confidence: for paired comparison of models.

    >>> one, other = [Candidate(0, "a.png", 0.99)], [Candidate(0, "a.png", 0.97), Candidate(1, "b.png")]
    >>> common_pool([one, other])
    (Candidate(label=0, path='a.png', confidence=0.97),)
    """
    if not pools:
        raise GridSetError("no pools to intersect; give one per model")
    tables = [_by_path(pool) for pool in pools]
    shared = [[table[path] for table in tables] for path in tables[0] if all(path in table for table in tables)]
    for same in shared:
        if len({candidate.label for candidate in same}) > 1:
            raise GridSetError(f"{same[0].path} has classes {sorted({c.label for c in same})} in different pools")
    return tuple(Candidate(same[0].label, same[0].path, min(c.confidence for c in same)) for same in shared)


def distinct_grids(
    pool: Iterable[Candidate], n: Grid = 2, grids: int = 500, *, seed: int = 0, options: Mapping[str, Any] | None = None
) -> GridSet:
    """The grids of GridPG: every cell another class, every image at most once in the whole set.

    Classes are drawn uniformly from those with an unused image, except where only the largest classes leave enough
    for the grids to come: whenever the pool suffices, the set is found. Source: Rao et al., CVPR 2022, section 3.

    Args:
        pool: images that may be used; their order does not matter.
        n: n for n x n cells, or (rows, columns).
        grids: how many.
        seed: of the draw.
        options: kept in the manifest.

    Raises:
        GridSetError: too few classes or images; the message says how many of what are missing.

    >>> pool = [Candidate(label, f"{label}.png") for label in range(8)]
    >>> grids = distinct_grids(pool, n=2, grids=2)
    >>> len(grids), grids.evaluated_cells, grids.labels.shape
    (2, (0, 1, 2, 3), torch.Size([2, 4]))
    """
    shape, rng = grid_shape(n), random.Random(seed)
    count = shape[0] * shape[1]
    rows = _draw_rows(_shuffled(pool, grids, count, rng), [None] * grids, count, rng)
    return GridSet(shape, False, seed, tuple(map(tuple, rows)), options or {})


def same_class_grids(
    pool: Iterable[Candidate],
    n: Grid = 2,
    grids: int = 1000,
    *,
    reuse: bool = False,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
) -> GridSet:
    """The grids of DiFull and DiPart: distinct classes, but the last cell has another image of the first one's class.

    The corners are drawn first, uniformly over classes with two unused images; then the other cells as in
    `distinct_grids`. No image is in two corners. Where nearly the whole pool is used up the draw may end early; it is
    then tried again a few times.

    Args:
        pool: as in `distinct_grids`, and so the errors.
        n: rows and columns of a grid.
        grids: how many.
        seed: of the draw.
        options: as in `distinct_grids`.
        reuse: let images of the other cells recur in other grids (the rule for CIFAR-10); otherwise every image
            is used at most once in the whole set.

    >>> pool = [Candidate(label, f"{label}-{number}.png") for label in range(3) for number in range(2)]
    >>> labels = same_class_grids(pool, n=2, grids=1).labels[0].tolist()
    >>> labels[0] == labels[3], len(set(labels))
    (True, 3)
    """
    shape, rng = grid_shape(n), random.Random(seed)
    count = shape[0] * shape[1]
    if count < 2:
        raise GridSetError("a same-class pair needs two cells; with one cell every setting is the classifier itself")
    everything = _shuffled(pool, grids, count - 1, rng)
    for _ in range(_ATTEMPTS):
        with suppress(GridSetError):
            return GridSet(shape, True, seed, _draw_same_class(everything, grids, count, reuse, rng), options or {})
    return GridSet(shape, True, seed, _draw_same_class(everything, grids, count, reuse, rng), options or {})


_Pool = dict[int, list[Candidate]]


def _shuffled(pool: Iterable[Candidate], grids: int, needed: int, rng: random.Random) -> _Pool:
    """Images by class, in an order that depends on the seed alone; at least `needed` classes."""
    classes: _Pool = {}
    for candidate in sorted(_by_path(pool).values()):
        classes.setdefault(candidate.label, []).append(candidate)
    if grids < 1:
        raise GridSetError(f"{grids} grids were asked for; at least 1 is needed")
    if len(classes) < needed:
        missing = f"{needed - len(classes)} classes are missing"
        raise GridSetError(f"a grid needs images of {needed} classes; the pool has {len(classes)}: {missing}")
    for images in classes.values():
        rng.shuffle(images)
    return classes


def _by_path(pool: Iterable[Candidate]) -> dict[str, Candidate]:
    listed = list(pool)
    twice = [path for path, times in Counter(candidate.path for candidate in listed).items() if times > 1]
    if twice:
        raise GridSetError(f"{len(twice)} images are in the pool more than once, such as {twice[0]}")
    return {candidate.path: candidate for candidate in listed}


def _draw_rows(unused: _Pool, avoided: Sequence[int | None], count: int, rng: random.Random) -> list[list[Candidate]]:
    """For every grid `count` images of distinct classes, none of its avoided class; they leave `unused`."""
    _check_images(unused, len(avoided), count)
    rows = []
    for done, avoid in enumerate(avoided):
        free = sorted(label for label, images in unused.items() if images and label != avoid)
        if len(free) < count:
            raise GridSetError(
                f"the draw ended at grid {done} of {len(avoided)}: of the classes with unused images "
                f"{count - len(free)} are missing there. Add images, or ask for {done} grids"
            )
        first = rng.sample(*_due(unused, free, len(avoided) - done, count))
        labels = first + rng.sample([label for label in free if label not in first], count - len(first))
        rng.shuffle(labels)
        rows.append([unused[label].pop() for label in labels])
    return rows


def _due(unused: _Pool, free: Sequence[int], left: int, count: int) -> tuple[list[int], int]:
    """The classes with an image for each of the grids left, and how many of them the next grid must take.

    The grids left can be filled while the sum over classes of min(images, left) is at least left * count. In the next
    step every class with `left` images or more loses one from that sum whether it is taken or not.
    """
    spare = sum(min(len(images), left) for images in unused.values()) - left * count
    losing = sum(len(images) >= left for images in unused.values())
    large = [label for label in free if len(unused[label]) >= left]
    return large, min(max(losing - spare, 0), len(large), count)


def _draw_same_class(
    everything: _Pool, grids: int, count: int, reuse: bool, rng: random.Random
) -> tuple[tuple[Candidate, ...], ...]:
    unused = {label: list(images) for label, images in everything.items()}
    corners = _draw_corners(unused, grids, rng)
    taken = [first.label for first, _ in corners]
    if reuse:
        between = [_draw_again(everything, label, count - 2, rng) for label in taken]
    else:
        between = _draw_rows(unused, taken, count - 2, rng)
    return tuple((first, *middle, last) for (first, last), middle in zip(corners, between, strict=True))


def _draw_corners(unused: _Pool, grids: int, rng: random.Random) -> list[tuple[Candidate, Candidate]]:
    pairs = sum(len(images) // 2 for images in unused.values())
    if pairs < grids:
        shortage = f"the pool has {pairs}: {grids - pairs} pairs are missing"
        raise GridSetError(
            f"{grids} grids with a same-class pair need {grids} pairs of images of one class; {shortage}"
        )
    corners = []
    for _ in range(grids):
        drawn = unused[rng.choice(sorted(label for label, images in unused.items() if len(images) >= 2))]
        corners.append((drawn.pop(), drawn.pop()))
    return corners


def _draw_again(pool: _Pool, avoid: int, count: int, rng: random.Random) -> list[Candidate]:
    labels = rng.sample(sorted(label for label in pool if label != avoid), count)
    return [rng.choice(pool[label]) for label in labels]


def _check_images(pool: _Pool, grids: int, count: int) -> None:
    """Whether `grids` rows of `count` distinct classes exist: a class can serve each grid once."""

    def usable(rows: int) -> int:
        return sum(min(len(images), rows) for images in pool.values())

    missing = grids * count - usable(grids)
    if missing > 0:
        possible = next(rows for rows in range(grids, -1, -1) if usable(rows) >= rows * count)
        raise GridSetError(
            f"{grids} grids with {count} distinct classes need {grids * count} unused images, at most {grids} of a "
            f"class; the pool has {usable(grids)}: {missing} are missing. It suffices for {possible} grids"
        )

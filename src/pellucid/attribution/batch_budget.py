"""Images in batches: how many rows may go through the network at once, in rows and on request in bytes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pellucid.attribution.targets import TargetLike, select_targets
from pellucid.attribution.view import View, rows_per_image
from pellucid.errors import PellucidError
from pellucid.results import Passes

Part = Literal["prefix", "forward", "gradient"]


class BatchBudget:
    """Bounds on the rows of one pass, so that rows x (bytes of one row) <= `max_bytes`.

    The bytes of one row are measured, not guessed: one image goes through that part of the network while the tensors
    alive are added up (see `peak_bytes`), so traced and replayed networks, precisions and devices are alike. Nothing is
    measured without `max_bytes`. Images, their activation and the results of a method come on top.

    Args:
        view: the classifier seen from a layer.
        image: (1, C, H, W), one of the images that will be explained.
        targets: how many targets are explained for every image.
        max_batch: most rows in one pass; of a grid setting, whose rows hold several cells, most cells.
        max_bytes: most bytes that the tensors of one pass may take; None for no bound.

    Attributes:
        passes: what measuring has cost so far.

    >>> import pellucid as pl
    >>> view = pl.load("digit_cnn").at("final")
    >>> budget = BatchBudget(view, torch.rand(1, 1, 32, 32), max_bytes=200_000)
    >>> budget.rows("forward") > budget.rows("gradient") >= 1
    True
    """

    def __init__(
        self, view: View, image: Tensor, *, targets: int = 1, max_batch: int = 16, max_bytes: int | None = None
    ) -> None:
        self.view = view
        self.image = image
        self.targets = targets
        self._prefix_rows, self._suffix_rows = rows_per_image(view)
        self.max_batch = max(1, max_batch // self._suffix_rows)
        self.max_bytes = max_bytes
        self.passes = self._claimed = Passes()
        self._measured: dict[Part, int] = {}

    def claim_passes(self) -> Passes:
        """What measuring has cost since this was last called."""
        passes, self._claimed = self.passes - self._claimed, self.passes
        return passes

    def rows(self, *parts: Part) -> int:
        """Rows that may go at once through each of these parts of the network.

        Args:
            parts: "prefix", the part before the layer; "forward", the part after it without gradients; "gradient", the
                part after it there and back.

        Raises:
            PellucidError: `max_bytes` is too small for one row.
        """
        if self.max_bytes is None:
            return self.max_batch
        return self._rows_that_fit(max(map(self.row_bytes, parts)), "one row")

    def images(self, *, differentiate: bool) -> int:
        """Images that one `Case` may hold.

        With T targets their gradients (N, T, C, h, w) are kept together, so N is at most `max_batch` / T, or 1.

        Raises:
            PellucidError: `max_bytes` is too small for one image.
        """
        max_images = max(1, self.max_batch // self.targets)
        if self.max_bytes is None:
            return max_images
        after = self.row_bytes("forward")
        if differentiate:
            after = self.row_bytes("gradient") + self.targets * self._activation.nbytes
        subject = f"one image with {self.targets} targets" if self.targets > 1 else "one image"
        return min(max_images, self._rows_that_fit(max(self.row_bytes("prefix"), after), subject))

    def _rows_that_fit(self, needed: int, subject: str) -> int:
        assert self.max_bytes is not None
        if needed > self.max_bytes:
            raise PellucidError(
                f"max_bytes={self.max_bytes} is too small: {subject} at layer {self.view.layer!r} takes about {needed} "
                "bytes; raise max_bytes to that, take a later layer, fewer targets or smaller images"
            )
        return min(self.max_batch, self.max_bytes // max(1, needed))

    def row_bytes(self, part: Part) -> int:
        """Bytes that one row takes in a part of the network; measured when first asked for."""
        if not self._measured:
            self._measured["prefix"] = peak_bytes(self._run_prefix)
        if part not in self._measured:
            self._measured[part] = peak_bytes(self._run_forward if part == "forward" else self._run_gradient)
        return self._measured[part]

    def _run_prefix(self) -> None:
        self.passes += Passes(prefix_forward=self._prefix_rows)
        self._activation = self.view.activation(self.image)

    def _run_forward(self) -> None:
        self.passes += Passes(suffix_forward=self._suffix_rows)
        with torch.no_grad():
            self.view.logits(self._activation.clone(), self._activation.side_inputs)

    def _run_gradient(self) -> None:
        self.passes += Passes(suffix_forward=self._suffix_rows, suffix_backward=self._suffix_rows)
        with torch.enable_grad():
            leaf = self._activation.clone().requires_grad_()
            logits = self.view.logits(leaf, self._activation.side_inputs)
        if logits.requires_grad:
            torch.autograd.grad(logits.sum(), leaf, allow_unused=True)


class Bounded(Protocol):
    """What limits the batches of whoever explains: every `Method`, and `BatchLimits`."""

    @property
    def max_batch(self) -> int:
        """Most rows that go through the network at once."""

    @property
    def max_bytes(self) -> int | None:
        """Most bytes that the tensors of one pass may take."""

    def needs_gradients(self, view: View) -> bool:
        """Whether `case.gradients` will be asked for."""


@dataclass(frozen=True, kw_only=True)
class BatchLimits:
    """Limits of a batch for callers that are no `Method`.

    Attributes:
        max_batch: most rows that go through the network at once.
        max_bytes: most bytes that the tensors of one pass may take; None for no bound.
        gradients: whether `case.gradients` will be asked for.

    >>> BatchLimits(max_batch=8).max_batch
    8
    """

    max_batch: int = 16
    max_bytes: int | None = None
    gradients: bool = False

    def needs_gradients(self, view: View) -> bool:
        """As the option says."""
        return self.gradients


@dataclass(frozen=True, eq=False)
class ImageBatch:
    """Some of the images that are explained: as many as may go through the network together.

    Attributes:
        images: (n, C, H, W).
        target: of these images.
        offset: index of the first.
        total: how many images there are in all.

    >>> ImageBatch(torch.zeros(4, 3, 8, 8), 1, offset=8, total=20).rows
    slice(8, 12, None)
    """

    images: Tensor
    target: TargetLike
    offset: int
    total: int

    @property
    def rows(self) -> slice:
        """Where the images stand among all."""
        return slice(self.offset, self.offset + len(self.images))


def image_batches(
    budgets: Sequence[BatchBudget], images: Tensor, target: TargetLike, *, differentiate: bool
) -> Iterator[ImageBatch]:
    """Split images, with their targets, into batches that the strictest of the budgets allows.

    Nothing computed under inference mode can be differentiated, not even the user's images: the loop leaves it, and
    copies images that were made under it. What the caller does with a batch must leave it, too.

    Args:
        budgets: one for each layer that the images are explained at.
        images: (N, C, H, W) in the classifier's own input space.
        target: as `Method.__call__` takes it.
        differentiate: whether gradients of all targets will be kept (see `BatchBudget.images`).

    Yields:
        Consecutive images.

    Raises:
        PellucidError: no images, or a budget too small for one.
        TargetError: a tensor of targets that has not one row for each image.

    >>> import pellucid as pl
    >>> view = pl.load("digit_cnn").at("final")
    >>> images = torch.rand(20, 1, 32, 32)
    >>> batches = image_batches([BatchBudget(view, images[:1], targets=2)], images, ["3", "7"], differentiate=True)
    >>> [len(batch.images) for batch in batches]
    [8, 8, 4]
    """
    if not isinstance(images, Tensor):
        raise PellucidError(f"images are a {type(images).__name__}; give a tensor (N, C, H, W), see classifier.read")
    total = len(images)
    if not total:
        raise PellucidError("no images to explain: the batch is empty")
    # Not entered around a yield: the caller's code between two batches keeps its own mode.
    with torch.inference_mode(False):
        images = images.clone() if images.is_inference() else images
        size = min(budget.images(differentiate=differentiate) for budget in budgets)
        slices = [slice(start, min(start + size, total)) for start in range(0, total, size)]
        batches = [images[rows] for rows in slices]
    for rows, batch in zip(slices, batches, strict=True):
        yield ImageBatch(batch, select_targets(target, rows, total), rows.start, total)


def peak_bytes(run: Callable[[], object]) -> int:
    """Most bytes of tensors made by `run()` that were alive together.

    Every operation is seen, those of the backward pass too. Tensors made before, such as weights, and scratch memory
    inside an operation do not count.

    >>> x = torch.ones(1000)  # made before: does not count
    >>> peak_bytes(lambda: (x + 1) * 2)
    8000
    """
    ledger = _Ledger()
    with ledger:
        run()
    return ledger.peak


class _Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the memory of the tensors that operations return, for as long as something holds it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._alive: dict[int, _Storage] = {}
        self._older: dict[int, _Storage] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        for storage in _storages((args, kwargs)):
            if storage.key not in self._alive:
                self._older[storage.key] = storage
        result = func(*args, **(kwargs or {}))
        self._alive |= {storage.key: storage for storage in _storages(result) if storage.key not in self._older}
        self._alive = {key: storage for key, storage in self._alive.items() if not storage.is_freed}
        self.peak = max(self.peak, sum(storage.nbytes for storage in self._alive.values()))
        return result


class _Storage:
    """A tensor's memory, watched without being kept; its key stays its own for as long as it is watched."""

    def __init__(self, tensor: Tensor) -> None:
        self._watched: Any = StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]
        self.key: int = self._watched.cdata
        self.nbytes = tensor.untyped_storage().nbytes()

    @property
    def is_freed(self) -> bool:
        return bool(self._watched.expired())


def _storages(tree: Any) -> list[_Storage]:
    return [_Storage(leaf) for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]

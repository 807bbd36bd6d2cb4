"""THE loop over batches: images at a layer as cases, each with what all methods share run once and accounted for."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property

import torch
from torch import Tensor

from pellucid.attribution.batch_budget import BatchBudget, Bounded, ImageBatch, Part, image_batches
from pellucid.attribution.targets import ResolvedTarget, TargetLike, count_targets, resolve_target
from pellucid.attribution.view import View, as_multi_head, rows_per_image, select_heads
from pellucid.classifiers import Activation
from pellucid.errors import ModelError, PellucidError
from pellucid.results import Passes
from pellucid.shapes import Float, Int


class Case:
    """Images at a layer with targets; runs the part before the layer once and counts what is run after it.

    Every method can be asked to explain one case, so that the activation and its gradient are computed once for all.
    `gradients` keeps N x T gradients of one activation, so whoever makes cases keeps N small (`BatchBudget.images`);
    everything else is computed in passes of at most `budget.rows` rows, and gradients there are handed out target by
    target. Cases are made by `iterate_cases`, which keeps N small.

    Args:
        view: the classifier seen from a layer.
        images: (N, C, H, W); all of them go through the prefix, and once through the suffix, together.
        target: anything that `Target.classes` takes, or a `Target`.
        activation: of these images at this layer, where it is known; then the prefix is neither run nor counted.
        differentiate: keep the first forward's graph for `gradients`.
        budget: bounds on the rows of one pass; by default 16 rows.
        offset, total: where the images stand in a longer batch: the index of the first, and its length.

    Attributes:
        activation: (N, C, h, w), detached.
        view: without the heads that the target does not name.
        all_logits: (N, K) or (N, heads, K), detached.
        target: the target, looked up for these images.
        scores: (N, T) the explained numbers.
        passes: what has been run so far, the measuring of the budget apart.

    Raises:
        ModelError: the network gives NaN or infinite logits.
        TargetError: no such class.

    >>> import pellucid as pl
    >>> view = pl.load("digit_cnn").at("final")
    >>> case = pl.attribution.Case(view, torch.rand(2, 1, 32, 32), ["3", "7"])
    >>> case.activation.shape, case.scores.shape, case.gradients.shape
    (torch.Size([2, 64, 8, 8]), torch.Size([2, 2]), torch.Size([2, 2, 64, 8, 8]))
    >>> case.passes
    Passes(prefix_forward=2, suffix_forward=4, suffix_backward=4, network_forward=0)
    """

    def __init__(
        self,
        view: View,
        images: Tensor,
        target: TargetLike = None,
        *,
        activation: Activation | None = None,
        differentiate: bool = False,
        budget: BatchBudget | None = None,
        offset: int = 0,
        total: int | None = None,
    ) -> None:
        self.view = view = select_heads(view, target)
        self._multi_head = as_multi_head(view)
        self.images = images
        self.budget = budget or BatchBudget(view, images[:1], targets=count_targets(target))
        self.offset, self.total = offset, len(images) if total is None else total
        prefix_rows, self._suffix_rows = rows_per_image(view)
        self.passes = Passes(prefix_forward=len(images) * prefix_rows if activation is None else 0)
        self._claimed = Passes()
        self.activation = view.activation(images) if activation is None else activation
        self.rows = torch.arange(len(images))
        leaf = self.activation.detach().requires_grad_(differentiate)
        with torch.set_grad_enabled(differentiate):
            logits = self.logits(leaf, self.rows)
            if not bool(logits.isfinite().all()):
                raise ModelError("the network gives NaN or infinite logits for these images; check weights and input")
            heads = None if self._multi_head is None else self._multi_head.head_numbers
            self.target: ResolvedTarget = resolve_target(target, view.classifier, logits, heads)
            scores = self.target.scores(logits)
        self._graph = (leaf, scores) if differentiate else None
        self.all_logits, self.scores = logits.detach(), scores.detach()

    def __len__(self) -> int:
        return len(self.images)

    @property
    def target_count(self) -> int:
        """T, targets of each image."""
        return self.target.classes.shape[1]

    @property
    def is_affine(self) -> bool:
        """Whether the scores are known to be affine in the activation, so that one gradient says everything."""
        return self.view.is_affine and self.target.is_linear

    def claim_passes(self) -> Passes:
        """What has been run since this was last called, the measuring of the budget included.

        The first to claim is charged for what all share, so that the sum over all who claim is what was run.
        """
        passes = self.passes - self._claimed + self.budget.claim_passes()
        self._claimed = self.passes
        return passes

    def logits(self, activation: Float[Tensor, "R C h w"], rows: Int[Tensor, " R"]) -> Float[Tensor, "R ..."]:
        """Logits of R rows of activation (R, C, h, w), where row i belongs to image rows[i]."""
        side_inputs = self.activation.side_inputs.rows(rows)
        if self._multi_head is None:
            logits, run = self.view.logits(activation, side_inputs), len(rows)
        else:
            logits, run = self._multi_head.logits_with_cost(activation, side_inputs)
        self.passes += Passes(suffix_forward=run)
        return logits

    def network_logits(self, images: Tensor) -> Tensor:
        """Logits of images through the whole network, without gradients."""
        self.passes += Passes(network_forward=len(images) * self._suffix_rows)
        with torch.no_grad():
            return self.view.classifier.logits(images)

    def score(self, activation: Float[Tensor, "R C h w"], rows: Int[Tensor, " R"]) -> Float[Tensor, "R T"]:
        """Scores (R, T) of R rows of activation, without gradients; R is at most `budget.rows("forward")`."""
        with torch.no_grad():
            return self.target.scores(self.logits(activation, rows), rows)

    def gradients_at(
        self,
        activation: Float[Tensor, "R C h w"],
        rows: Int[Tensor, " R"],
        context: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> Iterator[Tensor]:
        """Gradients of the scores at R rows of activation, one target after the other, from one forward.

        Args:
            activation: (R, C, h, w); R is at most `budget.rows("gradient")`.
            rows: (R,) which image each row belongs to.
            context: entered while the network runs, e.g. to change the ReLUs' gradient.

        Yields:
            (R, C, h, w) for each of the T targets.
        """
        leaf = activation.detach().requires_grad_()
        with torch.enable_grad(), context():
            scores = self.target.scores(self.logits(leaf, rows), rows)
        yield from self._backward(leaf, scores, rows)

    @cached_property
    def gradients(self) -> Float[Tensor, "N T C h w"]:
        """Gradient (N, T, C, h, w) of the scores at the activation, taken once for all methods."""
        with torch.inference_mode(False):
            if self._graph is None:
                return torch.stack(list(self.gradients_at(self.activation, self.rows)), dim=1)
            leaf, scores = self._graph
            self._graph = None
            return torch.stack(list(self._backward(leaf, scores, self.rows)), dim=1)

    def _backward(self, leaf: Tensor, scores: Tensor, rows: Tensor) -> Iterator[Tensor]:
        if not scores.requires_grad:
            raise ModelError(
                f"no gradient flows from the logits back to layer {self.view.layer!r}: the network detaches its values "
                "on the way (no_grad, detach, rounding); choose a method that needs no gradient, such as Occlusion"
            )
        masks = None if self._multi_head is None else self._multi_head.head_masks(*leaf.shape[2:])
        all_apart = [[index] for index in range(self.target_count)]
        groups = all_apart if masks is None else _group_by_disjoint_heads(self.target.heads)
        for group in groups:
            total = scores[:, group].sum()
            (result,) = torch.autograd.grad(total, leaf, retain_graph=group is not groups[-1], allow_unused=True)
            self.passes += Passes(suffix_backward=len(leaf) * self._suffix_rows)
            gradient = torch.zeros_like(leaf) if result is None else result.detach()
            for index in group:
                yield gradient if masks is None else _mask(gradient, masks[self.target.heads[rows, index]])

    def perturbed_batches(
        self, count: int, part: Part = "forward", images: Tensor | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """All pairs of an image and one of its `count` perturbations (steps, windows, noises), in affordable batches.

        Args:
            count: perturbations of each image.
            part: what will be run on a batch, "forward" or "gradient".
            images: indices of the images that are perturbed; by default all.

        Yields:
            (rows (R,), perturbations (R,)): the image and the perturbation that each row is.
        """
        images = self.rows if images is None else images
        for pairs in torch.split(torch.arange(len(images) * count), self.budget.rows(part)):
            yield images[pairs // count], pairs % count

    def sum_by_image(
        self, values: Float[Tensor, " R *sizes"], rows: Int[Tensor, " R"], weights: Float[Tensor, " R"]
    ) -> Float[Tensor, " N *sizes"]:
        """Sums (N, ...) of rows (R, ...), weighted by (R,) weights, over the rows of each image.

        Args:
            values: (R, ...).
            rows: (R,) the image that each row belongs to.
            weights: (R,).
        """
        # Not index_add, whose order, and so rounding, is random on a GPU.
        sums = values.new_zeros(len(self), *values.shape[1:])
        for image in sorted(set(rows.tolist())):
            of_image = (rows == image).nonzero().flatten()
            sums[image] = torch.tensordot(weights[of_image].to(values), values[of_image], dims=1)
        return sums


def _group_by_disjoint_heads(heads: Tensor) -> list[list[int]]:
    """Consecutive targets in groups in which every image's targets are of different heads.

    Heads that read disjoint parts of the activation can share a backward pass: each part holds its own head's gradient.
    """
    groups = [[0]]
    for target in range(1, heads.shape[1]):
        if bool((heads[:, groups[-1]] == heads[:, target, None]).any()):
            groups.append([])
        groups[-1].append(target)
    return groups


def _mask(gradient: Tensor, masks: Tensor) -> Tensor:
    return torch.where(masks[:, None].to(gradient.device), gradient, 0.0)


def iterate_cases(
    view: View,
    images: Tensor,
    target: TargetLike,
    methods: Sequence[Bounded],
    *,
    offset: int = 0,
    total: int | None = None,
    on_error: Callable[[ImageBatch, PellucidError], None] | None = None,
) -> Iterator[Case]:
    """Prepare images for methods, batch by batch: each goes once through the part before the layer.

    The strictest `max_batch` and `max_bytes` among the methods hold for all, heads that the target does not name are
    left out, and the first forward keeps its graph where one of the methods needs the gradient. What was run is claimed
    by the first method (see `Case.claim_passes`).

    Args:
        view: `classifier.at(layer)`.
        images: (N, C, H, W) in the classifier's own input space.
        target: as `Method.__call__` takes it.
        methods: one or more, or `BatchLimits`.
        offset: images that come before these in a longer batch, for options that go image by image.
        total: images of that longer batch; by default these are all.
        on_error: called with a batch that cannot be explained, which is then passed over; by default the error is
            raised.

    Yields:
        Cases of consecutive images.

    Raises:
        PellucidError: no methods, no images, or a budget too small for one row.
        TargetError: no such class.
        ModelError: NaN or infinite logits.

    >>> import pellucid as pl
    >>> view = pl.load("digit_cnn").at("final")
    >>> method = pl.attribution.GradCAM(max_batch=8)
    >>> [len(case) for case in iterate_cases(view, torch.rand(20, 1, 32, 32), "7", [method])]
    [8, 8, 4]
    """
    if not methods:
        raise PellucidError("no methods to explain with: the list is empty")
    view = select_heads(view, target)
    budget = BatchBudget(
        view,
        images[:1],
        targets=count_targets(target),
        max_batch=min(method.max_batch for method in methods),
        max_bytes=min((method.max_bytes for method in methods if method.max_bytes is not None), default=None),
    )
    differentiate = any(method.needs_gradients(view) for method in methods)
    for batch in image_batches([budget], images, target, differentiate=differentiate):
        try:
            with torch.inference_mode(False):
                case = Case(
                    view,
                    batch.images,
                    batch.target,
                    differentiate=differentiate,
                    budget=budget,
                    offset=offset + batch.offset,
                    total=batch.total if total is None else total,
                )
        except PellucidError as error:
            if on_error is None:
                raise
            on_error(batch, error)
        else:
            yield case

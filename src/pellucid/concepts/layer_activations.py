"""Activations of concept sets, streamed: whole maps are never kept, only what is pooled from them."""

import hashlib
from collections.abc import Iterator
from functools import cached_property

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from pellucid.classifiers import Classifier, LayerView, Segment, SideInputs
from pellucid.concepts.concept_scores import contraharmonic_mean, project_activation
from pellucid.concepts.concept_sets import ConceptSet
from pellucid.data import Geometry, read_image, to_rgb
from pellucid.errors import LayerError, ModelError, PellucidError

INPUT_CACHE_BYTES = 256 * 2**20
"""Preprocessed images of a set are read once and kept if they take no more than this, else read for every pass."""


class Inputs:
    """A concept set in a classifier's own input space, batch by batch.

    Args:
        concept: the set.
        classifier: what reads its images.
        max_batch: images of one batch.
    """

    def __init__(self, concept: ConceptSet, classifier: Classifier, max_batch: int) -> None:
        self.concept = concept
        self._classifier = classifier
        self._max_batch = max_batch
        self._cached: list[tuple[Tensor, Tensor | None]] | None = None

    def __len__(self) -> int:
        return len(self.concept)

    @cached_property
    def digests(self) -> tuple[str, ...]:
        """SHA-256 of each image as the network will see it, mask included: equal for copies, whatever their names."""
        return tuple(
            _digest(image, None if masks is None else masks[index])
            for images, masks in self.batches()
            for index, image in enumerate(images)
        )

    def batches(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Images (b, C, H, W) and masks (b, H, W) in [0, 1], or None where all of the images counts."""
        if self._cached is not None:
            yield from self._cached
            return
        kept, size = [], 0
        for start in range(0, len(self), self._max_batch):
            batch = self._read(range(start, min(start + self._max_batch, len(self))))
            size += batch[0].nbytes
            if size <= INPUT_CACHE_BYTES:
                kept.append(batch)
            yield batch
        if size <= INPUT_CACHE_BYTES:
            self._cached = kept

    def _read(self, indices: range) -> tuple[Tensor, Tensor | None]:
        images, masks = [], []
        for index in indices:
            item = self.concept.images[index]
            opened = item if isinstance(item, Tensor | Image.Image) else read_image(item)
            upright = to_rgb(opened) if isinstance(opened, Image.Image) else opened
            images.append(upright if isinstance(upright, Tensor) else self._classifier.read(upright)[0])
            if self.concept.masks is not None:
                masks.append(self._window(self.concept.masks[index], upright, images[-1], self.concept.sources[index]))
        return torch.stack(images), torch.stack(masks) if masks else None

    def _window(self, mask: Tensor, upright: Tensor | Image.Image, image: Tensor, source: str) -> Tensor:
        """The part of an image's mask that the network's input shows, (H, W)."""
        size = tuple(upright.shape[-2:]) if isinstance(upright, Tensor) else (upright.height, upright.width)
        if tuple(mask.shape) != size or not bool(((mask >= 0) & (mask <= 1)).all()):
            raise PellucidError(
                f"{source}: a mask of shape {tuple(mask.shape)} with values {float(mask.min()):g} to "
                f"{float(mask.max()):g} does not fit an image of shape {size}; expected that shape, values 0 to 1"
            )
        if not isinstance(upright, Tensor):
            mask = _look_through(mask, self._classifier.geometry(*upright.size), image.shape[-2:])
        if not bool(mask.any()):
            raise PellucidError(f"{source}: its mask holds nothing of the part that the classifier sees; leave it out")
        return mask


class LayerActivations:
    """Activations of a concept set at a layer, batch by batch; the network runs for every pass over them.

    Args:
        view: the layer.
        inputs: N images.
        cache_bytes: keep the maps after the first pass if they take no more than this; 0 for never.
        earlier: the same images at an earlier layer; where its maps are kept and this layer can continue from them,
            only the part in between runs.
    """

    def __init__(
        self, view: LayerView, inputs: Inputs, cache_bytes: int = 0, earlier: "LayerActivations | None" = None
    ) -> None:
        self.view = view
        self.inputs = inputs
        self._limit = cache_bytes
        self._earlier = earlier
        self._cached: list[tuple[Tensor, Tensor | None]] | None = None

    def release(self) -> None:
        """Free the maps; another pass runs the network again."""
        self._cached, self._earlier = None, None

    def batches(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Activations (b, C, h, w), and the share of each cell that lies inside the mask (b, h, w) or None.

        Raises:
            ModelError: an activation is NaN or infinite; the message names the images.
        """
        if self._cached is not None:
            yield from self._cached
            return
        kept, size, seen = [], 0, 0
        for activation, masks in self._run():
            self._check(activation, seen)
            seen, size = seen + len(activation), size + activation.nbytes
            batch = activation, None if masks is None else self._cell_shares(masks, activation)
            if size <= self._limit:
                kept.append(batch)
            yield batch
        if size <= self._limit:
            self._cached = kept

    def _run(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Activations and the masks of their images, from the nearest place that is known."""
        maps = None if self._earlier is None else self._earlier._cached
        segment = None if maps is None or self._earlier is None else _find_segment(self._earlier.view, self.view)
        for index, (images, masks) in enumerate(self.inputs.batches()):
            if maps is None or segment is None:
                yield self.view.activation(images).as_subclass(Tensor), masks
            else:
                with torch.no_grad():
                    yield segment(maps[index][0], SideInputs(images=len(images))).detach(), masks

    def pooled(self) -> Tensor:
        """Mean of each image's activation over the cells (over those inside its mask): (N, C) float64."""
        return torch.cat([_pool(activation, shares) for activation, shares in self.batches()])

    def flattened(self) -> Tensor:
        """Activations as vectors, (N, C * h * w) float64: what TCAV's linear classifiers were first trained on."""
        concept = self.inputs.concept
        if concept.masks is not None:
            raise PellucidError(f"concept {concept.name!r} has masks; they need pooled features, not flattened ones")
        return torch.cat([activation.flatten(1).double().cpu() for activation, _ in self.batches()])

    def projection_levels(self, directions: Tensor) -> Tensor:
        """Contraharmonic mean of ReLU(projection) of each image on each direction: what emblems are medians of.

        Args:
            directions: (D, C).

        Returns:
            (N, D) float64, >= 0.
        """
        levels = []
        for activation, shares in self.batches():
            # Image by image: all directions on all images of a batch would be large at early layers.
            for index, of_image in enumerate(activation.double()):
                raw = project_activation(of_image, directions).relu()
                levels.append(contraharmonic_mean(raw, None if shares is None else shares[index].double()).cpu())
        return torch.stack(levels)

    def _check(self, activation: Tensor, seen: int) -> None:
        bad = (~activation.flatten(1).isfinite().all(1)).nonzero().flatten().tolist()
        if bad:
            concept = self.inputs.concept
            sources = ", ".join(concept.sources[seen + index] for index in bad[:4])
            raise ModelError(
                f"layer {self.view.layer!r} is NaN or infinite for {sources} of {concept.name!r}; "
                "check the weights and these images"
            )

    def _cell_shares(self, masks: Tensor, activation: Tensor) -> Tensor:
        height, width = activation.shape[2:]
        if height == width == 1:
            raise PellucidError(
                f"layer {self.view.layer!r} has no spatial extent: masks and boxes select nothing there"
            )
        return F.adaptive_avg_pool2d(masks[:, None], (height, width))[:, 0].to(activation)


def _find_segment(start: LayerView, stop: LayerView) -> Segment | None:
    """The operations from one map to another; None where there are none, or more than the map crosses the first cut."""
    if start.side_input_names or start.layout.order == "NTC" or start.classifier is not stop.classifier:
        return None
    try:
        return Segment(start, stop)
    except LayerError:
        return None


def _pool(activation: Tensor, shares: Tensor | None) -> Tensor:
    if shares is None:
        return activation.double().mean((2, 3)).cpu()
    inside = torch.einsum("nchw,nhw->nc", activation.double(), shares.double())
    return (inside / shares.double().sum((1, 2))[:, None]).cpu()


def _digest(image: Tensor, mask: Tensor | None) -> str:
    digest = hashlib.sha256()
    for tensor in (image,) if mask is None else (image, mask):
        tensor = tensor.detach().cpu().contiguous()
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _look_through(mask: Tensor, geometry: Geometry, size: torch.Size) -> Tensor:
    """An image's mask seen through the input window (H, W): the nearest pixel, and 0 beyond the image."""
    left, top, right, bottom = geometry.box
    y = (top + (torch.arange(size[0]) + 0.5) / size[0] * (bottom - top)).floor().long()
    x = (left + (torch.arange(size[1]) + 0.5) / size[1] * (right - left)).floor().long()
    height, width = mask.shape
    inside = ((y >= 0) & (y < height))[:, None] & ((x >= 0) & (x < width))
    return mask[y.clamp(0, height - 1)][:, x.clamp(0, width - 1)] * inside

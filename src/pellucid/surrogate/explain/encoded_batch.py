"""Images encoded by a surrogate: codes, reconstructions and logits, and what becomes of them when codes change."""

from dataclasses import dataclass, replace
from time import perf_counter

import torch
from torch import Tensor

from pellucid.errors import PellucidError
from pellucid.results import Passes, Provenance
from pellucid.surrogate.causal.effects import Outcome
from pellucid.surrogate.model.batches import batch_slices, map_batches
from pellucid.surrogate.model.codes import Codes, SurrogateProtocol

METHOD = "surrogate"
"""The method's name in the provenance of results."""


@dataclass(frozen=True)
class EncodedBatch:
    """Images with everything that is computed of them once and shared by several explanations.

    Attributes:
        surrogate: encodes and decodes.
        images: (N, C, H, W) in the classifier's input space.
        codes: of the images.
        reconstructions: (N, C, H, W), the codes decoded: G(w).
        logits: (N, K) that the classifier gives to `images`.
        max_batch: images decoded and classified at once.

    >>> from pellucid.surrogate import digit_surrogate
    >>> from pellucid.synthetic import draw_digits
    >>> digits = draw_digits(torch.tensor([3, 7]), size=32)[:, None] / 127.5 - 1  # (2, 1, 32, 32)
    >>> batch = digit_surrogate().encode_batch(digits)
    >>> len(batch), batch.classes.tolist(), tuple(batch.codes.context.shape)
    (2, [3, 7], (2, 4))
    >>> torch.allclose(batch.apply_residual(batch.reconstructions), batch.images, atol=1e-5)  # no change
    True
    """

    surrogate: SurrogateProtocol
    images: Tensor
    codes: Codes
    reconstructions: Tensor
    logits: Tensor
    max_batch: int

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: slice | Tensor) -> "EncodedBatch":
        return replace(
            self,
            images=self.images[rows],
            codes=self.codes[rows],
            reconstructions=self.reconstructions[rows],
            logits=self.logits[rows],
        )

    @property
    def concept_names(self) -> tuple[str, ...]:
        """Names of the concepts, contexts before latents: the columns of `codes.concept_coordinates()`."""
        return (*self.surrogate.context_names, *self.surrogate.latent_names)

    @property
    def classes(self) -> Tensor:
        """The classes (N,) that the classifier decides on."""
        return predict_class(self.logits)

    def reconstructed(self) -> "EncodedBatch":
        """The same codes with the reconstructions in place of the images.

        With the residual transferred to the input image, a change leaves the old beside the new as far as the
        reconstruction is imperfect, and effects come out too small. On the reconstruction they are the surrogate's
        own, and as true as it is faithful.
        """
        logits = classify(self.surrogate, self.reconstructions, self.max_batch)
        return replace(self, images=self.reconstructions, logits=logits)

    def repeat(self, times: int) -> "EncodedBatch":
        """Every image `times` times in a row."""
        return self[torch.arange(len(self)).repeat_interleave(times)]

    def apply_residual(self, decoded: Tensor) -> Tensor:
        """Transfer the residual to the input images: x' = clip(x + G(w') - G(w)); no change gives x itself.

        Args:
            decoded: (N, C, H, W), G(w') of changed codes, one row for each image.
        """
        return self.surrogate.clip(self.images + (decoded - self.reconstructions))

    def decode(self, codes: Codes) -> Tensor:
        """G(w) (N, C, H, W) of codes, without gradients, in batches."""
        return map_batches(self.surrogate.decode, codes, size=self.max_batch)

    def counterfactual_logits(self, codes: Codes) -> Tensor:
        """The classifier's logits (N, K) with changed codes, the residual transferred to `images`."""

        def changed(batch: EncodedBatch, codes: Codes) -> Tensor:
            return self.surrogate.logits(batch.apply_residual(self.surrogate.decode(codes)))

        return map_batches(changed, self, codes, size=self.max_batch)

    def outcome(self, classes: Tensor | None = None) -> Outcome:
        """The margin of classes as a function of the concepts (N, K_c + K_u).

        Args:
            classes: (N,); by default the ones that the classifier decides on.
        """
        explained = self.classes if classes is None else classes
        return lambda concepts: margin(self.counterfactual_logits(self.codes.replace_concepts(concepts)), explained)


def unknown_provenance() -> Provenance:
    """The provenance of an explanation that does not know its classifier yet.

    >>> unknown_provenance().method
    'surrogate'
    """
    return Provenance(model="", layers=(), method=METHOD)


def encode_batch(surrogate: SurrogateProtocol, images: Tensor, *, max_batch: int = 64) -> EncodedBatch:
    """Encode, reconstruct and classify images.

    Args:
        surrogate: encodes and decodes.
        images: (N, C, H, W) in the classifier's input space.
        max_batch: images processed at once.

    Raises:
        PellucidError: the classifier's logits are not finite.

    >>> from pellucid.surrogate import digit_surrogate
    >>> from pellucid.synthetic import draw_digits
    >>> explainer = digit_surrogate()
    >>> digits = draw_digits(torch.tensor([3, 7]), size=32)[:, None] / 127.5 - 1
    >>> encode_batch(explainer.surrogate, digits).logits.shape
    torch.Size([2, 10])
    """
    with torch.no_grad():
        codes = Codes.concat([surrogate.encode(images[rows]) for rows in batch_slices(len(images), max_batch)])
    reconstructions = map_batches(surrogate.decode, codes, size=max_batch)
    logits = classify(surrogate, images, max_batch)
    return EncodedBatch(surrogate, images, codes, reconstructions, logits, max_batch)


class PassCounter:
    """A surrogate that counts the images it gives to the classifier.

    Args:
        surrogate: that does the work.

    >>> from pellucid.surrogate import digit_surrogate
    >>> from pellucid.synthetic import draw_digits
    >>> explainer = digit_surrogate()
    >>> digits = draw_digits(torch.tensor([3, 7]), size=32)[:, None] / 127.5 - 1
    >>> counter = PassCounter(explainer.surrogate)
    >>> _ = counter.logits(digits)
    >>> counter.passes.network_forward
    2
    """

    def __init__(self, surrogate: SurrogateProtocol) -> None:
        self._surrogate, self._images, self._start = surrogate, 0, perf_counter()
        self.context_names, self.latent_names = surrogate.context_names, surrogate.latent_names

    @property
    def passes(self) -> Passes:
        """Images so far; encoding takes one pass of an image, as do its logits and its perceived context."""
        return Passes(network_forward=self._images)

    @property
    def seconds(self) -> float:
        """Since the counter was made."""
        return perf_counter() - self._start

    def encode(self, images: Tensor) -> Codes:
        """`Surrogate.encode`."""
        self._images += len(images)
        return self._surrogate.encode(images)

    def decode(self, codes: Codes) -> Tensor:
        """`Surrogate.decode`."""
        return self._surrogate.decode(codes)

    def clip(self, images: Tensor) -> Tensor:
        """`Surrogate.clip`."""
        return self._surrogate.clip(images)

    def logits(self, images: Tensor) -> Tensor:
        """`Surrogate.logits`."""
        self._images += len(images)
        return self._surrogate.logits(images)

    def perceived_context(self, images: Tensor) -> Tensor:
        """`Surrogate.perceived_context`."""
        self._images += len(images)
        return self._surrogate.perceived_context(images)


def classify(surrogate: SurrogateProtocol, images: Tensor, max_batch: int) -> Tensor:
    """The classifier's logits (N, K) of images (N, C, H, W), without gradients, in batches.

    Args:
        surrogate: of the classifier.
        images: in the classifier's input space.
        max_batch: images classified at once.

    Raises:
        PellucidError: some are not finite.

    >>> from pellucid.surrogate import digit_surrogate
    >>> from pellucid.synthetic import draw_digits
    >>> explainer = digit_surrogate()
    >>> digits = draw_digits(torch.tensor([3, 7]), size=32)[:, None] / 127.5 - 1
    >>> classify(explainer.surrogate, digits, max_batch=1).argmax(1)
    tensor([3, 7])
    """
    logits = map_batches(surrogate.logits, images, size=max_batch)
    if not bool(logits.isfinite().all()):
        bad = (~logits.isfinite()).any(1).nonzero().flatten().tolist()
        raise PellucidError(f"the classifier's logits of images {bad[:8]} are NaN or infinite: nothing to explain")
    return logits


def predict_class(logits: Tensor) -> Tensor:
    """The class (N,) of logits (N, K); of a single logit, class 1 where it is positive.

    >>> predict_class(torch.tensor([[0.1, 2.0], [3.0, 1.0]])), predict_class(torch.tensor([[-1.0], [1.0]]))
    (tensor([1, 0]), tensor([0, 1]))
    """
    return (logits[:, 0] > 0).long() if logits.shape[1] == 1 else logits.argmax(1)


def margin(logits: Tensor, classes: Tensor) -> Tensor:
    """The margin (N,) of classes (N,): their logit minus the highest other; of a single logit, signed by class.

    >>> margin(torch.tensor([[1.0, 4.0, 2.0]]), torch.tensor([1]))
    tensor([2.])
    """
    if logits.shape[1] == 1:
        return torch.where(classes == 1, logits[:, 0], -logits[:, 0])
    own = logits.gather(1, classes[:, None])
    others = logits.scatter(1, classes[:, None], -torch.inf).amax(1)
    return own[:, 0] - others


def probabilities(logits: Tensor) -> Tensor:
    """Class probabilities (N, K) of logits; of a single logit, (N, 2) of classes 0 and 1.

    >>> probabilities(torch.tensor([[0.0]]))
    tensor([[0.5000, 0.5000]])
    """
    if logits.shape[1] == 1:
        return torch.cat([torch.sigmoid(-logits), torch.sigmoid(logits)], 1)
    return logits.softmax(1)

"""Images seen through a twin: their codes, their reconstructions, and what becomes of them when codes change."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pellucid.errors import PellucidError
from pellucid.surrogate.causal.effects import Outcome
from pellucid.surrogate.model.codes import Codes, SurrogateProtocol


@dataclass(frozen=True)
class EncodedBatch:
    """Images with all that is computed of them once.

    Attributes:
        twin: the surrogate.
        images: (N, C, H, W) in the classifier's input space.
        codes: of the images.
        reconstructions: (N, C, H, W), what the twin draws from the codes.
        logits: (N, K) of the images.
        max_batch: images drawn and classified at once.
    """

    surrogate: SurrogateProtocol
    images: Tensor
    codes: Codes
    reconstructions: Tensor
    logits: Tensor
    max_batch: int

    @classmethod
    def of(cls, surrogate: SurrogateProtocol, images: Tensor, *, max_batch: int = 64) -> "EncodedBatch":
        """Encode, redraw and classify images.

        Raises:
            PellucidError: when the classifier's logits are not finite.
        """
        with torch.no_grad():
            rows = list(chunks(len(images), max_batch))
            codes = Codes.concat([surrogate.encode(images[some]) for some in rows])
            drawn = torch.cat([surrogate.decode(codes[some]) for some in rows])
        logits = classify(surrogate, images, max_batch)
        return cls(surrogate, images, codes, drawn, logits, max_batch)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: slice | Tensor) -> "EncodedBatch":
        return EncodedBatch(
            self.surrogate,
            self.images[rows],
            self.codes[rows],
            self.reconstructions[rows],
            self.logits[rows],
            self.max_batch,
        )

    @property
    def classes(self) -> Tensor:
        """The factual classes (N,)."""
        return predict_class(self.logits)

    def reconstructed(self) -> "EncodedBatch":
        """The reconstructions in place of the images: a change is then drawn alone, not laid on what was there.

        Laid on an image, a change leaves the old beside the new as far as the twin redraws the image imperfectly,
        and effects come out too small. Drawn alone they are the twin's own, and as true as it is faithful.
        """
        redrawn = classify(self.surrogate, self.reconstructions, self.max_batch)
        return replace(self, images=self.reconstructions, logits=redrawn)

    def repeat(self, times: int) -> "EncodedBatch":
        """Every image so many times in a row."""
        return self[torch.arange(len(self)).repeat_interleave(times)]

    def transferred(self, drawn: Tensor) -> Tensor:
        """Residual transfer: what the twin changed, laid on the image itself; no change gives the very image.

        x' = clip(x + G(w') - G(w)), one row of `drawn` = G(w') for each image.
        """
        return self.surrogate.clip(self.images + (drawn - self.reconstructions))

    def drawn(self, codes: Codes) -> Tensor:
        """What the twin draws of codes (N rows), without gradients, in batches."""
        with torch.no_grad():
            return torch.cat([self.surrogate.decode(codes[rows]) for rows in chunks(len(codes), self.max_batch)])

    def changed_logits(self, codes: Codes) -> Tensor:
        """The classifier's logits (N, K) with codes changed, what changes laid on `images` (see `reconstructed`)."""
        found = []
        with torch.no_grad():
            for rows in chunks(len(self), self.max_batch):
                part = self[rows]
                found.append(self.surrogate.logits(part.transferred(self.surrogate.decode(codes[rows]))))
        return torch.cat(found)

    def outcome(self, classes: Tensor | None = None) -> Outcome:
        """The margin of classes (N,), by default the factual ones, as a function of the concepts (N, K_c + K_u)."""
        wanted = self.classes if classes is None else classes
        return lambda concepts: margin(self.changed_logits(self.codes.replace_concepts(concepts)), wanted)


def classify(surrogate: SurrogateProtocol, images: Tensor, max_batch: int) -> Tensor:
    """The classifier's logits (N, K) of images, without gradients, in batches.

    Raises:
        PellucidError: some are not finite.
    """
    with torch.no_grad():
        logits = torch.cat([surrogate.logits(images[rows]) for rows in chunks(len(images), max_batch)])
    if not bool(logits.isfinite().all()):
        bad = (~logits.isfinite()).any(1).nonzero().flatten().tolist()
        raise PellucidError(f"the classifier's logits of images {bad[:8]} are NaN or infinite: nothing to explain")
    return logits


def chunks(count: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` that cover `count` rows."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def predict_class(logits: Tensor) -> Tensor:
    """The class (N,) of logits (N, K); of a single logit, class 1 where it is positive."""
    return (logits[:, 0] > 0).long() if logits.shape[1] == 1 else logits.argmax(1)


def margin(logits: Tensor, classes: Tensor) -> Tensor:
    """How far ahead classes (N,) are, (N,): their logit minus the highest other; of a single logit, signed by class."""
    if logits.shape[1] == 1:
        return torch.where(classes == 1, logits[:, 0], -logits[:, 0])
    own = logits.gather(1, classes[:, None])
    others = logits.scatter(1, classes[:, None], -torch.inf).amax(1)
    return own[:, 0] - others


def probabilities(logits: Tensor) -> Tensor:
    """Class probabilities (N, K); of a single logit, of classes 0 and 1."""
    if logits.shape[1] == 1:
        return torch.cat([torch.sigmoid(-logits), torch.sigmoid(logits)], 1)
    return logits.softmax(1)

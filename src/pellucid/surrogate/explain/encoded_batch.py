"""Pictures seen through a twin: their codes, their reconstructions, and what becomes of them when codes change."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pellucid.errors import PellucidError
from pellucid.surrogate.causal.effects import Outcome
from pellucid.surrogate.model.codes import Codes, Twin


@dataclass(frozen=True)
class Painting:
    """Pictures with all that is computed of them once.

    Attributes:
        twin: the surrogate.
        pictures: (N, C, H, W) in the classifier's input space.
        codes: of the pictures.
        reconstructions: (N, C, H, W), what the twin draws from the codes.
        logits: (N, K) of the pictures.
        max_batch: pictures drawn and classified at once.
    """

    twin: Twin
    pictures: Tensor
    codes: Codes
    reconstructions: Tensor
    logits: Tensor
    max_batch: int

    @classmethod
    def of(cls, twin: Twin, pictures: Tensor, *, max_batch: int = 64) -> "Painting":
        """Encode, redraw and classify pictures.

        Raises:
            PellucidError: when the classifier's logits are not finite.
        """
        with torch.no_grad():
            rows = list(chunks(len(pictures), max_batch))
            codes = Codes.joined_rows([twin.encode(pictures[some]) for some in rows])
            drawn = torch.cat([twin.decode(codes[some]) for some in rows])
        logits = classified(twin, pictures, max_batch)
        return cls(twin, pictures, codes, drawn, logits, max_batch)

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, rows: slice | Tensor) -> "Painting":
        return Painting(
            self.twin,
            self.pictures[rows],
            self.codes[rows],
            self.reconstructions[rows],
            self.logits[rows],
            self.max_batch,
        )

    @property
    def classes(self) -> Tensor:
        """The factual classes (N,)."""
        return decided(self.logits)

    def bare(self) -> "Painting":
        """The reconstructions in place of the pictures: a change is then drawn alone, not laid on what was there.

        Laid on a picture, a change leaves the old beside the new as far as the twin redraws the picture imperfectly,
        and effects come out too small. Drawn alone they are the twin's own, and as true as it is faithful.
        """
        redrawn = classified(self.twin, self.reconstructions, self.max_batch)
        return replace(self, pictures=self.reconstructions, logits=redrawn)

    def repeat(self, times: int) -> "Painting":
        """Every picture so many times in a row."""
        return self[torch.arange(len(self)).repeat_interleave(times)]

    def transferred(self, drawn: Tensor) -> Tensor:
        """Residual transfer: what the twin changed, laid on the picture itself; no change gives the very picture.

        x' = clip(x + G(w') - G(w)), one row of `drawn` = G(w') for each picture.
        """
        return self.twin.clip(self.pictures + (drawn - self.reconstructions))

    def drawn(self, codes: Codes) -> Tensor:
        """What the twin draws of codes (N rows), without gradients, in batches."""
        with torch.no_grad():
            return torch.cat([self.twin.decode(codes[rows]) for rows in chunks(len(codes), self.max_batch)])

    def changed_logits(self, codes: Codes) -> Tensor:
        """The classifier's logits (N, K) with codes changed, what changes laid on `pictures` (see `bare`)."""
        found = []
        with torch.no_grad():
            for rows in chunks(len(self), self.max_batch):
                part = self[rows]
                found.append(self.twin.logits(part.transferred(self.twin.decode(codes[rows]))))
        return torch.cat(found)

    def outcome(self, classes: Tensor | None = None) -> Outcome:
        """The margin of classes (N,), by default the factual ones, as a function of the concepts (N, K_c + K_u)."""
        wanted = self.classes if classes is None else classes
        return lambda concepts: margin(self.changed_logits(self.codes.with_concepts(concepts)), wanted)


def classified(twin: Twin, pictures: Tensor, max_batch: int) -> Tensor:
    """The classifier's logits (N, K) of pictures, without gradients, in batches.

    Raises:
        PellucidError: some are not finite.
    """
    with torch.no_grad():
        logits = torch.cat([twin.logits(pictures[rows]) for rows in chunks(len(pictures), max_batch)])
    if not bool(logits.isfinite().all()):
        bad = (~logits.isfinite()).any(1).nonzero().flatten().tolist()
        raise PellucidError(f"the classifier's logits of pictures {bad[:8]} are NaN or infinite: nothing to explain")
    return logits


def chunks(count: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` that cover `count` rows."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def decided(logits: Tensor) -> Tensor:
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

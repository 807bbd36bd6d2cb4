"""Why a number is what it is: a status for every score, so that no zero is silent."""

from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


class Status(StrEnum):
    """What is known against a number; `explanation` says it in words."""

    OK = "ok"
    NOT_SEPARABLE = "not separable"
    NO_POSITIVE_DIRECTION = "no positive direction"
    EMPTY_MAP = "empty map"
    CLASS_WEIGHT_ZERO = "class weight zero"
    NO_EVIDENCE = "no evidence in the map"
    NOT_CONVERGED = "not converged"
    CAV_WEAK = "cav weak"

    @property
    def explanation(self) -> str:
        """One sentence for a reader."""
        return _EXPLANATIONS[self]


_EXPLANATIONS = {
    Status.OK: "nothing is known against this number",
    Status.NOT_SEPARABLE: "0: at this layer images of the concept project no higher than other images do",
    Status.NO_POSITIVE_DIRECTION: "0: no channel of this image is aligned with the concept's direction",
    Status.EMPTY_MAP: "0: the concept is nowhere seen in this image",
    Status.CLASS_WEIGHT_ZERO: "0: the class's logit is no higher than for an activation of zeros; see the signed score",
    Status.NO_EVIDENCE: "0: where the concept is seen there is no evidence in the channels aligned with it",
    Status.NOT_CONVERGED: "the integrated gradients miss the completeness tolerance: take more steps",
    Status.CAV_WEAK: "the CAV hardly tells held-out images of the concept from others",
}


def choose_statuses(findings: dict[Status, Tensor]) -> NDArray[np.object_]:
    """The first finding that applies to each number, else `Status.OK`.

    Args:
        findings: masks that broadcast against each other, by status, the most serious first.

    Returns:
        An array of `Status` in the shape of the masks.
    """
    masks = np.broadcast_arrays(*(mask.cpu().numpy() for mask in findings.values()))
    chosen = np.empty(masks[0].shape, dtype=object)
    chosen[...] = Status.OK  # np.full would make plain strings of them
    for status, mask in reversed(list(zip(findings, masks, strict=True))):
        chosen[mask] = status
    return chosen

"""Why a number is what it is: a status for every score, so that no zero is silent."""

from enum import StrEnum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Status(StrEnum):
    """What is known against a number; `explanation` says it in words.

    Example:
        >>> Status("empty map").explanation
        '0: the concept is nowhere seen in this image'
    """

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
    Status.CAV_WEAK: "the CAV weakly separates held-out images of the concept from other images",
}
_STATUSES = tuple(Status)


def choose_statuses(findings: dict[Status, Tensor]) -> Tensor:
    """Find the first finding that applies to each number, else `Status.OK`.

    Args:
        findings: boolean masks that broadcast against each other, by status, the most serious first.

    Returns:
        Codes for `decode_statuses` (uint8), in the shape of the masks.

    Example:
        >>> codes = choose_statuses({Status.EMPTY_MAP: torch.tensor([True, False])})
        >>> decode_statuses(codes).tolist()
        [<Status.EMPTY_MAP: 'empty map'>, <Status.OK: 'ok'>]
    """
    masks = np.broadcast_arrays(*(mask.cpu().numpy() for mask in findings.values()))
    codes = np.full(masks[0].shape, _STATUSES.index(Status.OK), dtype=np.uint8)
    for status, mask in reversed(list(zip(findings, masks, strict=True))):
        codes[mask] = _STATUSES.index(status)
    return torch.from_numpy(codes)


def decode_statuses(codes: Tensor) -> NDArray[np.object_]:
    """Turn codes into an array of `Status` of the same shape."""
    statuses = np.empty(len(_STATUSES), dtype=object)
    statuses[:] = _STATUSES  # np.array would make plain strings of them
    chosen: NDArray[np.object_] = statuses[codes.numpy()]
    return chosen

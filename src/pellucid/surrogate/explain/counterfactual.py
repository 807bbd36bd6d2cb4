"""What comes of setting contexts: images, the classifier's answers to them, and whether to believe them."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from pellucid.surrogate.explain.validity import Fidelity
from pellucid.surrogate.model.codes import Codes


@dataclass(frozen=True)
class Counterfactual:
    """Images as they would be, had some concepts other values.

    Attributes:
        do: context -> the value asked for, in the table's units.
        codes: after the change.
        raw: (N, C, H, W) as the twin draws them.
        images: (N, C, H, W) the images themselves with the change transferred.
        before, after: (N, K) probabilities that the classifier gives to the images and to `images`.
        judged: (N, K_c) the contexts that the twin reads off `images`, in the table's units.
        maps: (N, 1, H, W) where the images changed, >= 0, in input units: a map of evidence like any other.
        supported: (N,) whether real images lie near the changed concepts.
        fidelity: of the twin at the images.
    """

    do: Mapping[str, float]
    codes: Codes
    raw: Tensor
    images: Tensor
    before: Tensor
    after: Tensor
    predicted: Tensor
    maps: Tensor
    in_distribution: Tensor
    fidelity: Fidelity

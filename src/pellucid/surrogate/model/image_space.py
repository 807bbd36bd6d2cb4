"""Between a classifier's input space and the display space [-1, 1] in which the generator works."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid.classifiers import Classifier
from pellucid.errors import ImageError


@dataclass(frozen=True)
class DisplaySpace:
    """An affine map per channel: `low` of the classifier's input space is shown as -1 (black), `high` as 1 (full).

    Attributes:
        low: One number for each channel, in the classifier's input space.
        high: One number for each channel, in the classifier's input space.
        origin: Where the numbers come from, for reports.

    >>> space = DisplaySpace((0.0,), (2.0,), "stated")
    >>> space.to_display(torch.tensor([[[[0.0, 1.0, 2.0]]]]))
    tensor([[[[-1.,  0.,  1.]]]])
    >>> space.from_display(torch.tensor([[[[-1.0, 1.0]]]]))
    tensor([[[[0., 2.]]]])
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    origin: str

    @classmethod
    def of(cls, classifier: Classifier, images: Tensor) -> "DisplaySpace":
        """The space of a classifier whose preprocessing states mean and std; else that of the extremes of images.

        Args:
            classifier: Its `preprocess` is used where it has mean and std.
            images: (N, C, H, W), used where there is no such preprocessing.

        Raises:
            ImageError: A channel of `images` is constant.
        """
        mean = getattr(classifier.preprocess, "mean", None)
        std = getattr(classifier.preprocess, "std", None)
        if mean is not None and std is not None and len(mean) == len(std) == images.shape[1]:
            low = tuple(-m / s for m, s in zip(mean, std, strict=True))
            high = tuple((1 - m) / s for m, s in zip(mean, std, strict=True))
            return cls(low, high, "the classifier's preprocessing")
        least, most = (extreme.tolist() for extreme in (images.amin((0, 2, 3)), images.amax((0, 2, 3))))
        flat = [channel for channel, (a, b) in enumerate(zip(least, most, strict=True)) if not a < b]
        if flat:
            raise ImageError(f"channel {flat[0]} is {least[flat[0]]:g} in every image: its range is not known")
        return cls(tuple(least), tuple(most), "the extremes of the training images")

    def to_display(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) of the input space in display space, [-1, 1] unless they exceed the known range."""
        low, high = self._bounds(images)
        return (images - low) / (high - low) * 2 - 1

    def from_display(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) of display space in the classifier's input space."""
        low, high = self._bounds(images)
        return (images + 1) / 2 * (high - low) + low

    def _bounds(self, like: Tensor) -> tuple[Tensor, Tensor]:
        low, high = (torch.tensor(bound, dtype=like.dtype, device=like.device) for bound in (self.low, self.high))
        return low[:, None, None], high[:, None, None]

"""What an explanation costs: the images that went through the classifier, and the time."""

from time import perf_counter

from torch import Tensor

from pellucid.results import Passes
from pellucid.surrogate.model.codes import Codes, SurrogateProtocol


class PassCounter:
    """A surrogate that counts the images it gives to the classifier.

    Args:
        surrogate: that does the work.

    >>> import torch
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

"""How a network is run: where, in which type and memory order, and with errors that name the images."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pellucid.errors import ModelError, PellucidError


@dataclass(frozen=True)
class Precision:
    """Where and how precisely a network runs.

    Attributes:
        device: device of the network's weights; images are moved there.
        dtype: type of the network's weights; images are converted to it.
        channels_last: keep four-dimensional tensors in channels-last order (same numbers up to rounding).
        autocast: run under autocast in this type, e.g. torch.bfloat16; activations and logits stay float32.

    >>> Precision(torch.device("cpu"), torch.float16).upcast(torch.zeros(1, dtype=torch.float16)).dtype
    torch.float32
    """

    device: torch.device
    dtype: torch.dtype = torch.float32
    channels_last: bool = False
    autocast: torch.dtype | None = None

    def autocast_context(self) -> AbstractContextManager[object]:
        """The context in which the network runs."""
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.autocast)

    def prepare(self, tensor: Tensor) -> Tensor:
        """Bring a batch to the network's device, type and memory order."""
        tensor = tensor.to(self.device, self.dtype)
        if self.channels_last and tensor.ndim == 4:
            tensor = tensor.contiguous(memory_format=torch.channels_last)
        return tensor

    def upcast(self, tensor: Tensor) -> Tensor:
        """A result in float32, or in float64 if the weights are."""
        return tensor.to(torch.promote_types(self.dtype, torch.float32))

    @property
    def tolerance(self) -> float:
        """How far the logits of an image may move with the batch it is in, in units of the largest logit.

        A batch of another size may take other kernels; inside convolutions GPUs round to ten bits (TF32).
        """
        coarse = self.autocast is not None or self.dtype in (torch.float16, torch.bfloat16)
        return 5e-2 if coarse else 5e-3 if self.device.type != "cpu" else 1e-4


def dtype_of(module: nn.Module) -> torch.dtype:
    """The type of a network's first floating-point weight; float32 if it has none.

    >>> dtype_of(nn.Linear(2, 1).double())
    torch.float64
    """
    kinds = (parameter.dtype for parameter in module.parameters() if parameter.is_floating_point())
    return next(kinds, torch.float32)


@contextmanager
def run_errors(images: Tensor, input_shape: tuple[int, ...]) -> Iterator[None]:
    """Turn what a network that is set up for `input_shape` raises on these images into a ModelError that says so."""
    try:
        yield
    except (PellucidError, torch.cuda.OutOfMemoryError):
        raise
    except Exception as error:
        raise ModelError(
            f"the network cannot be run on images of shape {tuple(images.shape)}: {first_line(error)}; "
            f"input_size= is {input_shape}"
        ) from error


def first_line(error: Exception) -> str:
    """An error's message as far as its first line ends, with its type unless the message is pellucid's own.

    >>> first_line(ValueError("too large\\nby far"))
    'ValueError: too large'
    """
    line = next(iter(str(error).strip().splitlines()), "")
    return line if isinstance(error, PellucidError) else f"{type(error).__name__}: {line}"


def check_logits(output: object) -> Tensor:
    """The network's output if it is a batch of logits (N, K).

    >>> check_logits({"logits": 1})
    Traceback (most recent call last):
        ...
    pellucid.errors.ModelError: the network returns a dict; wrap it so that forward returns logits of shape (N, K)
    """
    if isinstance(output, Tensor) and output.ndim == 2:
        return output
    returned = f"tensor of shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
    raise ModelError(f"the network returns a {returned}; wrap it so that forward returns logits of shape (N, K)")

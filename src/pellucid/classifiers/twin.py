"""A frozen twin of the user's network: the same memory, none of the same objects.

Everything pellucid does to a network (tracing it, switching in-place operations off, moving it to a device, hooking it)
happens to the twin, so the user's own module keeps its mode, gradients, hooks and flags whatever happens.
"""

import copy
from typing import Any

import torch
from torch import nn

from pellucid.errors import ModelError

__all__ = ["frozen_twin", "refuse_train_mode"]


def frozen_twin(module: nn.Module) -> nn.Module:
    """Copy the module tree while sharing every parameter and buffer, detached and without gradients.

    In-place changes of the user's weights (an optimiser step, `load_state_dict`) are seen by the twin; replacing the
    weights (`module.to(device)`, `load_state_dict(assign=True)`) is not: make a new `Classifier` after that.

    Raises:
        ModelError: the module holds something that cannot be copied.
    """
    memo: dict[int, Any] = {}
    for part in module.modules():
        for value in _tensors_of(part):
            memo[id(value)] = _alias(value)
    try:
        return copy.deepcopy(module, memo)
    except Exception as error:
        raise ModelError(
            f"{type(module).__name__} cannot be copied ({type(error).__name__}: {error}); "
            "remove attributes that cannot be deep-copied, such as open files, locks and generators"
        ) from error


def _tensors_of(part: nn.Module) -> list[torch.Tensor]:
    held = [*part.parameters(recurse=False), *part.buffers(recurse=False)]
    held += [value for value in vars(part).values() if isinstance(value, torch.Tensor)]
    return held


def _alias(tensor: torch.Tensor) -> torch.Tensor:
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(tensor.detach(), requires_grad=False)
    return tensor.detach()


def refuse_train_mode(module: nn.Module) -> None:
    """Raise a ModelError naming the first submodule in train mode: its output could depend on chance or on the batch."""
    for name, part in module.named_modules():
        if part.training:
            label = f"submodule {name!r} ({type(part).__name__})" if name else f"the {type(part).__name__}"
            raise ModelError(f"{label} is in train mode; call module.eval() before explaining it")

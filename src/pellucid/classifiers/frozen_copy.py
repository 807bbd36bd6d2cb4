"""A frozen copy of the user's network: the same memory, none of the same objects.

Everything pellucid does to a network (tracing it, switching in-place operations off, moving it to a device, hooking it)
happens to the copy, so the user's own module keeps its mode, gradients, hooks and flags whatever happens.
"""

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from pellucid.errors import ModelError


def frozen_copy(module: nn.Module) -> nn.Module:
    """Copy the module tree while sharing every parameter and buffer, detached and without gradients.

    In-place changes of the user's weights (an optimizer step, `load_state_dict`) are seen by the copy; replacing the
    weights (`module.to(device)`, `load_state_dict(assign=True)`) is not: make a new `Classifier` after that. Hooks that
    the user has put on the module are part of what it computes, so they act on the copy too.

    Raises:
        ModelError: the module holds something that cannot be copied.

    >>> layer = nn.Linear(2, 1)
    >>> copied = frozen_copy(layer)
    >>> copied.weight.requires_grad, copied.weight.data_ptr() == layer.weight.data_ptr()
    (False, True)
    """
    memo: dict[int, Any] = {}
    try:
        with torch.inference_mode(False):
            for part in module.modules():
                memo |= {id(owner): owner for owner in _owners_of_hooks(part)}
                memo |= {id(tensor): _alias(tensor) for tensor in _tensors_in(vars(part))}
            return copy.deepcopy(module, memo)
    except Exception as error:
        raise ModelError(
            f"{type(module).__name__} cannot be copied ({type(error).__name__}: {error}); "
            "remove attributes that cannot be deep-copied, such as open files, locks and generators"
        ) from error


def _tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """Tensors in a module's attributes: weights, buffers, and those it keeps in plain containers."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _tensors_in(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors_in(part)


def _owners_of_hooks(part: nn.Module) -> Iterator[Any]:
    """Objects behind the hooks, such as another tool's recorder: they are the user's and are not to be copied."""
    for name, hooks in vars(part).items():
        if name.endswith("_hooks") and isinstance(hooks, dict):
            owners = (getattr(hook, "__self__", hook) for hook in hooks.values())
            yield from (owner for owner in owners if not isinstance(owner, nn.Module))


def _alias(tensor: torch.Tensor) -> torch.Tensor:
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(tensor.detach(), requires_grad=False)
    return tensor.detach()


def refuse_train_mode(module: nn.Module) -> None:
    """Raise a ModelError naming the first submodule in train mode: its output may depend on chance or the batch.

    >>> refuse_train_mode(nn.Linear(2, 1))
    Traceback (most recent call last):
        ...
    pellucid.errors.ModelError: the Linear is in train mode; call module.eval() before explaining it
    """
    for name, part in module.named_modules():
        if part.training:
            label = f"submodule {name!r} ({type(part).__name__})" if name else f"the {type(part).__name__}"
            raise ModelError(f"{label} is in train mode; call module.eval() before explaining it")

"""Weights from local files, safetensors or torch state dicts. Nothing in a file is ever run."""

import pickle
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from pellucid.errors import ModelError

# Where training scripts put the state dict inside a checkpoint, in the order looked up.
_CHECKPOINT_KEYS = ("state_dict", "model_state_dict", "model", "net")
# What DataParallel and torch.compile put before every name.
_WRAPPER_PREFIXES = ("module.", "_orig_mod.")
_NAMES_SHOWN = 3


def load_weights(module: nn.Module, path: str | Path) -> None:
    """Load the weights in a file into `module`, in place; every name and every shape must fit.

    Values are cast to the module's own dtype. Batch norm's counters of batches may be missing: they are
    unused in eval mode.

    Args:
        module: the network; unchanged if this raises.
        path: see `read_state_dict`.

    Raises:
        ModelError: the file cannot be read, or its names or shapes do not fit; the message says which.

    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> module = nn.Linear(2, 3)
    >>> with TemporaryDirectory() as folder:
    ...     torch.save(module.state_dict(), Path(folder, "weights.pt"))
    ...     load_weights(nn.Linear(2, 3), Path(folder, "weights.pt"))
    """
    _load_state(module, read_state_dict(path, module.state_dict()), source=str(path))


def build_with_weights(
    build: Callable[..., nn.Module],
    path: str | Path,
    *,
    classes: int = 1000,
    rename: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]] = dict,
) -> tuple[nn.Module, int]:
    """Build a network for as many classes as the weights in a file are for, and load them.

    Args:
        build: makes the network, for `classes` classes or for `num_classes=`.
        path: see `read_state_dict`.
        classes: how many classes `build()` makes it for; the last weight of that many rows is the head.
        rename: from the file's names to the network's.

    Returns:
        The network, in the mode that `build` leaves it in, and its number of classes.

    Raises:
        ModelError: as `load_weights`.

    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> module = nn.Linear(2, 3)
    >>> with TemporaryDirectory() as folder:
    ...     torch.save(module.state_dict(), Path(folder, "weights.pt"))
    ...     def build(num_classes: int = 1000) -> nn.Module:
    ...         return nn.Linear(2, num_classes)
    ...     build_with_weights(build, Path(folder, "weights.pt"))
    (Linear(in_features=2, out_features=3, bias=True), 3)
    """
    module = build()
    expected = module.state_dict()
    state = rename(read_state_dict(path, expected))
    heads = (name for name in reversed(expected) if expected[name].ndim > 1 and len(expected[name]) == classes)
    head = next(heads, None)
    if head in state and len(state[head]) != classes:
        classes = len(state[head])
        module = build(num_classes=classes)
    _load_state(module, state, source=str(path))
    return module, classes


def _load_state(module: nn.Module, state: Mapping[str, torch.Tensor], source: str) -> None:
    expected = module.state_dict()
    missing = [name for name in expected if name not in state and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in state if name not in expected]
    shapes = [
        f"{name} is {tuple(state[name].shape)}, expected {tuple(expected[name].shape)}"
        for name in expected
        if name in state and state[name].shape != expected[name].shape
    ]
    problems = [("missing", missing), ("unexpected", unexpected), ("of another shape", shapes)]
    messages = [f"{len(names)} {kind} ({_first_few(names)})" for kind, names in problems if names]
    if messages:
        raise ModelError(
            f"the weights in {source} do not fit {type(module).__name__} ({len(expected)} tensors): "
            f"{'; '.join(messages)}. Give weights of this very architecture and number of classes"
        )
    expected.update(state)  # the module's own state dict also knows the versions of its layers
    module.load_state_dict(expected)


def copy_in_order(module: nn.Module, state: Mapping[str, torch.Tensor], source: str) -> None:
    """Load tensors that come in the order of `module.state_dict()` under other names, in place.

    Args:
        module: the network; unchanged if this raises.
        state: as many tensors, of the same shapes, in the same order.
        source: names `state` in errors.

    Raises:
        ModelError: the number of tensors differs, or a shape does; the message names the first that does.

    >>> module = nn.Linear(2, 3)
    >>> copy_in_order(module, {"w": torch.ones(3, 2), "b": torch.zeros(3)}, source="ones")
    >>> module.weight.unique().tolist()
    [1.0]
    """
    expected = module.state_dict()
    label = f"the weights in {source} do not fit {type(module).__name__}"
    if len(state) != len(expected):
        raise ModelError(f"{label}: it has {len(state)} tensors, expected {len(expected)}")
    for (source_name, value), (name, parameter) in zip(state.items(), expected.items(), strict=True):
        if value.shape != parameter.shape:
            shapes = f"is {tuple(value.shape)}, expected {tuple(parameter.shape)}"
            raise ModelError(f"{label}: {source_name} {shapes} for {name}")
    _load_state(module, dict(zip(expected, state.values(), strict=True)), source)


def read_state_dict(path: str | Path, expected: Iterable[str] = ()) -> dict[str, torch.Tensor]:
    """Read name -> tensor from a file, on the CPU.

    Args:
        path: a `.safetensors` file, or what `torch.save` wrote: a state dict, or a checkpoint that holds one
            under `state_dict`, `model_state_dict`, `model` or `net`. The rest of a checkpoint (`best_prec1`,
            the optimizer) is passed over.
        expected: names of the network's tensors; unless these have it too, the prefix that DataParallel or
            torch.compile put before every name is taken away.

    Raises:
        ModelError: no such file, not such a file, damaged, or a pickle that holds more than tensors and plain
            values: pickles can run code and are never run.

    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> module = nn.Linear(2, 3)
    >>> with TemporaryDirectory() as folder:
    ...     torch.save(module.state_dict(), Path(folder, "weights.pt"))
    ...     sorted(read_state_dict(Path(folder, "weights.pt")))
    ['bias', 'weight']
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"no file of weights at {path}" + (" (it is a folder)" if path.is_dir() else ""))
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    state = _state_dict_of(content)
    if not state:
        raise ModelError(
            f"{path} holds no state dict: {_describe(content)}, expected tensors by name, at the top or "
            f"under one of {', '.join(_CHECKPOINT_KEYS)}"
        )
    return _strip_wrapper_prefixes(state, expected)


def _read_safetensors(path: Path) -> Any:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} cannot be read as safetensors: {error}") from error


def _read_torch(path: Path) -> Any:
    if not _written_by_torch(path):
        raise ModelError(f"{path} is not a file of weights: expected .safetensors, or what torch.save writes")
    if _is_torchscript(path):
        raise ModelError(
            f"{path} is a TorchScript program, not weights, and programs in files are never run here. If you trust it, "
            f"convert it once: torch.save(torch.jit.load({str(path)!r}).state_dict(), 'weights.pt')"
        )
    try:
        with warnings.catch_warnings(action="ignore"):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path} is a pickle that holds more than tensors and plain values, and pickles are never run "
            "here. If you trust it, convert it once: torch.load(path, weights_only=False) gives what is in "
            "it, safetensors.torch.save_file(its state dict, 'weights.safetensors') the file to give instead"
        ) from error
    except Exception as error:  # a damaged file fails anywhere in the parser
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ModelError(f"{path} cannot be read as weights: {reason}") from error


def _written_by_torch(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(4)
    return start == b"PK\x03\x04" or start[:1] == b"\x80"  # a zip archive, or the pickle of torch before 1.6


def _is_torchscript(path: Path) -> bool:
    """Whether the archive holds code, which `torch.jit.save` writes."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except zipfile.BadZipFile:
        return False


def _state_dict_of(content: Any) -> dict[str, torch.Tensor]:
    """The tensors in `content`, or in the state dict that it holds as a checkpoint."""
    if not isinstance(content, Mapping):
        return {}
    inner = next((content[key] for key in _CHECKPOINT_KEYS if isinstance(content.get(key), Mapping)), content)
    return {str(name): value for name, value in inner.items() if isinstance(value, torch.Tensor)}


def _strip_wrapper_prefixes(state: dict[str, torch.Tensor], expected: Iterable[str]) -> dict[str, torch.Tensor]:
    names = list(expected)
    for prefix in _WRAPPER_PREFIXES:
        is_expected = any(name.startswith(prefix) for name in names)
        if not is_expected and all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _first_few(names: list[str]) -> str:
    return ", ".join(names[:_NAMES_SHOWN]) + (", ..." if len(names) > _NAMES_SHOWN else "")


def _describe(content: Any) -> str:
    if isinstance(content, Mapping):
        return f"a mapping with the keys {_first_few([str(key) for key in content])}"
    return f"a {type(content).__name__}"

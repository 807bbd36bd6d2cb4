"""Named tensors in a file: safetensors, written whole or not at all."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from pellucid.errors import PellucidError
from pellucid.storage import write_atomically


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors under their names.

    >>> import tempfile, torch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_tensors(Path(folder) / "file.safetensors", {"net.bias": torch.ones(2)})
    ...     read_tensors(Path(folder) / "file.safetensors")
    {'net.bias': tensor([1., 1.])}
    """
    from safetensors.torch import save

    owned = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, save(owned))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, by name.

    Raises:
        PellucidError: the file is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(path.read_bytes())
    except FileNotFoundError as error:
        raise PellucidError(f"{path} does not exist") from error
    except SafetensorError as error:
        raise PellucidError(f"{path} is damaged ({error}); it has to be made again") from error


def select_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin so, without that beginning.

    >>> sorted(select_prefix({"net.weight": Tensor(), "net.bias": Tensor(), "head.bias": Tensor()}, "net."))
    ['bias', 'weight']
    """
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}

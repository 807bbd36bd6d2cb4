"""Fitted CAVs in a folder, one safetensors file each, under the names of their layer and concept."""

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from pellucid.concepts.cav import CAV
from pellucid.errors import PellucidError


def save_cavs(cavs: Sequence[CAV], folder: str | Path) -> list[Path]:
    """Write each CAV to FOLDER/layer/concept.safetensors; characters that no file name may have are percent-encoded.

    Returns:
        The files, in the order of the CAVs.

    Raises:
        PellucidError: the folder cannot be written.
    """
    files = [Path(folder) / _file_name(cav.layer) / f"{_file_name(cav.name)}.safetensors" for cav in cavs]
    for cav, file in zip(cavs, files, strict=True):
        cav.save(file)
    return files


def load_cavs(folder: str | Path) -> list[CAV]:
    """Read all CAVs in a folder and the folders in it, sorted by path.

    Raises:
        PellucidError: there is no CAV, or a file is damaged or of another version.
    """
    files = cav_files(folder)
    if not files:
        raise PellucidError(f"{folder}: no CAVs (*.safetensors) in this folder; `pellucid concepts fit` writes them")
    return [CAV.load(file) for file in files]


def cav_files(folder: str | Path) -> list[Path]:
    """The files of CAVs in a folder and the folders in it, sorted; none if there is no such folder."""
    return sorted(Path(folder).rglob("*.safetensors"))


def _file_name(name: str) -> str:
    encoded = quote(name, safe=" ,()+")
    return f"%2E{encoded[1:]}" if encoded.startswith(".") else encoded

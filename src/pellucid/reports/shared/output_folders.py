"""Folders for what is written of several images."""

from collections.abc import Sequence
from pathlib import Path


def image_folders(files: Sequence[Path], out: Path) -> list[Path]:
    """One folder per image, named after it; equal names are distinguished by a number.

    Args:
        files: the images.
        out: the folder of all.

    >>> [str(folder) for folder in image_folders([Path("x/cat.png"), Path("y/cat.png")], Path("out"))]
    ['out/cat', 'out/cat-2']
    """
    names: list[str] = []
    for file in files:
        own = file.name if set(file.stem) == {"."} else file.stem  # "...png" would name the parent of the folder
        name, number = own, 2
        while name in names:
            name, number = f"{own}-{number}", number + 1
        names.append(name)
    return [out / name for name in names]

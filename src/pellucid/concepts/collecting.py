"""Concept sets from folders of images and from drawn ones, with the negatives that they share."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from pellucid.concepts.concept_sets import ConceptSet, concept_set, warn
from pellucid.data import find_images
from pellucid.errors import ImageError, PellucidError
from pellucid.synthetic import NEGATIVES, draw_images

DRAWN_COUNT = 40
"""So many images of a concept are drawn unless another number is asked for."""


def draw_concept_set(name: str, count: int = DRAWN_COUNT, *, size: int = 224, seed: int = 0) -> ConceptSet:
    """A concept set of drawn images.

    Args:
        name: a texture or color, or "negatives" for images without any (see `pellucid.synthetic.textures`).
        count, size, seed: how many, side in pixels, and what varies.
    """
    drawn = concept_set(draw_images(name, count, size, seed), name)
    return replace(drawn, sources=tuple(f"drawn {name} {index} of seed {seed}" for index in range(count)))


def concept_folders(
    folder: str | Path, negatives: str = NEGATIVES, *, count: int | None = None, seed: int = 0
) -> tuple[list[ConceptSet], ConceptSet]:
    """Concept sets from a folder that holds one folder per concept and one of images without them.

    Args:
        folder: its sub-folders are the concepts; hidden ones are skipped.
        negatives: name of the folder of images without any of the concepts.
        count, seed: a random sample of at most so many images of each folder.

    Returns:
        (concepts sorted by name, negatives).

    Raises:
        ImageError: there is no such folder, no concept in it, or a folder has no images.
    """
    root, folders = Path(folder), _folders_in(folder, f"one named {negatives!r}")
    if root / negatives not in folders or len(folders) < 2:
        found = ", ".join(path.name for path in folders)
        raise ImageError(f"{root}: holds {found}; wanted a folder per concept and one named {negatives!r}")
    sets = [_sample(path, path.name, count, seed) for path in folders if path.name != negatives]
    return sets, _sample(root / negatives, negatives, count, seed)


def collect_sets(
    folder: str | Path | None = None,
    drawn: Sequence[str] = (),
    negatives: str | Path | None = None,
    *,
    count: int | None = None,
    size: int = 224,
    seed: int = 0,
    on_set: Callable[[str], None] = lambda name: None,
) -> tuple[list[ConceptSet], ConceptSet]:
    """Concept sets from a folder, drawn ones, or both, and the negatives that they share.

    Args:
        folder: its sub-folders are concepts; hidden ones and one named "negatives" are not.
        drawn: names of concepts to draw.
        negatives: folder of images without any of the concepts; by default `folder`'s own "negatives", else drawn
            ones. Against photographed concepts drawn negatives are warned of.
        count: images of each set: of a folder at most so many, sampled; drawn, `DRAWN_COUNT` by default.
        size: side of drawn images in pixels.
        seed: of samples and drawings.
        on_set: called with the name of each set before it is made.

    Returns:
        (concepts, negatives).

    Raises:
        ImageError: there is no such folder, no concept in it, or a folder has no images.
        PellucidError: no concepts, or two of one name.
    """
    own = [] if folder is None else _folders_in(folder, "optionally one named 'negatives'")
    inside = next((path for path in own if path.name == NEGATIVES), None)
    shown = [path for path in own if path != inside]
    names = [*(path.name for path in shown), *drawn]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if not names or repeated:
        problem = f"there are two concepts named {', '.join(repeated)}" if repeated else "there are no concepts"
        raise PellucidError(f"{problem}; wanted a folder per concept, drawn concepts, or both, each with its own name")
    sets = []
    for path in shown:
        on_set(path.name)
        sets.append(_sample(path, path.name, count, seed))
    for name in drawn:
        on_set(name)
        sets.append(draw_concept_set(name, count or DRAWN_COUNT, size=size, seed=seed))
    on_set(NEGATIVES)
    without = negatives or inside
    if without is not None:
        return sets, _sample(Path(without), NEGATIVES, count, seed)
    if shown:
        names = [path.name for path in shown]
        warn(
            [
                f"{', '.join(names)}: given images against drawn negatives: the CAVs may tell photographs from "
                "drawings; add a folder 'negatives' of ordinary photographs"
            ]
        )
    return sets, draw_concept_set(NEGATIVES, count or DRAWN_COUNT, size=size, seed=seed)


def _folders_in(folder: str | Path, negatives: str) -> list[Path]:
    root = Path(folder)
    wanted = f"wanted one with a folder of images per concept and {negatives}"
    if not root.is_dir():
        raise ImageError(f"{root}: no such folder; {wanted}")
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not folders:
        raise ImageError(f"{root}: holds no folders; {wanted}")
    return folders


def _sample(folder: Path, name: str, count: int | None, seed: int) -> ConceptSet:
    files = find_images(folder)
    return concept_set(files, name, count=None if count is None else min(count, len(files)), seed=seed)

"""The images of a surrogate: found with their context, split, read, and measured or redrawn by code."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor

from pellucid.classifiers import Classifier
from pellucid.data import ContextTable, find_images, read_context
from pellucid.errors import PellucidError
from pellucid.surrogate import (
    DisplaySpace,
    Measure,
    Rerender,
    SurrogateExplainer,
    digit_measure,
    digit_rerender,
    measure_digits,
    r2_by_context,
)
from pellucid.synthetic.morphomnist import MEASURES, SETTABLE

MIN_HELD_OUT = 50
MORPHOMNIST = "morphomnist"
MEASURE_DESCRIPTIONS = {
    "predictors": "the surrogate's own attribute predictors (upper bounds)",
    MORPHOMNIST: "Morpho-MNIST morphometry",
}
_MIN_R2 = 0.9
_MIN_MEASURABLE = 0.5  # share of the images
_WITHOUT = {"--measure": "--measure predictors", "--rerender": "--rerender none"}
_QUANTILES = (0.01, 0.99)


@dataclass(frozen=True)
class ImageSample:
    """Images (N, C, H, W) in the classifier's input space, their files, and their context if it is known."""

    files: Sequence[Path]
    images: Tensor
    context: ContextTable | None


def find_images_with_context(
    folder: Path, context: Path | None, columns: Sequence[str] = ()
) -> tuple[list[Path], ContextTable | None]:
    """The images below a folder and, if there is a table, their rows in the same order.

    Args:
        folder: searched with all its folders.
        context: CSV with a row per image; None for no context.
        columns: of the table; all if empty.

    Raises:
        PellucidError: no such folder, or a table that does not fit the images.
    """
    if not folder.is_dir():
        raise PellucidError(f"{folder} is not a folder of images")
    if context is None:
        return find_images(folder, recursive=True), None
    table = read_context(context, folder, columns=list(columns) or None)
    return list(table.files or ()), table


def digest_of_files(files: Sequence[Path]) -> str:
    """Identifies a list of files in its order: with other files, other rows would be held out.

    >>> digest_of_files([]) == digest_of_files([Path("a.png")])
    False
    """
    return sha256(os.fsencode("\n".join(map(str, files)))).hexdigest()


def split_rows(count: int, held_out: float, seed: int) -> tuple[list[int], list[int]]:
    """Rows to train on and rows held out, drawn at random; both in order.

    Args:
        count: rows in all.
        held_out: share of them that is held out, in ]0, 1[.
        seed: of the draw.

    Raises:
        PellucidError: a share outside ]0, 1[, or too few images held out.

    >>> train, held = split_rows(200, 0.25, seed=0)
    >>> len(train), len(held), sorted(train + held) == list(range(200))
    (150, 50, True)
    """
    if not 0 < held_out < 1:
        raise PellucidError(f"--held-out is the share of images kept from training, between 0 and 1, not {held_out:g}")
    kept = round(held_out * count)
    if kept < MIN_HELD_OUT:
        raise PellucidError(
            f"{count} images are too few: --held-out {held_out:g} of them are {kept}, and at least {MIN_HELD_OUT} "
            "are needed to assess the surrogate and to explain against"
        )
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    return sorted(order[kept:]), sorted(order[:kept])


def read_sample(
    classifier: Classifier, files: Sequence[Path], table: ContextTable | None, rows: Sequence[int]
) -> ImageSample:
    """Read some of the images and their context.

    Args:
        classifier: that reads them.
        files: all images.
        table: their context, in the same order.
        rows: which of them.

    Raises:
        PellucidError: a file is not an image, or the classifier's preprocessing leaves them at different sizes.
    """
    chosen = [files[row] for row in rows]
    images = [classifier.read(file) for file in chosen]
    if sizes := {tuple(image.shape[1:]) for image in images[1:]} - {tuple(images[0].shape[1:])}:
        raise PellucidError(
            f"images differ in size once read: {tuple(images[0].shape[1:])} and {sizes.pop()}; bring them to one size, "
            "or give the classifier a preprocessing that does"
        )
    context = None if table is None else table.subset(rows)
    return ImageSample(chosen, classifier.check_images(torch.cat(images)), context)


def check_measures(measure: str, rerender: str, contexts: Sequence[str]) -> None:
    """Refuse unknown names, and contexts that are not measures of digits, before anything long is computed.

    Args:
        measure: what re-measures images: "predictors" or "morphomnist".
        rerender: what redraws images for the training: "none" or "morphomnist".
        contexts: names of the context columns.

    Raises:
        PellucidError: an unknown name, or contexts that morphometry cannot measure or set.

    >>> check_measures("morphomnist", "none", ["thickness", "slant"])
    >>> check_measures("morphomnist", "none", ["age"])  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    pellucid.errors.PellucidError: --measure morphomnist knows area, ...; the context has age
    """
    if measure not in MEASURE_DESCRIPTIONS or rerender not in ("none", MORPHOMNIST):
        raise PellucidError(
            f"--measure {measure} --rerender {rerender}: choose predictors or morphomnist, none or morphomnist"
        )
    for chosen, option, known in ((measure, "--measure", MEASURES), (rerender, "--rerender", SETTABLE)):
        others = sorted(set(contexts) - set(known))
        if chosen == MORPHOMNIST and (others or not contexts):
            raise PellucidError(
                f"{option} morphomnist knows {', '.join(known)}; the context has {', '.join(others) or 'no columns'}"
            )


def find_measure(name: str, explainer: SurrogateExplainer, sample: ImageSample) -> Measure | None:
    """What re-measures images; None for the surrogate's own attribute predictors.

    Args:
        name: "predictors" or "morphomnist".
        explainer: whose contexts are measured.
        sample: images, with the context that measuring them must give.

    Raises:
        PellucidError: an unknown name, or measuring the given images does not give what their table says.
    """
    check_measures(name, "none", explainer.context_names)
    if name != MORPHOMNIST:
        return None
    if sample.context is not None:
        check_table(sample.images, sample.context, explainer.surrogate.space)
    return digit_measure(explainer.surrogate)


def check_table(images: Tensor, context: ContextTable, space: DisplaySpace, option: str = "--measure") -> None:
    """Refuse a table that is not what morphometry gives for its images.

    Args:
        images: (N, C, H, W) in the classifier's input space.
        context: their table.
        space: display space of the images.
        option: that asks for morphometry, for the message.

    Raises:
        PellucidError: too few images can be measured, or some column is something else.
    """
    measured, table = measure_digits(space.to_display(images), context.names), context.values.float()
    known = measured.isfinite().all(1)
    if int(known.sum()) < max(3, _MIN_MEASURABLE * len(images)):
        raise PellucidError(
            f"{option} morphomnist: only {int(known.sum())} of {len(images)} images can be measured: it takes bright "
            "digits on black"
        )
    r2 = r2_by_context(context.names, measured[known], table[known].to(measured))
    if poor := {name: share for name, share in r2.items() if not share >= _MIN_R2}:
        values = ", ".join(f"{name} R2 {share:.2f}" for name, share in poor.items())
        raise PellucidError(
            f"morphometry of the images does not give what the context table says ({values}): were they resized since "
            f"they were measured? Use {_WITHOUT[option]}, or a table measured on these images"
        )


def find_rerender(name: str, classifier: Classifier, context: ContextTable | None, examples: Tensor) -> Rerender | None:
    """What redraws digits with contexts drawn independently over the table's range; None for none.

    Args:
        name: "none" or "morphomnist".
        classifier: whose input space the images are in.
        context: the training table.
        examples: (N, C, H, W), some training images.
    """
    if name != MORPHOMNIST or context is None:
        return None
    low, high = torch.quantile(context.values, torch.tensor(_QUANTILES, dtype=torch.float64), dim=0).float()
    return digit_rerender(context.names, low, high, DisplaySpace.of(classifier, examples))

"""Training a twin from a classifier, its images and their context; a killed training goes on as if it never was."""

from collections.abc import Sequence
from contextlib import nullcontext
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor

from pellucid.classifiers import Classifier
from pellucid.data import ContextTable
from pellucid.errors import PellucidError
from pellucid.storage import to_record
from pellucid.surrogate.causal.discovery import CLASS_NODE
from pellucid.surrogate.explain.decision_effects import DECISION_NODE
from pellucid.surrogate.model.attribute_predictors import Rerender
from pellucid.surrogate.model.codes import latent_names
from pellucid.surrogate.model.features import LOGITS_ONLY, FeatureExtractor
from pellucid.surrogate.model.image_space import DisplaySpace
from pellucid.surrogate.model.surrogate_networks import DataSizes, gain_column
from pellucid.surrogate.surrogate import SurrogateExplainer
from pellucid.surrogate.training.checkpoint import TrainingFolder, digest_of
from pellucid.surrogate.training.distributed import (
    check_own_gpu,
    is_main_process,
    join,
    wait_for_all,
    world_size,
)
from pellucid.surrogate.training.image_datasets import make_dataset
from pellucid.surrogate.training.loop import run
from pellucid.surrogate.training.preparation import prepare
from pellucid.surrogate.training.trainer import Trainer
from pellucid.surrogate.training.training_options import TrainingOptions, get_preset
from pellucid.surrogate.training.training_progress import ProgressCallback, TrainingProgress, print_progress


def train(
    classifier: Classifier,
    images: Tensor | Sequence[str | Path],
    context: ContextTable | None = None,
    preset: str | TrainingOptions = "cpu-32",
    out: str | Path = "run/",
    *,
    layers: Sequence[str] | str | None = None,
    rerender: Rerender | None = None,
    report: ProgressCallback | None = print_progress,
    max_bytes_in_memory: int = 2 * 2**30,
) -> SurrogateExplainer:
    """Train the twin surrogate of a classifier; goes on where it was if `out` is half done.

    It runs on the classifier's device, and on several through torchrun, each process with a classifier on its own GPU.
    Ctrl-C ends the training of the twin after the step in hand, which is kept (of several processes: the last
    checkpoint is); a second one ends it at once.

    Args:
        classifier: to be explained.
        images: images (N, C, R, R) in the classifier's input space, or files that it reads.
        context: named context features, one row per image; none for a twin of unexplained latents only.
        preset: name of a preset, or options.
        out: folder for checkpoints, log, preview strip and the finished twin.
        layers: where the classifier is seen; by default one layer for each of its last resolutions.
            `pellucid.surrogate.LOGITS_ONLY` takes it as a black box.
        rerender: draws versions of images with other contexts, known (see `Rerender`); must be the same on resuming.
        report: is told of the progress; None for silence.
        max_bytes_in_memory: image files are held in memory up to this size, and read for every batch beyond.

    Raises:
        PellucidError: images, context and classifier do not fit each other or the preset.
        CheckpointError: `out` holds another training, or another process is training there.
        DivergedError: the training went astray again after several roll-backs.
        KeyboardInterrupt: on Ctrl-C.
    """
    join()
    options = get_preset(preset) if isinstance(preset, str) else preset
    if options.batch % (4 * world_size()):
        raise PellucidError(f"batch {options.batch} does not divide into multiples of 4 for {world_size()} processes")
    check_own_gpu(classifier.device)
    dataset, space = make_dataset(images, classifier, options.resolution, max_bytes_in_memory)
    names, values = _columns(context, len(dataset), options)
    gain_column(options.gain, names)
    if not isinstance(images, Tensor) and context is not None and context.files is not None:
        _same_order(images, context.files)
    features = FeatureExtractor(classifier, layers)
    folder = TrainingFolder(out)
    with folder.locked() if is_main_process() else nullcontext():
        if is_main_process():
            folder.bind_plan(_identity(classifier, features, options, space, images, names, values, rerender))
        wait_for_all()
        told = report if is_main_process() and report is not None else _say_nothing
        data = prepare(
            dataset, values, space, features, options, folder.path, rerender, lambda line: told(_note(options, line))
        )
        sizes = DataSizes(classifier.input_shape[0], features.length, classifier.num_classes, names)
        trainer = Trainer(features, space, data, sizes, options)

        def surrogate() -> SurrogateExplainer:
            return _surrogate(trainer, features, space, sizes)

        run(trainer, folder, lambda: surrogate().save(folder.path), told)
        return surrogate()


def _columns(context: ContextTable | None, images: int, options: TrainingOptions) -> tuple[tuple[str, ...], Tensor]:
    """Names and values (N, K_c) of the context; without a table there are none."""
    if context is None:
        if images < 2 * options.batch:
            raise PellucidError(f"{images} images are too few for batches of {options.batch}; give at least twice that")
        return (), torch.zeros(images, 0)
    if images < 10 * options.judges:
        raise PellucidError(f"{images} images are too few for {options.judges} judges: give ten times as many")
    context.check(at_least=2 * options.batch, images=images)
    if taken := set(context.names) & {CLASS_NODE, DECISION_NODE, *latent_names(options.latents)}:
        raise PellucidError(
            f"the context {sorted(taken)[0]!r} has a name that graphs need for themselves: rename the column, or leave "
            "it out (--columns)"
        )
    for name, column in zip(context.names, context.values.T, strict=True):
        spread = float(column.std())
        if not spread > 1e-4 * float(column.abs().max()) or spread < 1e-5:
            raise PellucidError(
                f"the context {name!r} varies by {spread:.3g} about {float(column.mean()):.6g}, too little for "
                "float32: take its mean away and divide it by its standard deviation"
            )
    return context.names, context.values.float()


def _same_order(images: Sequence[str | Path], files: Sequence[Path]) -> None:
    for row, (image, file) in enumerate(zip(images, files, strict=True)):
        if Path(image).resolve() != file.resolve():
            raise PellucidError(
                f"row {row} of the context table is that of {file}, and image {row} is {image}: give the images in "
                "the table's order, context.files"
            )


def _say_nothing(progress: TrainingProgress) -> None:
    pass


def _note(options: TrainingOptions, line: str) -> TrainingProgress:
    return TrainingProgress(0, options.steps, {}, 0.0, line)


def _identity(
    classifier: Classifier,
    features: FeatureExtractor,
    options: TrainingOptions,
    space: DisplaySpace,
    images: Tensor | Sequence[str | Path],
    names: Sequence[str],
    values: Tensor,
    rerender: Rerender | None,
) -> dict[str, object]:
    held = isinstance(images, Tensor)
    files = [] if held else [sha256(Path(file).read_bytes()).hexdigest() for file in images]
    return {
        "classifier": classifier.fingerprint(),
        "layers": LOGITS_ONLY if features.black_box else list(features.layers),
        "options": to_record(options),
        "context": list(names),
        "data": digest_of(files, [values, *([images] if isinstance(images, Tensor) else [])]),
        "space": [list(space.low), list(space.high)],
        "rerendered": rerender is not None,
        "processes": world_size(),
    }


def _surrogate(
    trainer: Trainer, features: FeatureExtractor, space: DisplaySpace, sizes: DataSizes
) -> SurrogateExplainer:
    data = trainer.data
    return SurrogateExplainer(
        features,
        trainer.mean.network,
        data.auxiliary_models,
        space,
        sizes,
        trainer.options,
        data.quality,
        data.span,
        trainer.steps,
    )

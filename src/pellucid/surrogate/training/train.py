"""Training a surrogate from a classifier, its images and their context; an interrupted training resumes bit for bit."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pellucid.classifiers import Classifier
from pellucid.data import ContextTable
from pellucid.errors import PellucidError
from pellucid.storage import to_record
from pellucid.surrogate.causal import CLASS_NODE
from pellucid.surrogate.explain.decision_effects import DECISION_NODE
from pellucid.surrogate.model.codes import name_latents
from pellucid.surrogate.model.features import LOGITS_ONLY, FeatureExtractor
from pellucid.surrogate.model.image_space import DisplaySpace
from pellucid.surrogate.model.surrogate_networks import DataSizes, find_brightness_column
from pellucid.surrogate.training.checkpoint import TrainingFolder, digest_of
from pellucid.surrogate.training.distributed import (
    check_own_gpu,
    is_main_process,
    join_processes,
    wait_for_all,
    world_size,
)
from pellucid.surrogate.training.image_datasets import make_dataset
from pellucid.surrogate.training.loop import run_training
from pellucid.surrogate.training.preparation import prepare
from pellucid.surrogate.training.trainer import Trainer
from pellucid.surrogate.training.training_progress import ProgressCallback, TrainingProgress, print_progress
from pellucid.surrogate.training_options import Rerender, TrainingOptions, get_preset

if TYPE_CHECKING:
    from pellucid.surrogate.explainer import SurrogateExplainer

_MAX_LEVELS = 10
"""A context with no more values than this is discrete."""


def train(
    classifier: Classifier,
    images: Tensor | Sequence[str | Path],
    context: ContextTable | None = None,
    preset: str | TrainingOptions = "cpu-32",
    out: str | Path = "run/",
    *,
    layers: Sequence[str] | str | None = None,
    rerender: Rerender | None = None,
    on_progress: ProgressCallback | None = print_progress,
    on_start: Callable[[], None] | None = None,
) -> "SurrogateExplainer":
    """Train the surrogate of a classifier; continues where it was if `out` is half done.

    It runs on the classifier's device, and on several through torchrun, each process with a classifier on its own GPU.
    Ctrl-C ends the training of the networks after the current step, which is kept (of several processes: the last
    checkpoint is); a second one ends it at once.

    Args:
        classifier: The classifier to be explained.
        images: Images (N, C, R, R) in the classifier's input space, or files that it reads.
        context: Named context features, one row per image; None for a surrogate of unexplained latents only.
        preset: Name of a preset, or options.
        out: Folder for checkpoints, log, preview and the finished surrogate.
        layers: Layers whose features are used; by default one for each of the classifier's last resolutions.
            `pellucid.surrogate.LOGITS_ONLY` treats it as a black box.
        rerender: Renders versions of images with other, known contexts (see `Rerender`); must be the same on resuming.
        on_progress: Called with the progress; None for silence.
        on_start: Called once `out` is bound to this training, before anything long is computed.

    Returns:
        The surrogate, trained to its end.

    Raises:
        PellucidError: Images, context and classifier do not fit each other or the preset.
        CheckpointError: `out` holds another training, or another process is training there.
        DivergedError: The training diverged again after several roll-backs.
        KeyboardInterrupt: On Ctrl-C.
    """
    join_processes()
    options = get_preset(preset) if isinstance(preset, str) else preset
    if options.batch_size % (4 * world_size()):
        raise PellucidError(
            f"batch_size {options.batch_size} does not divide into multiples of 4 for {world_size()} processes"
        )
    check_own_gpu(classifier.device)
    dataset, space = make_dataset(images, classifier, options.resolution, options.max_bytes_in_memory)
    names, values = _check_context(context, len(dataset), options)
    find_brightness_column(options.brightness_context, names)
    if not isinstance(images, Tensor) and context is not None and context.files is not None:
        _check_order(images, context.files)
    extractor = FeatureExtractor(classifier, layers)
    folder = TrainingFolder(out)
    with folder.disk_full_errors(), folder.locked() if is_main_process() else nullcontext():
        if is_main_process():
            identity = _identity(extractor, options, space, names, _digest(images, values))
            folder.bind_plan(identity | {"rerendered": rerender is not None, "processes": world_size()})
            if on_start is not None:
                on_start()
        wait_for_all()
        notify = on_progress if is_main_process() and on_progress is not None else _ignore
        data = prepare(
            dataset,
            values,
            extractor=extractor,
            space=space,
            options=options,
            folder=folder.path,
            rerender=rerender,
            on_stage=lambda line: notify(TrainingProgress(0, options.steps, {}, 0.0, line)),
        )
        sizes = DataSizes(classifier.input_shape[0], extractor.length, classifier.num_classes, names)
        trainer = Trainer(extractor, space, data, sizes, options)

        def explainer() -> "SurrogateExplainer":
            return _surrogate(trainer, extractor, space, sizes, _find_levels(names, values))

        run_training(trainer, folder, save_surrogate=lambda: explainer().save(folder.path), on_progress=notify)
        return explainer()


def _check_context(
    context: ContextTable | None, images: int, options: TrainingOptions
) -> tuple[tuple[str, ...], Tensor]:
    """Names and values (N, K_c) of the context; without a table there are none."""
    if context is None:
        if images < 2 * options.batch_size:
            raise PellucidError(
                f"{images} images are too few for batches of {options.batch_size}; give at least twice that"
            )
        return (), torch.zeros(images, 0)
    if images < 10 * options.num_predictors:
        raise PellucidError(
            f"{images} images are too few for {options.num_predictors} attribute predictors: give ten times as many"
        )
    context.check(at_least=2 * options.batch_size, images=images)
    if taken := set(context.names) & {CLASS_NODE, DECISION_NODE, *name_latents(options.latent_dim)}:
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


def _check_order(images: Sequence[str | Path], files: Sequence[Path]) -> None:
    for row, (image, file) in enumerate(zip(images, files, strict=True)):
        if Path(image).resolve() != file.resolve():
            raise PellucidError(
                f"row {row} of the context table is that of {file}, and image {row} is {image}: give the images in "
                "the table's order, context.files"
            )


def _ignore(progress: TrainingProgress) -> None:
    pass


def _digest(images: Tensor | Sequence[str | Path], values: Tensor) -> str:
    if isinstance(images, Tensor):
        return digest_of([], [values, images])
    return digest_of([sha256(Path(file).read_bytes()).hexdigest() for file in images], [values])


def _identity(
    extractor: FeatureExtractor, options: TrainingOptions, space: DisplaySpace, names: Sequence[str], data: str
) -> dict[str, object]:
    """What must be the same for a training to be resumed."""
    recorded = to_record(options)
    del recorded["max_bytes_in_memory"]  # has no effect on the result
    return {
        "classifier": extractor.classifier.fingerprint(),
        "layers": LOGITS_ONLY if extractor.black_box else list(extractor.layers),
        "options": recorded,
        "context": list(names),
        "data": data,
        "space": [list(space.low), list(space.high)],
    }


def _find_levels(names: Sequence[str], values: Tensor) -> dict[str, tuple[float, ...]]:
    """The values of each column that has few: nothing in between exists."""
    found = {name: tuple(sorted(set(column.tolist()))) for name, column in zip(names, values.T, strict=True)}
    return {name: levels for name, levels in found.items() if len(levels) <= _MAX_LEVELS}


def _surrogate(
    trainer: Trainer,
    extractor: FeatureExtractor,
    space: DisplaySpace,
    sizes: DataSizes,
    levels: dict[str, tuple[float, ...]],
) -> "SurrogateExplainer":
    from pellucid.surrogate.explainer import SurrogateExplainer
    from pellucid.surrogate.surrogate import Surrogate

    return SurrogateExplainer(
        Surrogate(
            features=extractor,
            networks=trainer.averaged_networks,
            auxiliary_models=trainer.data.auxiliary_models,
            space=space,
            sizes=sizes,
            options=trainer.options,
            quality=trainer.data.quality,
            span=trainer.data.span,
            steps=trainer.steps,
            context_levels=levels,
        )
    )

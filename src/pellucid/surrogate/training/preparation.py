"""All that is fixed before the twin is trained: images and their versions, contexts, instruments, what f sees."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from pellucid.classifiers import reinitialize, replace_module
from pellucid.errors import ModelError, PellucidError
from pellucid.storage import RecordError, from_record, read_json, read_tensors, to_record, write_json, write_tensors
from pellucid.surrogate.model import to_channels_last
from pellucid.surrogate.model.attribute_predictors import Rerender, fit_attribute_predictors, map_in_batches
from pellucid.surrogate.model.auxiliary_models import AuxiliaryModels, AuxiliaryQuality, mean_and_std
from pellucid.surrogate.model.features import LOGITS_ONLY, FeatureExtractor
from pellucid.surrogate.model.image_space import DisplaySpace
from pellucid.surrogate.model.probes import fit_context_probe, perceived_share
from pellucid.surrogate.training.checkpoint import CheckpointError
from pellucid.surrogate.training.distributed import is_main_process, wait_for_all
from pellucid.surrogate.training.image_datasets import ConcatDataset, Images, InMemory
from pellucid.surrogate.training.sampling import decorrelating_weights, mix_weights
from pellucid.surrogate.training.training_options import TrainingOptions

INSTRUMENTS, QUALITY, VERSIONS = "instruments.safetensors", "quality.json", "versions.safetensors"


@dataclass(frozen=True)
class TrainingData:
    """The training set; rows are the N given images, then version after version of all of them.

    Attributes:
        images: in display space.
        given: N.
        weights: (M,), of the draws.
        codes: (M, K_c), the standardized context that the judges see.
        phi: (M, F), standardized features of the classifier.
        logits: (M, K).
        span: (2, K_c), the 2 % and 98 % quantiles of the codes of all rows: where interventions go.
        instruments, quality: see there.
    """

    images: Images
    given: int
    weights: Tensor
    codes: Tensor
    phi: Tensor
    logits: Tensor
    span: Tensor
    auxiliary_models: AuxiliaryModels
    quality: AuxiliaryQuality

    @property
    def versions(self) -> int:
        """How many versions of each image there are, itself included."""
        return len(self.weights) // self.given


def prepare(
    given: Images,
    context: Tensor,
    space: DisplaySpace,
    features: FeatureExtractor,
    options: TrainingOptions,
    out: Path,
    rerender: Rerender | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> TrainingData:
    """Draw the versions, fit the instruments (both kept in `out`, and read from there if they are) and look at all.

    Args:
        given: the training images.
        context: (N, K_c), in the table's units.
        space: display space of the images.
        features: the classifier and what it sees.
        options: of the training.
        out: folder of the run.
        rerender: draws versions with other contexts.
        say: told what is being done.

    Raises:
        PellucidError: the classifier answers the same to all, or the re-renderer gives something else.
    """
    images, table = _with_versions(given, context, space, options, out, rerender, say)
    rows = torch.arange(len(images))
    say(f"looking at {len(rows)} images through the classifier")
    phi, logits = _seen(features, images, space, rows)
    _refuse_constant(logits[: len(given)], features)
    weights = _weights(table, len(given), options)
    auxiliary_models, quality = _instruments(images, table, phi, weights, given, options, features, space, out, say)
    device = features.classifier.device
    codes = map_in_batches(auxiliary_models.judges, images, rows, device)
    span = _span(codes[weights > 0])
    standard = auxiliary_models.standard_phi(phi.to(device)).cpu()
    return TrainingData(images, len(given), weights, codes, standard, logits, span, auxiliary_models, quality)


def _with_versions(
    given: Images,
    context: Tensor,
    space: DisplaySpace,
    options: TrainingOptions,
    out: Path,
    rerender: Rerender | None,
    say: Callable[[str], None],
) -> tuple[Images, Tensor]:
    """All rows and their context; NaN where a version's could not be told."""
    if rerender is None or not options.copies or not context.shape[1]:
        return given, context
    path = out / VERSIONS
    if is_main_process() and not path.exists():
        random = torch.Generator().manual_seed(options.seed + 2)
        drawn: list[tuple[Tensor, Tensor]] = []
        for copy in range(options.copies):
            for rows in torch.split(torch.arange(len(given)), 256):
                drawn.append(_redrawn(rerender, space.back(given[rows]), context.shape[1], random))
                say(f"re-rendering {copy * len(given) + int(rows[-1]) + 1} of {options.copies * len(given)} images")
        images, table = (torch.cat(parts) for parts in zip(*drawn, strict=True))
        write_tensors(path, {"images": images, "context": table})
    wait_for_all()
    found = read_tensors(path)
    return ConcatDataset([given, InMemory(space.show(found["images"]))]), torch.cat([context, found["context"]])


def _redrawn(rerender: Rerender, images: Tensor, contexts: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    drawn, context = rerender(images, random)
    if drawn.shape != images.shape or context.shape != (len(images), contexts):
        raise PellucidError(
            f"the re-renderer returned images {tuple(drawn.shape)} and context {tuple(context.shape)} for "
            f"{tuple(images.shape)}; it must return as many images of that size and ({len(images)}, {contexts})"
        )
    return drawn.float(), context.float()


def _seen(features: FeatureExtractor, images: Images, space: DisplaySpace, rows: Tensor) -> tuple[Tensor, Tensor]:
    width = features.length

    def look(shown: Tensor) -> Tensor:
        seen = features(space.back(shown))
        return torch.cat([seen.phi, seen.logits], dim=1)

    found = map_in_batches(look, images, rows, features.classifier.device)
    return found[:, :width], found[:, width:]


def _span(codes: Tensor) -> Tensor:
    """(2, K_c), from at most 100,000 rows: torch.quantile takes no more."""
    every = max(1, -(-len(codes) // 100_000))
    bounds = torch.tensor([0.02, 0.98])
    return torch.quantile(codes[::every], bounds, dim=0) if codes.shape[1] else codes.new_zeros(2, 0)


def _refuse_constant(logits: Tensor, features: FeatureExtractor) -> None:
    if not bool(logits.isfinite().all()):
        raise ModelError(f"{features.classifier.name} gives NaN or infinite logits for some training images")
    if float(logits.std(0).max()) < 1e-5:
        raise ModelError(
            f"{features.classifier.name} gives all {len(logits)} images the same logits: there is nothing to explain"
        )


def _weights(table: Tensor, given: int, options: TrainingOptions) -> Tensor:
    """Half of the draws from the given images, half from all; in both, contexts look independent."""
    usable = table.isfinite().all(1)
    flat = torch.zeros(len(table))

    def over(rows: Tensor) -> Tensor:
        weights = flat.clone()
        weights[rows] = decorrelating_weights(table[rows]) if options.decorrelate else 1.0
        return weights

    real = over(torch.arange(given))
    if len(table) == given:
        return real
    return mix_weights([(options.real_share, real), (1 - options.real_share, over(usable.nonzero()[:, 0]))])


def _instruments(
    images: Images,
    table: Tensor,
    phi: Tensor,
    weights: Tensor,
    given: Images,
    options: TrainingOptions,
    features: FeatureExtractor,
    space: DisplaySpace,
    out: Path,
    say: Callable[[str], None],
) -> tuple[AuxiliaryModels, AuxiliaryQuality]:
    """Fit and keep them, unless they are kept already."""
    device = features.classifier.device
    channels = images[torch.tensor([0])].shape[1]
    auxiliary_models = AuxiliaryModels(channels, features.length, table.shape[1], options)
    if is_main_process() and not (out / INSTRUMENTS).exists():
        auxiliary_models.set_scales(table[: len(given)], phi[: len(given)])
        quality = _fit(auxiliary_models, images, table, phi, weights, len(given), options, device, say)
        if table.shape[1] and any(True for _ in features.classifier.module.parameters()):
            say("reading context from the features of the classifier with random weights")
            context = auxiliary_models.standard_context(table[: len(given)])
            quality = replace(quality, blind=_blind(features, given, context, space, options))
        write_json(out / QUALITY, to_record(quality))
        write_tensors(out / INSTRUMENTS, auxiliary_models.state_dict())
    wait_for_all()
    auxiliary_models.load_state_dict(read_tensors(out / INSTRUMENTS))
    to_channels_last(auxiliary_models, device)
    return auxiliary_models, _read_quality(out / QUALITY)


def _read_quality(path: Path) -> AuxiliaryQuality:
    try:
        return from_record(AuxiliaryQuality, read_json(path), source=path)
    except RecordError as error:
        raise CheckpointError(f"{error}: delete it and {INSTRUMENTS} beside it, and they are made again") from error


def _fit(
    auxiliary_models: AuxiliaryModels,
    images: Images,
    table: Tensor,
    phi: Tensor,
    weights: Tensor,
    given: int,
    options: TrainingOptions,
    device: torch.device,
    say: Callable[[str], None],
) -> AuxiliaryQuality:
    if not table.shape[1]:
        return AuxiliaryQuality((), (), ())
    context = auxiliary_models.standard_context(table)
    say(f"training {options.judges} judges of context")
    family = torch.arange(len(table)) % given
    judges, judged = fit_attribute_predictors(images, context, family, weights, options, device)
    auxiliary_models.judges.load_state_dict(judges.state_dict())
    say("reading context from the classifier's features")
    perception, unseen = fit_context_probe(
        auxiliary_models.standard_phi(phi[:given]), context[:given], steps=options.judge_steps, seed=options.seed + 3
    )
    auxiliary_models.perception.load_state_dict(perception.state_dict())
    return AuxiliaryQuality(tuple(map(tuple, judged.tolist())), perceived_share(unseen, context[:given]), ())


def _blind(
    features: FeatureExtractor, given: Images, context: Tensor, space: DisplaySpace, options: TrainingOptions
) -> tuple[float, ...]:
    """R^2 of the context read, in the same way, from a classifier of this architecture that learnt nothing."""
    forgotten = reinitialize(features.classifier.module, seed=options.seed)
    blind = FeatureExtractor(
        replace_module(features.classifier, forgotten), LOGITS_ONLY if features.black_box else features.layers
    )
    phi, _ = _seen(blind, given, space, torch.arange(len(given)))
    mean, std = mean_and_std(phi)
    _, unseen = fit_context_probe((phi - mean) / std, context, steps=options.judge_steps, seed=options.seed + 3)
    return perceived_share(unseen, context)

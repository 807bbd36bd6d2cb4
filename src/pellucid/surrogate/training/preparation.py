"""All that is fixed before the networks are trained: images, their versions, contexts, auxiliary models, features."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset

from pellucid.classifiers import reinitialize, replace_module
from pellucid.errors import ModelError, PellucidError
from pellucid.storage import (
    RecordError,
    from_record,
    is_whole,
    read_json,
    read_tensors,
    to_record,
    write_json,
    write_tensors,
)
from pellucid.surrogate.model.auxiliary_models import AuxiliaryModels, AuxiliaryQuality, fit_context_probe, mean_and_std
from pellucid.surrogate.model.encoders import r2_score
from pellucid.surrogate.model.features import LOGITS_ONLY, FeatureExtractor
from pellucid.surrogate.model.image_space import DisplaySpace
from pellucid.surrogate.model.network_layers import to_channels_last
from pellucid.surrogate.training.checkpoint import CheckpointError
from pellucid.surrogate.training.distributed import is_main_process, wait_for_all
from pellucid.surrogate.training.fit_predictors import fit_attribute_predictors, map_images
from pellucid.surrogate.training.image_datasets import FileDataset, InMemory, gather_images
from pellucid.surrogate.training.sampling import decorrelating_weights, mix_weights
from pellucid.surrogate.training_options import Rerender, TrainingOptions

AUXILIARY_MODELS, QUALITY, VERSIONS = "auxiliary_models.safetensors", "quality.json", "versions.safetensors"


@dataclass(frozen=True)
class TrainingData:
    """The training set; its M rows are the N given images, then version after version of all of them.

    Attributes:
        images: M images (C, R, R) in display space.
        num_images: N.
        weights: (M,), probability of each row in the draws, up to a factor.
        context: (M, K_c), standardized, as the attribute predictors see it.
        phi: (M, F), standardized features of the classifier.
        logits: (M, K).
        span: (2, K_c), the 2 % and 98 % quantiles of the context of all rows: where interventions go.
        auxiliary_models: Fitted and frozen.
        quality: How far they can be trusted.
    """

    images: Dataset[Tensor]
    num_images: int
    weights: Tensor
    context: Tensor
    phi: Tensor
    logits: Tensor
    span: Tensor
    auxiliary_models: AuxiliaryModels
    quality: AuxiliaryQuality

    @property
    def num_versions(self) -> int:
        """How many versions of each image there are, itself included."""
        return len(self.weights) // self.num_images


def prepare(
    images: InMemory | FileDataset,
    context: Tensor,
    *,
    extractor: FeatureExtractor,
    space: DisplaySpace,
    options: TrainingOptions,
    folder: Path,
    rerender: Rerender | None = None,
    on_stage: Callable[[str], None] = lambda line: None,
) -> TrainingData:
    """Render the versions, fit the auxiliary models (both are kept in `folder` and reused) and extract features.

    Args:
        images: The N training images, display space.
        context: (N, K_c), in the table's units.
        extractor: The classifier and its features.
        space: Display space of the images.
        options: Options of the training.
        folder: Folder of the run.
        rerender: Renders versions with other contexts.
        on_stage: Called with a line of text before each stage.

    Raises:
        PellucidError: The classifier answers the same to all images, or the re-renderer returns other shapes.
        CheckpointError: A file of the folder is damaged.
    """
    preparation = _Preparation(extractor, space, options, folder, on_stage)
    everything, table = preparation.add_versions(images, context, rerender)
    on_stage(f"extracting the classifier's features of {len(table)} images")
    phi, logits = preparation.extract(extractor, everything, len(table))
    _refuse_constant(logits[: len(images)], extractor)
    weights = _draw_weights(table, len(images), options)
    models, quality = preparation.auxiliary_models(everything, table, phi, weights, len(images))
    device = extractor.classifier.device
    predicted = map_images(models.attribute_predictors, everything, torch.arange(len(table)), device)
    standard_phi = models.standard_phi(phi.to(device)).cpu()
    return TrainingData(
        images=everything,
        num_images=len(images),
        weights=weights,
        context=predicted,
        phi=standard_phi,
        logits=logits,
        span=_span(predicted[weights > 0]),
        auxiliary_models=models,
        quality=quality,
    )


@dataclass(frozen=True)
class _Preparation:
    """What every stage needs; see `prepare`."""

    extractor: FeatureExtractor
    space: DisplaySpace
    options: TrainingOptions
    folder: Path
    on_stage: Callable[[str], None]

    def add_versions(
        self, images: InMemory | FileDataset, context: Tensor, rerender: Rerender | None
    ) -> tuple[Dataset[Tensor], Tensor]:
        """All rows and their context; NaN where a version's could not be determined."""
        if rerender is None or not self.options.num_augmented or not context.shape[1]:
            return images, context
        path = self.folder / VERSIONS
        if is_main_process() and not is_whole(path):
            self._render_versions(images, context.shape[1], rerender, path)
        wait_for_all()
        versions = read_tensors(path)
        augmented = InMemory(self.space.to_display(versions["images"]))
        return ConcatDataset([images, augmented]), torch.cat([context, versions["context"]])

    def _render_versions(self, images: InMemory | FileDataset, contexts: int, rerender: Rerender, path: Path) -> None:
        random = torch.Generator().manual_seed(self.options.seed + 2)
        rendered: list[tuple[Tensor, Tensor]] = []
        total = self.options.num_augmented * len(images)
        for version in range(self.options.num_augmented):
            for rows in torch.split(torch.arange(len(images)), 256):
                originals = self.space.from_display(gather_images(images, rows))
                rendered.append(_checked_versions(rerender(originals, random), originals, contexts))
                self.on_stage(f"re-rendering {version * len(images) + int(rows[-1]) + 1} of {total} images")
        pixels, table = (torch.cat(parts) for parts in zip(*rendered, strict=True))
        write_tensors(path, {"images": pixels, "context": table})

    def extract(self, extractor: FeatureExtractor, images: Dataset[Tensor], count: int) -> tuple[Tensor, Tensor]:
        """Features phi (N, F), raw, and logits (N, K) of the first images."""

        def phi_and_logits(shown: Tensor) -> Tensor:
            features = extractor(self.space.from_display(shown))
            return torch.cat([features.phi, features.logits], dim=1)

        extracted = map_images(phi_and_logits, images, torch.arange(count), extractor.classifier.device)
        return extracted[:, : extractor.length], extracted[:, extractor.length :]

    def auxiliary_models(
        self, images: Dataset[Tensor], table: Tensor, phi: Tensor, weights: Tensor, num_images: int
    ) -> tuple[AuxiliaryModels, AuxiliaryQuality]:
        """Fit and keep them, unless they are kept already."""
        models = AuxiliaryModels(len(images[0]), self.extractor.length, table.shape[1], self.options)
        path, quality_path = self.folder / AUXILIARY_MODELS, self.folder / QUALITY
        if is_main_process() and not (is_whole(path) and is_whole(quality_path)):
            models.set_scales(table[:num_images], phi[:num_images])
            quality = AuxiliaryQuality((), (), ())
            if table.shape[1]:
                context = models.standard_context(table)
                predictor_r2 = self._fit_predictors(models, images, context, weights, num_images)
                standard_phi, context = models.standard_phi(phi[:num_images]), context[:num_images]
                quality = AuxiliaryQuality(predictor_r2, self._fit_probe(models, standard_phi, context), ())
                if any(True for _ in self.extractor.classifier.module.parameters()):
                    quality = replace(quality, untrained_baseline=self._untrained_baseline(images, context))
            write_json(quality_path, to_record(quality))
            write_tensors(path, models.state_dict())
        wait_for_all()
        models.load_state_dict(read_tensors(path))
        to_channels_last(models, self.extractor.classifier.device)
        return models, _read_quality(quality_path)

    def _fit_predictors(
        self, models: AuxiliaryModels, images: Dataset[Tensor], context: Tensor, weights: Tensor, num_images: int
    ) -> tuple[tuple[float, ...], ...]:
        self.on_stage(f"training {self.options.num_predictors} attribute predictors")
        family = torch.arange(len(context)) % num_images
        device = self.extractor.classifier.device
        predictors, r2 = fit_attribute_predictors(images, context, family, weights, self.options, device)
        models.attribute_predictors.load_state_dict(predictors.state_dict())
        return tuple(map(tuple, r2.tolist()))

    def _fit_probe(self, models: AuxiliaryModels, phi: Tensor, context: Tensor) -> tuple[float, ...]:
        self.on_stage("training a probe of the classifier's features")
        probe, r2 = self._probe(phi, context)
        models.context_probe.load_state_dict(probe)
        return r2

    def _untrained_baseline(self, images: Dataset[Tensor], context: Tensor) -> tuple[float, ...]:
        """R^2 of the context probed, in the same way, in a classifier of this architecture that learned nothing."""
        self.on_stage("training a probe of the features of the classifier with random weights")
        classifier = self.extractor.classifier
        untrained = replace_module(classifier, reinitialize(classifier.module, seed=self.options.seed))
        extractor = FeatureExtractor(untrained, LOGITS_ONLY if self.extractor.black_box else self.extractor.layers)
        phi, _ = self.extract(extractor, images, len(context))
        mean, std = mean_and_std(phi)
        return self._probe((phi - mean) / std, context)[1]

    def _probe(self, phi: Tensor, context: Tensor) -> tuple[dict[str, Tensor], tuple[float, ...]]:
        """Weights of a probe and its cross-fitted R^2."""
        steps, seed = self.options.predictor_steps, self.options.seed + 3
        probe, cross_fitted = fit_context_probe(phi, context, steps=steps, seed=seed)
        return probe.state_dict(), tuple(r2_score(cross_fitted, context).tolist())


def _checked_versions(versions: tuple[Tensor, Tensor], originals: Tensor, contexts: int) -> tuple[Tensor, Tensor]:
    images, context = versions
    if images.shape != originals.shape or context.shape != (len(originals), contexts):
        raise PellucidError(
            f"the re-renderer returned images {tuple(images.shape)} and context {tuple(context.shape)} for "
            f"{tuple(originals.shape)}; it must return as many images of that size and ({len(originals)}, {contexts})"
        )
    return images.float(), context.float()


def _span(context: Tensor) -> Tensor:
    """(2, K_c), from at most 100,000 rows: torch.quantile takes no more."""
    every = max(1, -(-len(context) // 100_000))
    bounds = torch.tensor([0.02, 0.98])
    return torch.quantile(context[::every], bounds, dim=0) if context.shape[1] else context.new_zeros(2, 0)


def _refuse_constant(logits: Tensor, extractor: FeatureExtractor) -> None:
    name = extractor.classifier.name
    if not bool(logits.isfinite().all()):
        raise ModelError(f"{name} gives NaN or infinite logits for some training images")
    if float(logits.std(0).max()) < 1e-5:
        raise ModelError(f"{name} gives all {len(logits)} images the same logits: there is nothing to explain")


def _draw_weights(table: Tensor, num_images: int, options: TrainingOptions) -> Tensor:
    """`real_fraction` of the draws from the given images, the rest from all; in both, contexts look independent."""

    def weights_over(rows: Tensor) -> Tensor:
        weights = torch.zeros(len(table))
        weights[rows] = decorrelating_weights(table[rows]) if options.decorrelate else 1.0
        return weights

    real = weights_over(torch.arange(num_images))
    if len(table) == num_images:
        return real
    usable = weights_over(table.isfinite().all(1).nonzero()[:, 0])
    return mix_weights([(options.real_fraction, real), (1 - options.real_fraction, usable)])


def _read_quality(path: Path) -> AuxiliaryQuality:
    try:
        return from_record(AuxiliaryQuality, read_json(path), source=path)
    except RecordError as error:
        raise CheckpointError(
            f"{error}: delete it and {AUXILIARY_MODELS} beside it, and they are made again"
        ) from error

"""A trained surrogate: from images to codes and back, frozen, saved and loaded."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from pellucid.classifiers import Classifier
from pellucid.errors import TargetError
from pellucid.results import library_versions
from pellucid.storage import RecordError, read_record, read_tensors, select_prefix, write_record, write_tensors
from pellucid.surrogate.model.auxiliary_models import AuxiliaryModels, AuxiliaryQuality
from pellucid.surrogate.model.batches import batch_slices, map_batches
from pellucid.surrogate.model.codes import Codes, name_latents
from pellucid.surrogate.model.features import LOGITS_ONLY, FeatureExtractor
from pellucid.surrogate.model.image_space import DisplaySpace
from pellucid.surrogate.model.network_layers import to_channels_last
from pellucid.surrogate.model.surrogate_networks import DataSizes, SurrogateNetworks
from pellucid.surrogate.training.checkpoint import CheckpointError
from pellucid.surrogate.training_options import TrainingOptions

FORMAT, VERSION = "pellucid surrogate", 2
TENSORS, RECORD = "surrogate.safetensors", "surrogate.json"

_BATCH = 128


class Surrogate:
    """The frozen surrogate of a classifier: an encoder of what it sees, and a generator that it answers alike to.

    Images are (N, C, R, R) in the classifier's own input space; results are on the classifier's device.

    Args:
        features: the classifier and what its layers see.
        networks: encoders, head and generator; moving averages of the training.
        auxiliary_models: attribute predictors, context probe and scales.
        space: display space of the generator.
        sizes: of the data.
        options: of the training.
        quality: R2 of attribute predictors and context probe.
        span: (2, K_c), 2 % and 98 % quantiles of the standardized contexts seen in training.
        steps: trained so far.
        context_levels: context -> the few values that its column has, where it is discrete.

    Attributes:
        context_names, latent_names: of the columns of the codes.

    >>> from pellucid.surrogate import digit_surrogate
    >>> surrogate = digit_surrogate().surrogate
    >>> codes = surrogate.encode(torch.full((1, 1, 32, 32), -1.0))
    >>> codes.context.shape, codes.latent.shape, surrogate.decode(codes).shape
    (torch.Size([1, 4]), torch.Size([1, 8]), torch.Size([1, 1, 32, 32]))
    """

    def __init__(
        self,
        *,
        features: FeatureExtractor,
        networks: SurrogateNetworks,
        auxiliary_models: AuxiliaryModels,
        space: DisplaySpace,
        sizes: DataSizes,
        options: TrainingOptions,
        quality: AuxiliaryQuality,
        span: Tensor,
        steps: int,
        context_levels: Mapping[str, tuple[float, ...]] | None = None,
    ) -> None:
        self.features, self.space, self.sizes, self.options = features, space, sizes, options
        self.networks = networks.eval().requires_grad_(False)
        self.auxiliary_models, self.quality, self.steps = auxiliary_models, quality, steps
        self.span = span.to(features.classifier.device)
        self.context_levels = dict(context_levels or {})
        self.context_names = sizes.context_names
        self.latent_names = name_latents(options.latent_dim)

    @property
    def classifier(self) -> Classifier:
        """The classifier that is mimicked."""
        return self.features.classifier

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes; a single logit has two sides."""
        names = tuple(self.classifier.class_names)
        return (f"not {names[0]}", names[0]) if len(names) == 1 else names

    def class_index(self, target: int | str) -> int:
        """The class of a name or index; of a single logit 0 is against it and 1 for it.

        Raises:
            TargetError: there is no such class.
        """
        if self.classifier.num_classes > 1:
            return self.classifier.class_index(target)
        if target in (0, 1):
            return int(target)
        if target not in self.class_names:
            raise TargetError(f"no class {target!r}: {self.classifier.name} has {' and '.join(self.class_names)}")
        return self.class_names.index(str(target))

    @property
    def finished(self) -> bool:
        """Whether the training reached its end."""
        return self.steps == self.options.steps

    def encode(self, images: Tensor, max_batch: int = _BATCH) -> Codes:
        """Encode images (N, C, R, R), without gradients, at most `max_batch` at a time."""
        images = images.to(self.classifier.device, torch.float32)
        with torch.no_grad():
            return Codes.concat([self._encode(images[rows]) for rows in batch_slices(len(images), max_batch)])

    def _encode(self, images: Tensor) -> Codes:
        displayed = self.space.to_display(images)
        latent = self.networks.latent(self.auxiliary_models.standard_phi(self.features(images).phi))
        return Codes(self.auxiliary_models.attribute_predictors(displayed), latent, self.networks.nuisance(displayed))

    def decode(self, codes: Codes) -> Tensor:
        """Generate the images (N, C, R, R) of codes; differentiable with respect to them."""
        return self.space.from_display(self.networks.generate(codes))

    def reconstruct(self, images: Tensor) -> Tensor:
        """Encode and decode images (N, C, R, R), without gradients."""
        return map_batches(self.decode, self.encode(images), size=_BATCH)

    def clip(self, images: Tensor) -> Tensor:
        """Clip images to the range between black and full brightness; differentiable."""
        return self.space.from_display(self.space.to_display(images).clamp(-1, 1))

    def logits(self, images: Tensor) -> Tensor:
        """The classifier's logits (N, K) of images; differentiable with respect to them."""
        return self.classifier.logits(images)

    def head_logits(self, codes: Codes) -> Tensor:
        """The logits (N, K) that the surrogate's head predicts from context and latents alone."""
        predicted: Tensor = self.networks.head(codes.concept_coordinates())
        return predicted

    def pooled_features(self, images: Tensor) -> Tensor:
        """The classifier's pooled features (N, F) of images, without gradients."""
        return map_batches(lambda chunk: self.features(chunk).phi, images, size=_BATCH)

    def perceived_context(self, images: Tensor) -> Tensor:
        """The context (N, K_c) that the probe predicts from the classifier's features, in standard deviations."""
        phi = self.pooled_features(images.to(self.classifier.device))
        with torch.no_grad():
            perceived: Tensor = self.auxiliary_models.context_probe(self.auxiliary_models.standard_phi(phi))
        return perceived

    def standard_context(self, values: Tensor) -> Tensor:
        """Context (N, K_c) in the table's units, as the codes have it: in standard deviations from the mean."""
        return self.auxiliary_models.standard_context(values.to(self.classifier.device))

    def context_values(self, standard: Tensor) -> Tensor:
        """Context (N, K_c) of codes in the table's units."""
        return self.auxiliary_models.context_values(standard)

    def save(self, folder: str | Path) -> None:
        """Write the surrogate into a folder, as `surrogate.safetensors` and `surrogate.json`."""
        path = Path(folder)
        tensors = {f"networks.{name}": value for name, value in self.networks.state_dict().items()}
        tensors |= {f"auxiliary_models.{name}": value for name, value in self.auxiliary_models.state_dict().items()}
        write_tensors(path / TENSORS, tensors | {"span": self.span})
        write_record(path / RECORD, self._record(), kind=FORMAT, version=VERSION)

    def _record(self) -> "SurrogateRecord":
        return SurrogateRecord(
            classifier=ClassifierIdentity(self.classifier.name, self.classifier.fingerprint()),
            layers=LOGITS_ONLY if self.features.black_box else tuple(self.features.layers),
            made_with=library_versions(),
            options=self.options,
            quality=self.quality,
            sizes=self.sizes,
            space=self.space,
            steps=self.steps,
            context_levels=self.context_levels,
        )

    def __repr__(self) -> str:
        contexts = ", ".join(self.context_names) or "no context"
        return f"Surrogate({self.classifier.name!r}, {contexts}, step {self.steps} of {self.options.steps})"


@dataclass(frozen=True)
class ClassifierIdentity:
    """Which classifier a surrogate mimics.

    Attributes:
        name: of the classifier.
        weights: SHA-256 of its weights.
    """

    name: str
    weights: str


@dataclass(frozen=True)
class SurrogateRecord:
    """All of a surrogate but its tensors.

    Attributes:
        classifier: that it mimics.
        layers: where the classifier is seen; `LOGITS_ONLY` for a black box.
        made_with: versions of pellucid and torch.
        options: of the training.
        quality: of the auxiliary models.
        sizes: of the data.
        space: display space of the images.
        steps: trained so far.
        context_levels: context -> the few values of a discrete column.
    """

    classifier: ClassifierIdentity
    layers: str | tuple[str, ...]
    made_with: Mapping[str, str]
    options: TrainingOptions
    quality: AuxiliaryQuality
    sizes: DataSizes
    space: DisplaySpace
    steps: int
    context_levels: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


def load_surrogate(folder: str | Path, *, classifier: Classifier) -> Surrogate:
    """Read what `Surrogate.save` wrote.

    Args:
        folder: of the training, or of `Surrogate.save`.
        classifier: the one that the surrogate mimics.

    Raises:
        CheckpointError: there is no surrogate, or it is another classifier's.

    >>> import pellucid as pl
    >>> folder = pl.surrogate.pretrained_folder("digits")
    >>> load_surrogate(folder, classifier=pl.load("digit_cnn")).finished
    True
    """
    path = Path(folder)
    record = _read_record(path / RECORD)
    expected, fingerprint = record.classifier.weights, classifier.fingerprint()
    if expected != fingerprint:
        raise CheckpointError(
            f"{path} holds the surrogate of {record.classifier.name} with weights {expected[:12]}; the classifier "
            f"given, {classifier.name}, has weights {fingerprint[:12]}: its decisions are not the ones that were "
            "distilled"
        )
    tensors = read_tensors(path / TENSORS)
    sizes, options = record.sizes, record.options
    try:
        networks = SurrogateNetworks(sizes, options)
        networks.load_state_dict(select_prefix(tensors, "networks."))
        auxiliary_models = AuxiliaryModels(sizes.channels, sizes.features, len(sizes.context_names), options)
        auxiliary_models.load_state_dict(select_prefix(tensors, "auxiliary_models."))
        span = tensors["span"]
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"{path / TENSORS} does not belong to {RECORD} beside it ({reason}): train the surrogate again"
        ) from error
    to_channels_last(networks, classifier.device)
    to_channels_last(auxiliary_models, classifier.device)
    return Surrogate(
        features=FeatureExtractor(classifier, record.layers),
        networks=networks,
        auxiliary_models=auxiliary_models,
        space=record.space,
        sizes=sizes,
        options=options,
        quality=record.quality,
        span=span,
        steps=record.steps,
        context_levels=record.context_levels,
    )


def _read_record(path: Path) -> SurrogateRecord:
    if not path.exists():
        raise CheckpointError(
            f"{path.parent} does not hold a surrogate: there is no {path.name}. One that pellucid 0.1 wrote has to be "
            "trained again, or used with that version"
        )
    try:
        return read_record(path, SurrogateRecord, kind=FORMAT, version=VERSION)
    except RecordError as error:
        raise CheckpointError(f"{error}: train the surrogate again") from error

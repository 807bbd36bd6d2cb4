"""A trained twin surrogate: from images to codes and back, saved and loaded."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pellucid.classifiers import Classifier
from pellucid.results import library_versions
from pellucid.storage import RecordError, read_record, read_tensors, select_prefix, write_record, write_tensors
from pellucid.surrogate.answers import Answers
from pellucid.surrogate.model.auxiliary_models import AuxiliaryModels, AuxiliaryQuality
from pellucid.surrogate.model.codes import Codes, name_latents
from pellucid.surrogate.model.features import LOGITS_ONLY, FeatureExtractor
from pellucid.surrogate.model.image_space import DisplaySpace
from pellucid.surrogate.model.layers import to_channels_last
from pellucid.surrogate.model.surrogate_networks import DataSizes, SurrogateNetworks
from pellucid.surrogate.training.checkpoint import CheckpointError
from pellucid.surrogate.training_options import TrainingOptions

FORMAT, VERSION = "pellucid surrogate", 1
TENSORS, RECORD = "twin.safetensors", "twin.json"


class SurrogateExplainer(Answers):
    """The twin of a classifier (see `pellucid.surrogate.codes.SurrogateProtocol`), and the answers that it gives
    (see `Answers`).

    Images are (N, C, R, R) in the classifier's own input space; results are on the classifier's device.

    Attributes:
        features: the classifier and what it sees.
        networks: encoders, head and generator, running means, frozen.
        instruments: judges of context, perceived context, scales.
        space: display space of the generator.
        sizes, options: of data and training.
        quality: R^2 of the judges and of the perceived context.
        span: (2, K_c), 2 % and 98 % quantiles of the standardized contexts seen in training.
        steps: of training made.
        context_names, latent_names: of the codes' columns.
    """

    def __init__(
        self,
        features: FeatureExtractor,
        networks: SurrogateNetworks,
        auxiliary_models: AuxiliaryModels,
        space: DisplaySpace,
        sizes: DataSizes,
        options: TrainingOptions,
        quality: AuxiliaryQuality,
        span: Tensor,
        steps: int,
    ) -> None:
        self.features, self.space, self.sizes, self.options = features, space, sizes, options
        self.networks = networks.eval().requires_grad_(False)
        self.auxiliary_models, self.quality, self.steps = auxiliary_models, quality, steps
        self.span = span.to(features.classifier.device)
        self.context_names = sizes.context_names
        self.latent_names = name_latents(options.latent_dim)

    @property
    def classifier(self) -> Classifier:
        """The classifier that is mimicked."""
        return self.features.classifier

    @property
    def finished(self) -> bool:
        """Whether the training was made to its end."""
        return self.steps == self.options.steps

    def encode(self, images: Tensor, max_batch: int = 128) -> Codes:
        """The codes of images, without gradients, at most `max_batch` at a time."""
        with torch.no_grad():
            parts = [
                self._encode(chunk)
                for chunk in torch.split(images.to(self.classifier.device, torch.float32), max_batch)
            ]
        return Codes(*(torch.cat(blocks) for blocks in zip(*parts, strict=True)))

    def _encode(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        shown = self.space.to_display(images)
        latent = self.networks.latent(self.auxiliary_models.standard_phi(self.features(images).phi))
        return self.auxiliary_models.attribute_predictors(shown), latent, self.networks.nuisance(shown)

    def decode(self, codes: Codes) -> Tensor:
        """The images of codes; differentiable with respect to them."""
        return self.space.from_display(self.networks.generate(codes))

    def reconstruct(self, images: Tensor) -> Tensor:
        """Images as the twin redraws them, without gradients."""
        codes = self.encode(images)
        with torch.no_grad():
            return torch.cat([self.decode(codes[rows]) for rows in torch.split(torch.arange(len(codes)), 128)])

    def clip(self, images: Tensor) -> Tensor:
        """Images cut to the range between black and full brightness; differentiable."""
        return self.space.from_display(self.space.to_display(images).clamp(-1, 1))

    def logits(self, images: Tensor) -> Tensor:
        """The classifier's logits (N, K); differentiable with respect to the images."""
        return self.classifier.logits(images)

    def head_logits(self, codes: Codes) -> Tensor:
        """The logits (N, K) that the discriminative twin reads off context and latents alone."""
        predicted: Tensor = self.networks.head(codes.concept_coordinates())
        return predicted

    def pooled_features(self, images: Tensor) -> Tensor:
        """What the classifier's layers make of images, (N, F), without gradients."""
        with torch.no_grad():
            return torch.cat([self.features(chunk).phi for chunk in torch.split(images, 128)])

    def perceived_context(self, images: Tensor) -> Tensor:
        """The context that the classifier's own features tell of, (N, K_c), in standard deviations of the table."""
        phi = self.pooled_features(images.to(self.classifier.device))
        with torch.no_grad():
            perceived: Tensor = self.auxiliary_models.context_probe(self.auxiliary_models.standard_phi(phi))
        return perceived

    def predicted_context(self, images: Tensor) -> Tensor:
        """Each judge's context of images, (judges, N, K_c), standardized; differentiable."""
        return self.auxiliary_models.attribute_predictors.predict_each(self.space.to_display(images))

    def standard_context(self, values: Tensor) -> Tensor:
        """Context in the table's units (N, K_c) as the codes have it."""
        return self.auxiliary_models.standard_context(values.to(self.classifier.device))

    def context_values(self, standard: Tensor) -> Tensor:
        """Context of codes (N, K_c) in the table's units."""
        return self.auxiliary_models.context_values(standard)

    def save(self, folder: str | Path) -> None:
        """Write the twin as `surrogate.safetensors` and `surrogate.json`, and what it knows of real images beside
        them."""
        path = Path(folder)
        tensors = {f"networks.{name}": value for name, value in self.networks.state_dict().items()}
        tensors |= {f"auxiliary_models.{name}": value for name, value in self.auxiliary_models.state_dict().items()}
        write_tensors(path / TENSORS, tensors | {"span": self.span})
        write_record(path / RECORD, self._record(), kind=FORMAT, version=VERSION)
        self.save_state(path)

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
        )

    def __repr__(self) -> str:
        contexts = ", ".join(self.context_names) or "no context"
        return f"SurrogateExplainer({self.classifier.name!r}, {contexts}, step {self.steps} of {self.options.steps})"


@dataclass(frozen=True)
class ClassifierIdentity:
    """Which classifier a surrogate mimics: its name, and the digest of its weights."""

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
        space: of the images.
        steps: of the training so far.
    """

    classifier: ClassifierIdentity
    layers: str | tuple[str, ...]
    made_with: Mapping[str, str]
    options: TrainingOptions
    quality: AuxiliaryQuality
    sizes: DataSizes
    space: DisplaySpace
    steps: int


def load(folder: str | Path, *, classifier: Classifier) -> SurrogateExplainer:
    """The twin that was trained or saved in a folder; of an unfinished training the last checkpoint's.

    Args:
        folder: of the training, or of `SurrogateExplainer.save`.
        classifier: the one that the twin mimics.

    Raises:
        CheckpointError: there is no twin, or it is another classifier's.
    """
    path = Path(folder)
    record = _read_record(path / RECORD)
    expected, given = record.classifier.weights, classifier.fingerprint()
    if expected != given:
        raise CheckpointError(
            f"{path} holds the surrogate of {record.classifier.name} with weights {expected[:12]}; the classifier "
            f"given, {classifier.name}, has weights {given[:12]}: its decisions are not the ones that were distilled"
        )
    sizes, options = record.sizes, record.options
    features = FeatureExtractor(classifier, record.layers)
    tensors = read_tensors(path / TENSORS)
    networks = SurrogateNetworks(sizes, options)
    networks.load_state_dict(select_prefix(tensors, "networks."))
    auxiliary_models = AuxiliaryModels(sizes.channels, sizes.features, len(sizes.context_names), options)
    auxiliary_models.load_state_dict(select_prefix(tensors, "auxiliary_models."))
    to_channels_last(networks, classifier.device)
    to_channels_last(auxiliary_models, classifier.device)
    surrogate = SurrogateExplainer(
        features,
        networks,
        auxiliary_models,
        record.space,
        sizes,
        options,
        record.quality,
        tensors["span"],
        record.steps,
    )
    surrogate.load_state(path)
    return surrogate


def _read_record(path: Path) -> SurrogateRecord:
    if not path.exists():
        raise CheckpointError(f"{path.parent} holds no surrogate: there is no {path.name}")
    try:
        return read_record(path, SurrogateRecord, kind=FORMAT, version=VERSION)
    except RecordError as error:
        raise CheckpointError(f"{error}: train the surrogate again") from error

"""A trained twin surrogate: from pictures to codes and back, saved and loaded."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pellucid.classifiers import Classifier
from pellucid.storage import write_atomically
from pellucid.storage.tensors import read_tensors, under, write_tensors
from pellucid.surrogate.answers import Answers
from pellucid.surrogate.model import packed
from pellucid.surrogate.model.auxiliary_models import Instruments, Quality
from pellucid.surrogate.model.codes import Codes, latent_names
from pellucid.surrogate.model.features import LOGITS_ONLY, Features
from pellucid.surrogate.model.image_space import DisplaySpace
from pellucid.surrogate.model.surrogate_networks import Sizes, TwinNetworks
from pellucid.surrogate.training.checkpoint import CheckpointError
from pellucid.surrogate.training.training_options import TrainingOptions

FORMAT, VERSION = "pellucid surrogate", 1
TENSORS, RECORD = "twin.safetensors", "twin.json"


class TwinSurrogate(Answers):
    """The twin of a classifier (see `pellucid.surrogate.codes.Twin`), and the answers that it gives (see `Answers`).

    Pictures are (N, C, R, R) in the classifier's own input space; results are on the classifier's device.

    Attributes:
        features: the classifier and what it sees.
        networks: encoders, head and generator, running means, frozen.
        instruments: judges of context, perceived context, scales.
        space: display space of the generator.
        sizes, options: of data and training.
        quality: R^2 of the judges and of the perceived context.
        span: (2, K_c), 2 % and 98 % quantiles of the standardised contexts seen in training.
        steps: of training made.
        context_names, latent_names: of the codes' columns.
    """

    def __init__(
        self,
        features: Features,
        networks: TwinNetworks,
        instruments: Instruments,
        space: DisplaySpace,
        sizes: Sizes,
        options: TrainingOptions,
        quality: Quality,
        span: Tensor,
        steps: int,
    ) -> None:
        self.features, self.space, self.sizes, self.options = features, space, sizes, options
        self.networks = networks.eval().requires_grad_(False)
        self.instruments, self.quality, self.steps = instruments, quality, steps
        self.span = span.to(features.classifier.device)
        self.context_names = sizes.context_names
        self.latent_names = latent_names(options.latents)

    @property
    def classifier(self) -> Classifier:
        """The classifier that is mimicked."""
        return self.features.classifier

    @property
    def finished(self) -> bool:
        """Whether the training was made to its end."""
        return self.steps == self.options.steps

    def encode(self, pictures: Tensor, max_batch: int = 128) -> Codes:
        """The codes of pictures, without gradients, at most `max_batch` at a time."""
        with torch.no_grad():
            parts = [
                self._encode(chunk)
                for chunk in torch.split(pictures.to(self.classifier.device, torch.float32), max_batch)
            ]
        return Codes(*(torch.cat(blocks) for blocks in zip(*parts, strict=True)))

    def _encode(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        shown = self.space.show(pictures)
        latent = self.networks.latent(self.instruments.standard_phi(self.features(pictures).phi))
        return self.instruments.judges(shown), latent, self.networks.nuisance(shown)

    def decode(self, codes: Codes) -> Tensor:
        """The pictures of codes; differentiable with respect to them."""
        return self.space.back(self.networks.draw(codes))

    def reconstruct(self, pictures: Tensor) -> Tensor:
        """Pictures as the twin redraws them, without gradients."""
        codes = self.encode(pictures)
        with torch.no_grad():
            return torch.cat([self.decode(codes[rows]) for rows in torch.split(torch.arange(len(codes)), 128)])

    def clip(self, pictures: Tensor) -> Tensor:
        """Pictures cut to the range between black and full brightness; differentiable."""
        return self.space.back(self.space.show(pictures).clamp(-1, 1))

    def logits(self, pictures: Tensor) -> Tensor:
        """The classifier's logits (N, K); differentiable with respect to the pictures."""
        return self.classifier.logits(pictures)

    def head_logits(self, codes: Codes) -> Tensor:
        """The logits (N, K) that the discriminative twin reads off context and latents alone."""
        predicted: Tensor = self.networks.head(codes.concepts())
        return predicted

    def seen_features(self, pictures: Tensor) -> Tensor:
        """What the classifier's layers make of pictures, (N, F), without gradients."""
        with torch.no_grad():
            return torch.cat([self.features(chunk).phi for chunk in torch.split(pictures, 128)])

    def perceived_context(self, pictures: Tensor) -> Tensor:
        """The context that the classifier's own features tell of, (N, K_c), in standard deviations of the table."""
        phi = self.seen_features(pictures.to(self.classifier.device))
        with torch.no_grad():
            perceived: Tensor = self.instruments.perception(self.instruments.standard_phi(phi))
        return perceived

    def judged_context(self, pictures: Tensor) -> Tensor:
        """Each judge's context of pictures, (judges, N, K_c), standardised; differentiable."""
        return self.instruments.judges.each(self.space.show(pictures))

    def standard_context(self, values: Tensor) -> Tensor:
        """Context in the table's units (N, K_c) as the codes have it."""
        return self.instruments.standard_context(values.to(self.classifier.device))

    def context_values(self, standard: Tensor) -> Tensor:
        """Context of codes (N, K_c) in the table's units."""
        return self.instruments.context_values(standard)

    def save(self, folder: str | Path) -> None:
        """Write the twin as `twin.safetensors` and `twin.json`, and what it knows of real pictures beside them."""
        path = Path(folder)
        tensors = {f"networks.{name}": value for name, value in self.networks.state_dict().items()}
        tensors |= {f"instruments.{name}": value for name, value in self.instruments.state_dict().items()}
        write_tensors(path / TENSORS, tensors | {"span": self.span})
        write_atomically(path / RECORD, json.dumps(self._record(), indent=1, sort_keys=True).encode())
        self.save_answers(path)

    def _record(self) -> dict[str, Any]:
        from pellucid import __version__

        return {
            "format": FORMAT,
            "version": VERSION,
            "made_with": {"pellucid": __version__, "torch": torch.__version__},
            "classifier": {"name": self.classifier.name, "weights": self.classifier.fingerprint()},
            "layers": LOGITS_ONLY if self.features.black_box else list(self.features.layers),
            "sizes": asdict(self.sizes),
            "space": asdict(self.space),
            "options": self.options.record(),
            "quality": asdict(self.quality),
            "steps": self.steps,
        }

    def __repr__(self) -> str:
        contexts = ", ".join(self.context_names) or "no context"
        return f"TwinSurrogate({self.classifier.name!r}, {contexts}, step {self.steps} of {self.options.steps})"


def load(folder: str | Path, *, classifier: Classifier) -> TwinSurrogate:
    """The twin that was trained or saved in a folder; of an unfinished training the last checkpoint's.

    Args:
        folder: of the training, or of `TwinSurrogate.save`.
        classifier: the one that the twin mimics.

    Raises:
        CheckpointError: there is no twin, or it is another classifier's.
    """
    path = Path(folder)
    record = _read_record(path / RECORD)
    wanted, found = record["classifier"]["weights"], classifier.fingerprint()
    if wanted != found:
        raise CheckpointError(
            f"{path} holds the surrogate of {record['classifier']['name']} with weights {wanted[:12]}; the classifier "
            f"given, {classifier.name}, has weights {found[:12]}: its decisions are not the ones that were distilled"
        )
    sizes = Sizes(**{**record["sizes"], "context_names": tuple(record["sizes"]["context_names"])})
    options = TrainingOptions.from_record(record["options"])
    features = Features(classifier, record["layers"])
    tensors = read_tensors(path / TENSORS)
    networks = TwinNetworks(sizes, options)
    networks.load_state_dict(under(tensors, "networks."))
    instruments = Instruments(sizes.channels, sizes.features, len(sizes.context_names), options)
    instruments.load_state_dict(under(tensors, "instruments."))
    try:
        quality = Quality.from_record(record["quality"])
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path / RECORD} is damaged or of another version of pellucid ({error!r}): train the surrogate anew"
        ) from error
    space = DisplaySpace(tuple(record["space"]["low"]), tuple(record["space"]["high"]), str(record["space"]["origin"]))
    packed(networks, classifier.device)
    packed(instruments, classifier.device)
    twin = TwinSurrogate(
        features,
        networks,
        instruments,
        space,
        sizes,
        options,
        quality,
        tensors["span"],
        int(record["steps"]),
    )
    twin.load_answers(path)
    return twin


def _read_record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path.parent} holds no surrogate: there is no {path.name}") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged ({error}); train the surrogate anew") from error
    if record.get("format") != FORMAT or record.get("version") != VERSION:
        raise CheckpointError(f"{path} is no surrogate that this pellucid reads (format {FORMAT!r}, version {VERSION})")
    return dict(record)

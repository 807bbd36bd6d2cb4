"""One training step: the discriminator against the twin, the twin against everything."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid.surrogate.explain.interventions import InterventionBatch, intervene
from pellucid.surrogate.model import Discriminator, call_frozen
from pellucid.surrogate.model.codes import Codes
from pellucid.surrogate.model.features import ClassifierFeatures, FeatureExtractor
from pellucid.surrogate.model.image_space import DisplaySpace
from pellucid.surrogate.model.surrogate_networks import SurrogateNetworks
from pellucid.surrogate.training.distributed import all_gather
from pellucid.surrogate.training.losses import (
    brightness_divergence,
    fake_loss,
    feature_distance,
    kl_divergence,
    real_loss,
    row_distance,
)
from pellucid.surrogate.training.penalties import (
    hessian_penalty,
    moment_penalty,
    path_lengths,
    r1,
)
from pellucid.surrogate.training.preparation import TrainingData
from pellucid.surrogate.training.sampling import draw_rows
from pellucid.surrogate.training.training_options import TrainingOptions


@dataclass(frozen=True)
class Batch:
    """Images to be redrawn, and the versions of them whose latents and nuisance are used.

    Attributes:
        images: (B, C, R, R) in display space, to be redrawn.
        context: (B, K_c), theirs.
        phi: (B, F), theirs, standardized.
        sources: (B, C, R, R), where the nuisance is read: the same images, or other versions of them.
        source_context, source_phi, source_logits: of the sources.
    """

    images: Tensor
    context: Tensor
    phi: Tensor
    sources: Tensor
    source_context: Tensor
    source_phi: Tensor
    source_logits: Tensor


def draw_batch(data: TrainingData, rows: int, paired: float, random: torch.Generator, device: torch.device) -> Batch:
    """Draw a batch by the sampler's weights.

    Where images have versions with other contexts, a share `paired` is redrawn from the latents and nuisance of
    another version: the true image of an intervention, known pixel by pixel. Latents and nuisance thereby learn to
    leave to the contexts what is theirs.
    """
    chosen = draw_rows(data.weights, rows, random)
    shift = data.given * torch.randint(data.versions, (rows,), generator=random)
    elsewhere = torch.rand(rows, generator=random) < paired
    other = (chosen + shift) % (data.given * data.versions)
    source = torch.where(elsewhere & (data.weights[other] > 0), other, chosen)  # not those that are left out

    def at(table: Tensor, where: Tensor) -> Tensor:
        return table[where].to(device)

    images = data.images[chosen].to(device)
    return Batch(
        images,
        at(data.codes, chosen),
        at(data.phi, chosen),
        images if torch.equal(source, chosen) else data.images[source].to(device),
        at(data.codes, source),
        at(data.phi, source),
        at(data.logits, source),
    )


@dataclass(frozen=True)
class Fakes:
    """Redrawn images, and images of changed codes, without gradients."""

    redrawn: Tensor
    changed: Tensor | None


class StepLosses:
    """The losses of a step as functions of the networks.

    Args:
        features: the classifier and what it sees.
        space: display space.
        data: the training set with its instruments.
        options: of the training.
        random: draws of interventions, directions and noise.
    """

    def __init__(
        self,
        features: FeatureExtractor,
        space: DisplaySpace,
        data: TrainingData,
        options: TrainingOptions,
        random: torch.Generator,
    ) -> None:
        self.features, self.space, self.data = features, space, data
        self.options, self.random = options, random
        self.device = features.classifier.device
        self.logit_scale = data.logits[: data.given].std().to(self.device)
        self.mean_path = torch.zeros((), device=self.device)

    def twin(
        self, twin: SurrogateNetworks, batch: Batch, adversary: Discriminator | None, *, warm: bool, step: int
    ) -> tuple[dict[str, Tensor], Fakes]:
        """Weighted losses of encoders, head and generator, and what was drawn.

        Args:
            twin: the networks.
            batch: of images.
            adversary: the discriminator, if it takes part.
            warm: still warming up: no adversary, no interventions.
            step: number of the step; lazy terms come on multiples.
        """
        codes = Codes(batch.context, twin.latent(batch.source_phi), twin.nuisance(batch.sources))
        changed = None if warm else intervene(codes[: len(batch.images) // 2], self.data.span, self.random)
        redrawn, others = self._drawn(twin, self._blurred(codes), changed)
        found = self._seen(redrawn if others is None else torch.cat([redrawn, others]))
        with torch.no_grad():
            wanted = self._seen(batch.images)
        losses = self._fidelity(twin, batch, codes, redrawn, _rows(found, 0, len(redrawn)), wanted)
        if changed is not None and others is not None:
            seen = _rows(found, len(redrawn), len(redrawn) + len(others))
            losses |= self._consistency(twin, changed, others, seen, wanted)
            if adversary is not None:
                losses |= self._adversarial(adversary, batch, redrawn, others)
            losses |= self._lazy(twin, codes, step)
        return losses, Fakes(redrawn.detach(), None if others is None else others.detach())

    def discriminator(self, discriminator: Discriminator, batch: Batch, fakes: Fakes, step: int) -> dict[str, Tensor]:
        """Losses of the discriminator; it also learns how real images score without the classifier's features."""
        lazy, weight = self.options.lazy, self.options.weights
        with self.half():
            alone, matched = discriminator(batch.images, batch.phi)
            _, redrawn = discriminator(fakes.redrawn, batch.phi)
        losses = {"real": real_loss(matched), "fake": fake_loss(redrawn)}
        if fakes.changed is not None:
            with self.half():
                changed, _ = discriminator(fakes.changed, batch.phi[: len(fakes.changed)])
            losses |= {"real_alone": 0.5 * real_loss(alone), "fake_changed": 0.5 * fake_loss(changed)}
        if weight.r1 and step % lazy == 0:
            images = batch.images.detach().requires_grad_()
            _, scores = discriminator(images, batch.phi)
            losses["r1"] = 0.5 * weight.r1 * lazy * r1(scores, images)
        return losses

    def half(self) -> AbstractContextManager[object]:
        """The context in which generator and discriminator run."""
        wanted = self.options.precision == "bfloat16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=wanted)

    def _drawn(
        self, twin: SurrogateNetworks, codes: Codes, changed: InterventionBatch | None
    ) -> tuple[Tensor, Tensor | None]:
        joined = codes.joined()
        if changed is not None:
            joined = torch.cat([joined, changed.codes.joined()])
        with self.half():
            drawn = twin.generator(joined, self.random if self.options.noise else None)
        return drawn[: len(codes)], None if changed is None else drawn[len(codes) :]

    def _blurred(self, codes: Codes) -> Codes:
        latent = _noisy(codes.latent, self.options.latent_noise, self.random)
        return Codes(codes.context, latent, _noisy(codes.nuisance, self.options.nuisance_noise, self.random))

    def _seen(self, shown: Tensor) -> ClassifierFeatures:
        return self.features(self.space.back(shown))

    def _fidelity(
        self,
        twin: SurrogateNetworks,
        batch: Batch,
        codes: Codes,
        redrawn: Tensor,
        found: ClassifierFeatures,
        wanted: ClassifierFeatures,
    ) -> dict[str, Tensor]:
        weight = self.options.weights
        latent = _noisy(codes.latent, self.options.latent_noise, self.random)
        predicted = twin.head(torch.cat([batch.source_context, latent], dim=1))
        return {
            "pixel": weight.pixel * (redrawn - batch.images).abs().mean(),
            "brightness": weight.brightness * brightness_divergence(redrawn, batch.images),
            "features": weight.features * feature_distance(found.maps, wanted.maps).to(redrawn),
            "teacher": weight.teacher * kl_divergence(wanted.logits, found.logits).mean(),
            "logits": weight.logits * self._logit_distance(wanted, found).mean(),
            "head": weight.head * kl_divergence(batch.source_logits, predicted).mean(),
            "moments": weight.moments * (_moments(codes.nuisance) + 0.2 * _moments(codes.latent)),
        }

    def _consistency(
        self,
        twin: SurrogateNetworks,
        changed: InterventionBatch,
        others: Tensor,
        found: ClassifierFeatures,
        wanted: ClassifierFeatures,
    ) -> dict[str, Tensor]:
        """What was asked must be found, what was not must be kept; encoders learn from swapped nuisance only."""
        weight, codes = self.options.weights, changed.codes.detach()
        latent_from, nuisance_from = changed.bounds
        losses = {}
        if codes.context.shape[1]:
            judged = self.data.auxiliary_models.judges.each(others)
            losses["asked_context"] = weight.asked_context * row_distance(judged, codes.context).mean()
        latent = call_frozen(twin.latent, self.data.auxiliary_models.standard_phi(found.phi))
        kept = row_distance(latent, codes.latent)[latent_from:].sum() / len(others)  # a changed context may change them
        losses["kept_latent"] = weight.kept_latent * kept
        if codes.nuisance.shape[1]:
            read = call_frozen(twin.nuisance, others)
            losses["kept_nuisance"] = weight.kept_nuisance * row_distance(read, codes.nuisance).mean()
            before = _rows(wanted, 0, len(others))
            moved = weight.teacher * kl_divergence(before.logits, found.logits)
            moved = moved + weight.logits * self._logit_distance(before, found)
            losses["swapped"] = weight.swapped * moved[nuisance_from:].sum() / len(others)
        return losses

    def _logit_distance(self, wanted: ClassifierFeatures, found: ClassifierFeatures) -> Tensor:
        return row_distance(found.logits / self.logit_scale, wanted.logits / self.logit_scale)

    def _adversarial(
        self, adversary: Discriminator, batch: Batch, redrawn: Tensor, others: Tensor
    ) -> dict[str, Tensor]:
        weight = self.options.weights
        with self.half():
            _, matched = adversary(redrawn, batch.phi)
            alone, _ = adversary(others, batch.phi[: len(others)])
        return {
            "adversarial": weight.adversarial * real_loss(matched),
            "changed_adversarial": weight.changed_adversarial * real_loss(alone),
        }

    def _lazy(self, twin: SurrogateNetworks, codes: Codes, step: int) -> dict[str, Tensor]:
        weight, losses = self.options.weights, {}
        if weight.hessian and step % self.options.lazy == 0:
            losses["hessian"] = weight.hessian * self.options.lazy * self._hessian(twin, codes[:8])
        if weight.path and step % self.options.path_every == 0:
            losses["path"] = weight.path * self.options.path_every * self._path(twin, codes[: len(codes) // 2])
        return losses

    def _hessian(self, twin: SurrogateNetworks, codes: Codes) -> Tensor:
        concepts = codes.concepts().shape[1]
        joined = codes.joined().detach()
        directions = torch.zeros(2, *joined.shape)
        signs = torch.randint(2, (2, len(joined), concepts), generator=self.random)
        directions[..., :concepts] = 2.0 * signs - 1
        return hessian_penalty(twin.generator, joined, directions.to(joined))

    def _path(self, twin: SurrogateNetworks, codes: Codes) -> Tensor:
        joined = codes.joined().detach().requires_grad_()
        images = twin.generator(joined)
        noise = torch.randn(images.shape, generator=self.random).to(images)
        lengths = path_lengths(images, joined, noise)
        mean = all_gather(lengths.mean().detach()).mean()
        self.mean_path = self.mean_path.lerp(mean, 0.01)
        return (lengths - self.mean_path).square().mean()


def _rows(seen: ClassifierFeatures, start: int, stop: int) -> ClassifierFeatures:
    return ClassifierFeatures(
        tuple(each[start:stop] for each in seen.maps), seen.phi[start:stop], seen.logits[start:stop]
    )


def _noisy(codes: Tensor, deviation: float, random: torch.Generator) -> Tensor:
    return codes + deviation * torch.randn(codes.shape, generator=random).to(codes)


def _moments(codes: Tensor) -> Tensor:
    return moment_penalty(codes) if codes.shape[1] else codes.sum()


def total(losses: Mapping[str, Tensor]) -> Tensor:
    """The sum of losses."""
    return torch.stack([loss.float() for loss in losses.values()]).sum()

"""One training step: the losses of encoders, head and generator, and those of the discriminator."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid.surrogate.model.codes import Codes
from pellucid.surrogate.model.features import ClassifierFeatures, FeatureExtractor
from pellucid.surrogate.model.image_space import DisplaySpace
from pellucid.surrogate.model.network_layers import call_frozen
from pellucid.surrogate.model.surrogate_networks import Discriminator, SurrogateNetworks
from pellucid.surrogate.training.distributed import all_gather
from pellucid.surrogate.training.losses import (
    brightness_divergence,
    fake_loss,
    feature_distance,
    hessian_penalty,
    kl_divergence,
    moment_penalty,
    path_lengths,
    r1_penalty,
    real_loss,
    row_distance,
)
from pellucid.surrogate.training.preparation import TrainingData
from pellucid.surrogate.training.training_batches import Batch, InterventionBatch, intervene
from pellucid.surrogate.training_options import TrainingOptions


@dataclass(frozen=True)
class GeneratedImages:
    """What the generator made in a step, without gradients.

    Attributes:
        reconstructed: (B, C, R, R), of the batch's codes.
        intervened: (R, C, R, R), of changed codes; None in the warm-up.
    """

    reconstructed: Tensor
    intervened: Tensor | None


class StepLosses:
    """The losses of a step as functions of the networks.

    Args:
        extractor: The classifier and its features.
        space: Display space of the images.
        data: The training set with its auxiliary models.
        options: Options of the training.
        random: Generator of interventions, directions and noise.
    """

    def __init__(
        self,
        extractor: FeatureExtractor,
        space: DisplaySpace,
        data: TrainingData,
        options: TrainingOptions,
        random: torch.Generator,
    ) -> None:
        self.extractor, self.space, self.data = extractor, space, data
        self.options, self.random = options, random
        self.device = extractor.classifier.device
        self.logit_scale = data.logits[: data.num_images].std().to(self.device)
        self.mean_path_length = torch.zeros((), device=self.device)

    def surrogate_losses(
        self, networks: SurrogateNetworks, batch: Batch, discriminator: Discriminator | None, *, warmup: bool, step: int
    ) -> tuple[dict[str, Tensor], GeneratedImages]:
        """Weighted losses of encoders, head and generator, and what was generated.

        Args:
            networks: Encoders, head and generator.
            batch: Images.
            discriminator: If it takes part.
            warmup: Still warming up: no discriminator, no interventions.
            step: Number of the step; lazy terms come on multiples.
        """
        codes = Codes(batch.context, networks.latent(batch.source_phi), networks.nuisance(batch.sources))
        changed = None if warmup else intervene(codes[: len(batch.images) // 2], self.data.span, self.random)
        reconstructed, intervened = self._generate(networks, self._add_noise(codes), changed)
        features = self._features(reconstructed if intervened is None else torch.cat([reconstructed, intervened]))
        with torch.no_grad():
            target = self._features(batch.images)
        losses = self._fidelity(networks, batch, codes, reconstructed, features[: len(reconstructed)], target)
        if changed is not None and intervened is not None:
            losses |= self._consistency(networks, changed, intervened, features[len(reconstructed) :], target)
            if discriminator is not None:
                losses |= self._adversarial(discriminator, batch, reconstructed, intervened)
            losses |= self._lazy_terms(networks, codes, step)
        return losses, GeneratedImages(reconstructed.detach(), None if intervened is None else intervened.detach())

    def discriminator_losses(
        self, discriminator: Discriminator, batch: Batch, generated: GeneratedImages, step: int
    ) -> dict[str, Tensor]:
        """Losses of the discriminator; it also learns how real images score without the classifier's features.

        Args:
            discriminator: To be trained.
            batch: Real images.
            generated: What `surrogate_losses` returned.
            step: Number of the step; R1 comes on multiples of `lazy_reg_interval`.
        """
        interval, weights = self.options.lazy_reg_interval, self.options.loss_weights
        with self.autocast():
            alone, matched = discriminator(batch.images, batch.phi)
            _, reconstructed = discriminator(generated.reconstructed, batch.phi)
        losses = {"real": real_loss(matched), "fake": fake_loss(reconstructed)}
        if generated.intervened is not None:
            with self.autocast():
                intervened, _ = discriminator(generated.intervened, batch.phi[: len(generated.intervened)])
            losses |= {"real_alone": 0.5 * real_loss(alone), "fake_intervened": 0.5 * fake_loss(intervened)}
        if weights.r1 and step % interval == 0:
            images = batch.images.detach().requires_grad_()
            _, scores = discriminator(images, batch.phi)
            losses["r1"] = 0.5 * weights.r1 * interval * r1_penalty(scores, images)
        return losses

    def autocast(self) -> AbstractContextManager[object]:
        """The context in which generator and discriminator run."""
        enabled = self.options.precision == "bfloat16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled)

    def _generate(
        self, networks: SurrogateNetworks, codes: Codes, changed: InterventionBatch | None
    ) -> tuple[Tensor, Tensor | None]:
        vector = codes.to_vector()
        if changed is not None:
            vector = torch.cat([vector, changed.codes.to_vector()])
        with self.autocast():
            generated = networks.generator(vector, self.random if self.options.noise_inputs else None)
        return generated[: len(codes)], None if changed is None else generated[len(codes) :]

    def _add_noise(self, codes: Codes) -> Codes:
        latent = _with_noise(codes.latent, self.options.latent_noise, self.random)
        return Codes(codes.context, latent, _with_noise(codes.nuisance, self.options.nuisance_noise, self.random))

    def classifier_problem(self, generated: GeneratedImages) -> str | None:
        """What is wrong with the classifier's own answers to the images of a step, in words, or None.

        Where the images are finite and its logits or their gradient are not, no training can help.
        """
        for images in (generated.reconstructed, generated.intervened):
            if images is None or not bool(images.isfinite().all()):
                continue
            with torch.enable_grad():
                shown = images.detach().requires_grad_()
                logits = self._features(shown).logits
                if not bool(logits.isfinite().all()):
                    return "logits"
                (gradient,) = torch.autograd.grad(logits.sum(), shown)
            if not bool(gradient.isfinite().all()):
                return "gradients"
        return None

    def _features(self, images: Tensor) -> ClassifierFeatures:
        return self.extractor(self.space.from_display(images))

    def _fidelity(
        self,
        networks: SurrogateNetworks,
        batch: Batch,
        codes: Codes,
        reconstructed: Tensor,
        features: ClassifierFeatures,
        target: ClassifierFeatures,
    ) -> dict[str, Tensor]:
        weights = self.options.loss_weights
        latent = _with_noise(codes.latent, self.options.latent_noise, self.random)
        predicted = networks.head(torch.cat([batch.source_context, latent], dim=1))
        return {
            "pixel": weights.pixel * (reconstructed - batch.images).abs().mean(),
            "brightness": weights.brightness * brightness_divergence(reconstructed, batch.images),
            "features": weights.features * feature_distance(features.maps, target.maps).to(reconstructed),
            "prediction_kl": weights.prediction_kl * kl_divergence(target.logits, features.logits).mean(),
            "logits": weights.logits * self._logit_distance(target, features).mean(),
            "head_kl": weights.head_kl * kl_divergence(batch.source_logits, predicted).mean(),
            "moments": weights.moments * (_moments(codes.nuisance) + 0.2 * _moments(codes.latent)),
        }

    def _consistency(
        self,
        networks: SurrogateNetworks,
        changed: InterventionBatch,
        intervened: Tensor,
        features: ClassifierFeatures,
        target: ClassifierFeatures,
    ) -> dict[str, Tensor]:
        """What was set must be found, the rest must be kept; encoders learn from swapped nuisance only."""
        weights, codes = self.options.loss_weights, changed.codes.detach()
        latent_start, nuisance_start = changed.bounds
        models, count = self.data.auxiliary_models, len(intervened)
        losses = {}
        if codes.context.shape[1]:
            predicted = models.attribute_predictors.predict_each(intervened)
            losses["context_consistency"] = weights.context_consistency * row_distance(predicted, codes.context).mean()
        latent = call_frozen(networks.latent, models.standard_phi(features.phi))
        kept = row_distance(latent, codes.latent)[latent_start:].sum() / count  # a changed context may change them
        losses["latent_consistency"] = weights.latent_consistency * kept
        if codes.nuisance.shape[1]:
            nuisance = call_frozen(networks.nuisance, intervened)
            kept = row_distance(nuisance, codes.nuisance).mean()
            losses["nuisance_consistency"] = weights.nuisance_consistency * kept
            before = target[:count]
            change = weights.prediction_kl * kl_divergence(before.logits, features.logits)
            change = change + weights.logits * self._logit_distance(before, features)
            losses["nuisance_swap"] = weights.nuisance_swap * change[nuisance_start:].sum() / count
        return losses

    def _logit_distance(self, target: ClassifierFeatures, features: ClassifierFeatures) -> Tensor:
        return row_distance(features.logits / self.logit_scale, target.logits / self.logit_scale)

    def _adversarial(
        self, discriminator: Discriminator, batch: Batch, reconstructed: Tensor, intervened: Tensor
    ) -> dict[str, Tensor]:
        weights = self.options.loss_weights
        with self.autocast():
            _, matched = discriminator(reconstructed, batch.phi)
            alone, _ = discriminator(intervened, batch.phi[: len(intervened)])
        return {
            "adversarial": weights.adversarial * real_loss(matched),
            "intervened_adversarial": weights.intervened_adversarial * real_loss(alone),
        }

    def _lazy_terms(self, networks: SurrogateNetworks, codes: Codes, step: int) -> dict[str, Tensor]:
        options, weights = self.options, self.options.loss_weights
        losses = {}
        if weights.hessian and step % options.lazy_reg_interval == 0:
            penalty = self._hessian_penalty(networks, codes[:8])
            losses["hessian"] = weights.hessian * options.lazy_reg_interval * penalty
        if weights.path_length and step % options.path_reg_interval == 0:
            penalty = self._path_length_penalty(networks, codes[: len(codes) // 2])
            losses["path_length"] = weights.path_length * options.path_reg_interval * penalty
        return losses

    def _hessian_penalty(self, networks: SurrogateNetworks, codes: Codes) -> Tensor:
        concepts = codes.concept_coordinates().shape[1]
        vector = codes.to_vector().detach()
        directions = torch.zeros(2, *vector.shape)
        signs = torch.randint(2, (2, len(vector), concepts), generator=self.random)
        directions[..., :concepts] = 2.0 * signs - 1
        return hessian_penalty(networks.generator, vector, directions.to(vector))

    def _path_length_penalty(self, networks: SurrogateNetworks, codes: Codes) -> Tensor:
        vector = codes.to_vector().detach().requires_grad_()
        images = networks.generator(vector)
        noise = torch.randn(images.shape, generator=self.random).to(images)
        lengths = path_lengths(images, vector, noise)
        mean = all_gather(lengths.mean().detach()).mean()
        self.mean_path_length = self.mean_path_length.lerp(mean, 0.01)
        return (lengths - self.mean_path_length).square().mean()


def _with_noise(codes: Tensor, deviation: float, random: torch.Generator) -> Tensor:
    return codes + deviation * torch.randn(codes.shape, generator=random).to(codes)


def _moments(codes: Tensor) -> Tensor:
    return moment_penalty(codes) if codes.shape[1] else codes.sum()


def sum_losses(losses: Mapping[str, Tensor]) -> Tensor:
    """The sum of losses.

    >>> sum_losses({"pixel": torch.tensor(1.0), "moments": torch.tensor(0.5)})
    tensor(1.5000)
    """
    return torch.stack([loss.float() for loss in losses.values()]).sum()

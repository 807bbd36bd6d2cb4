"""How a surrogate is trained: one frozen record of options, and presets for a test, a laptop and GPUs."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from torch import Generator, Tensor

from pellucid.errors import PellucidError

Rerender = Callable[[Tensor, Generator], tuple[Tensor, Tensor]]
"""Renders images again with other contexts, set by code: the strongest cure for contexts that are tied in the data.

Takes images (N, C, H, W) in the classifier's input space and a generator of random numbers; returns N images, each a
version of the one in its place that differs in its contexts only, and their context (N, K_c) in the table's units. A
row whose context cannot be determined is NaN; it is left out.
"""


@dataclass(frozen=True)
class LossWeights:
    """The weight of each loss term, 0 or more; 0 switches a term off.

    Attributes:
        pixel: Mean absolute difference of the reconstruction to the image, display space.
        brightness: Relative entropy of the reconstruction's pixels; frees pixels that are saturated and wrong.
        features: Mean absolute difference of the classifier's maps, relative to their mean size.
        prediction_kl: KL divergence of the classifier's probabilities, image from reconstruction.
        logits: Smooth L1 distance of the logits in their standard deviations: KL ignores what is already certain.
        head_kl: KL divergence of the classifier's probabilities from those that the head reads off the concepts.
        adversarial: Adversarial loss of reconstructions, given the classifier's features of the image.
        context_consistency: The predicted context of an image of changed codes is the context that was set.
        latent_consistency: The encoded latents of an image of changed codes are the latents that were set.
        nuisance_consistency: The encoded nuisance of an image of changed codes is the nuisance that was set.
        intervened_adversarial: Adversarial loss of images of changed codes; the discriminator counts them half.
        nuisance_swap: Change of the classifier's answer when the nuisance is another image's (KL and logits).
        hessian: Hessian penalty: interaction of concepts in the generated image.
        path_length: Path length regularization of the generator (StyleGAN2).
        moments: Distance of the nuisance from mean 0 and variance 1; of the latents at a fifth of the weight.
        r1: Gamma of the discriminator's gradient penalty at real images.
    """

    pixel: float = 4.0
    brightness: float = 2.0
    features: float = 0.5
    prediction_kl: float = 1.0
    logits: float = 2.0
    head_kl: float = 1.0
    adversarial: float = 0.3
    context_consistency: float = 1.0
    latent_consistency: float = 0.5
    nuisance_consistency: float = 0.3
    intervened_adversarial: float = 0.3
    nuisance_swap: float = 1.0
    hessian: float = 0.002
    path_length: float = 0.0
    moments: float = 0.1
    r1: float = 0.5


@dataclass(frozen=True)
class TrainingOptions:
    """How a surrogate is trained.

    Noise on latents and nuisance keeps them from copying the contexts, which come without noise: with copies, an
    intervention on the contexts alone has half of its effect. With `nuisance_dim=0` images are generated from the
    classifier's features alone (and from noise, if `noise_inputs`): class and style are reconstructed, not the very
    image.

    Attributes:
        resolution: Height and width of the images in pixels: 16, 32, 64, 128 or 256.
        steps: Training steps in all; the learning rates drop to a fifth for the last quarter.
        warmup_steps: First steps, without discriminator and interventions; 0 to `steps`.
        batch_size: Images in a step, over all processes; a multiple of 4 for each process.
        latent_dim: Number of unexplained latents, 1 or more.
        nuisance_dim: Length of the nuisance code, 0 or more.
        latent_noise: Standard deviation of the noise added to the latents (of unit variance) in training.
        nuisance_noise: Standard deviation of the noise added to the nuisance (of unit variance) in training.
        channel_base: Channels of generator and discriminator at a resolution are channel_base / resolution.
        max_channels: Most channels of a layer of generator and discriminator.
        encoder_channel_base: Channels of encoders and attribute predictors are encoder_channel_base / resolution.
        encoder_max_channels: Most channels of a layer of encoders and attribute predictors.
        use_discriminator: Whether there is a discriminator.
        noise_inputs: Whether the generator has noise inputs.
        brightness_context: Name of a context that also scales the image's brightness above black, or none.
        equalized_lr: Equalized learning rate in generator and discriminator.
        generator_lr: Learning rate of the generator (Adam), above 0.
        encoder_lr: Learning rate of encoders and head (Adam), above 0.
        discriminator_lr: Learning rate of the discriminator (Adam), above 0.
        max_grad_norm: Gradients of one step are clipped to this norm.
        lazy_reg_interval: Steps from one R1 and Hessian penalty to the next, each weighted by as much.
        path_reg_interval: Steps from one path length regularization to the next, each weighted by as much.
        ema_decay: Long-run decay of the averaged weights, in [0, 1].
        decorrelate: Draw batches in which the contexts look independent.
        real_fraction: Fraction of the draws from the given images alone, where there are augmented versions, in [0, 1].
        num_augmented: Augmented versions of each image with other contexts, where a re-renderer is given; 0 or more.
        paired_fraction: Fraction of a batch that is generated from latents and nuisance of another version, in [0, 1].
        num_predictors: Attribute predictors, 1 or more; an intervention must convince each of them.
        predictor_steps: Training steps of each attribute predictor and each probe.
        predictor_lr: Learning rate of the attribute predictors (AdamW), above 0.
        predictor_batch_size: Images in a training step of an attribute predictor.
        max_bytes_in_memory: Image files are kept in memory up to this size in bytes, and read for every batch beyond.
        precision: "float32", or "bfloat16" for generator and discriminator (never for classifier, predictors and R1).
        loss_weights: Weight of each loss term.
        checkpoint_every: Steps from one checkpoint to the next.
        preview_every: Steps from one preview image to the next.
        log_every: Steps from one line of the log to the next.
        seed: Seed of everything random.
    """

    resolution: int = 32
    steps: int = 8000
    warmup_steps: int = 500
    batch_size: int = 32
    latent_dim: int = 8
    nuisance_dim: int = 24
    latent_noise: float = 0.2
    nuisance_noise: float = 0.05
    channel_base: int = 512
    max_channels: int = 64
    encoder_channel_base: int = 512
    encoder_max_channels: int = 64
    use_discriminator: bool = True
    noise_inputs: bool = False
    brightness_context: str | None = None
    equalized_lr: bool = False
    generator_lr: float = 3e-4
    encoder_lr: float = 1e-3
    discriminator_lr: float = 2e-4
    max_grad_norm: float = 10.0
    lazy_reg_interval: int = 16
    path_reg_interval: int = 4
    ema_decay: float = 0.995
    decorrelate: bool = True
    real_fraction: float = 0.5
    num_augmented: int = 1
    paired_fraction: float = 0.5
    num_predictors: int = 2
    predictor_steps: int = 1500
    predictor_lr: float = 1e-3
    predictor_batch_size: int = 64
    max_bytes_in_memory: int = 2 * 2**30
    precision: Literal["float32", "bfloat16"] = "float32"
    loss_weights: LossWeights = LossWeights()
    checkpoint_every: int = 500
    preview_every: int = 500
    log_every: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        if self.resolution not in (16, 32, 64, 128, 256):
            raise PellucidError(f"resolution {self.resolution} is not one of 16, 32, 64, 128 and 256")
        if self.latent_dim < 1 or self.nuisance_dim < 0 or self.num_predictors < 1:
            raise PellucidError("a surrogate needs latent_dim >= 1, nuisance_dim >= 0 and num_predictors >= 1")
        if self.batch_size < 4 or self.batch_size % 4:
            raise PellucidError(f"batch_size {self.batch_size} is not a positive multiple of 4")
        if not 0 <= self.warmup_steps <= self.steps:
            raise PellucidError(f"warmup_steps {self.warmup_steps} is not between 0 and steps, {self.steps}")
        intervals = ("lazy_reg_interval", "path_reg_interval", "checkpoint_every", "preview_every", "log_every")
        for name in (*intervals, "predictor_steps"):
            if getattr(self, name) < 1:
                raise PellucidError(f"{name} {getattr(self, name)} is not 1 or more")
        for name in ("generator_lr", "encoder_lr", "discriminator_lr", "predictor_lr"):
            if not getattr(self, name) > 0:
                raise PellucidError(f"{name} {getattr(self, name)} is not above 0")
        for name in ("real_fraction", "paired_fraction", "ema_decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise PellucidError(f"{name} {getattr(self, name)} is not between 0 and 1")
        if self.num_augmented < 0:
            raise PellucidError(f"num_augmented {self.num_augmented} is negative")
        if self.precision not in ("float32", "bfloat16"):
            raise PellucidError(f"precision {self.precision!r} is neither 'float32' nor 'bfloat16'")

    def replace(self, **changes: Any) -> "TrainingOptions":
        """The same options with some changed; loss weights are changed by their own names.

        >>> options = get_preset("cpu-32").replace(steps=1000, pixel=1.0)
        >>> options.steps, options.loss_weights.pixel
        (1000, 1.0)

        Raises:
            PellucidError: There is no such option.
        """
        own, losses = ({field.name for field in fields(kind)} for kind in (TrainingOptions, LossWeights))
        own -= {"loss_weights"}
        unknown = set(changes) - own - losses
        if unknown:
            raise PellucidError(
                f"no training option {sorted(unknown)[0]!r}; there are {', '.join(sorted(own | losses))}"
            )
        loss_weights = {name: value for name, value in changes.items() if name in losses - own}
        rest = {name: value for name, value in changes.items() if name in own}
        return replace(self, loss_weights=replace(self.loss_weights, **loss_weights), **rest)


_LARGE = TrainingOptions(
    batch_size=32,
    latent_dim=32,
    nuisance_dim=256,
    channel_base=16384,
    max_channels=512,
    encoder_channel_base=8192,
    encoder_max_channels=256,
    noise_inputs=True,
    equalized_lr=True,
    generator_lr=2.5e-3,
    discriminator_lr=2.5e-3,
    latent_noise=0.3,
    nuisance_noise=0.1,
    ema_decay=0.9978,
    predictor_steps=10_000,
    precision="bfloat16",
    checkpoint_every=2_000,
    preview_every=2_000,
    loss_weights=LossWeights(path_length=2.0),
)

PRESETS = {
    "ci-16": TrainingOptions(
        resolution=16,
        steps=600,
        warmup_steps=100,
        latent_dim=4,
        nuisance_dim=4,
        latent_noise=0.3,
        nuisance_noise=0.1,
        generator_lr=1e-3,
        channel_base=256,
        max_channels=32,
        encoder_channel_base=256,
        encoder_max_channels=32,
        use_discriminator=False,
        predictor_steps=400,
        checkpoint_every=200,
        preview_every=300,
    ),
    "cpu-32": TrainingOptions(),
    "gpu-128": replace(
        _LARGE, resolution=128, steps=45_000, warmup_steps=2_000, loss_weights=LossWeights(path_length=2.0, r1=0.1)
    ),
    "gpu-256": replace(
        _LARGE, resolution=256, steps=94_000, warmup_steps=3_000, loss_weights=LossWeights(path_length=2.0, r1=1.0)
    ),
}
"""Options by name. `gpu-128` and `gpu-256` are recipes: steps x batch_size is 1.4 and 3 million images."""


def get_preset(name: str) -> TrainingOptions:
    """The options of a preset.

    >>> get_preset("ci-16").resolution
    16

    Raises:
        PellucidError: There is no such preset.
    """
    if name not in PRESETS:
        raise PellucidError(f"no preset {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]

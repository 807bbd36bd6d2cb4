"""How a twin is trained: one frozen record, and presets for a test, a laptop, and one or several GPUs."""

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from pellucid.errors import PellucidError


@dataclass(frozen=True)
class LossWeights:
    """What each term counts.

    Attributes:
        pixel: mean absolute difference of the redrawn image, display space.
        brightness: relative entropy of the redrawn image's pixels; frees pixels that are saturated and wrong.
        features: mean absolute difference of the classifier's maps, relative to their mean size.
        teacher: KL(f(x) || f(redrawn x)).
        logits: distance of the same logits, in their standard deviations: KL does not feel what becomes of a margin
            that is large already, and effects are told in margins.
        head: KL(f(x) || H(c, u)).
        adversarial: of redrawn images, given the classifier's features.
        asked_context, kept_latent, kept_nuisance: what a changed code must be found to be in the image drawn from it.
        changed_adversarial: of images of changed codes; in the discriminator's loss they count half.
        swapped: both, of f(x) and f(image with another's nuisance).
        hessian, path: interaction of concepts (Hessian penalty), and path length; zero switches a term off.
        moments: of the nuisance; of the latents at a fifth of the weight.
        r1: gamma of the discriminator's gradient penalty.
    """

    pixel: float = 4.0
    brightness: float = 2.0
    features: float = 0.5
    teacher: float = 1.0
    logits: float = 2.0
    head: float = 1.0
    adversarial: float = 0.3
    asked_context: float = 1.0
    kept_latent: float = 0.5
    kept_nuisance: float = 0.3
    changed_adversarial: float = 0.3
    swapped: float = 1.0
    hessian: float = 0.002
    path: float = 0.0
    moments: float = 0.1
    r1: float = 0.5


@dataclass(frozen=True)
class TrainingOptions:
    """How a twin is trained.

    Attributes:
        resolution: side of the images, a power of two from 16 to 256.
        steps: steps in all; the learning rates drop to a fifth for the last quarter.
        warm_up: first steps, without adversary and interventions.
        batch: images in a step, over all processes.
        latents: K_u, of unexplained latents.
        nuisance: K_n; 0 is the paper-like mode, in which everything is drawn from what the classifier sees, and from
            noise if `noise` is on: it redraws class and style, not the very image.
        latent_noise, nuisance_noise: standard deviation of the noise that latents and nuisance (of unit variance) are
            given on their way to the generator in training. A noisy channel is left to what the contexts, which come
            clean, do not tell; without it latents copy contexts, and an intervention on one side only is half obeyed.
        base, most: channels at a resolution are base / resolution, at most `most`.
        encoder_base, encoder_most: the same for encoders and judges.
        adversary: whether there is a discriminator.
        noise: noise inputs in the generator.
        gain: name of a context that also scales the brightness of the whole image above black; None for none.
        equalized: equalized learning rate in generator and discriminator.
        generator_rate, encoder_rate, discriminator_rate: of Adam (0, 0.99).
        clip: largest norm of the gradients of one step.
        lazy: R1 and Hessian penalty are applied every so many steps, so many times as strongly.
        path_every: the same for the path length.
        running_mean: long-run beta of the averaged weights.
        decorrelate: draw batches in which contexts look independent.
        real_share: share of the draws from the given images alone where re-rendered ones are there too; the others
            are from all.
        copies: re-rendered versions of each image, where a re-renderer is given.
        paired: share of a batch's images that are redrawn from latents and nuisance of another version.
        judges: context regressors; interventions must convince each of them.
        judge_steps, judge_rate, judge_batch: training of each.
        precision: "float32", or "bfloat16" for generator and discriminator (never for classifier, judges, R1).
        weights: what each loss counts.
        checkpoint_every, preview_every, log_every: in steps.
        seed: of everything random.
    """

    resolution: int = 32
    steps: int = 8000
    warm_up: int = 500
    batch: int = 32
    latents: int = 8
    nuisance: int = 24
    latent_noise: float = 0.2
    nuisance_noise: float = 0.05
    base: int = 512
    most: int = 64
    encoder_base: int = 512
    encoder_most: int = 64
    adversary: bool = True
    noise: bool = False
    gain: str | None = None
    equalized: bool = False
    generator_rate: float = 3e-4
    encoder_rate: float = 1e-3
    discriminator_rate: float = 2e-4
    clip: float = 10.0
    lazy: int = 16
    path_every: int = 4
    running_mean: float = 0.995
    decorrelate: bool = True
    real_share: float = 0.5
    copies: int = 1
    paired: float = 0.5
    judges: int = 2
    judge_steps: int = 1500
    judge_rate: float = 1e-3
    judge_batch: int = 64
    precision: Literal["float32", "bfloat16"] = "float32"
    weights: LossWeights = LossWeights()
    checkpoint_every: int = 500
    preview_every: int = 500
    log_every: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        side = self.resolution
        if side not in (16, 32, 64, 128, 256):
            raise PellucidError(f"resolution {side} is not one of 16, 32, 64, 128 and 256")
        if self.latents < 1 or self.nuisance < 0 or self.judges < 1:
            raise PellucidError("a twin needs at least one latent and one judge, and no negative number of nuisances")
        if self.batch < 4 or self.batch % 4:
            raise PellucidError(f"batch {self.batch} is not a positive multiple of 4")
        if not 0 <= self.warm_up <= self.steps:
            raise PellucidError(f"warm_up {self.warm_up} is not between 0 and steps, {self.steps}")
        for name in ("lazy", "path_every", "checkpoint_every", "preview_every", "log_every", "judge_steps"):
            if getattr(self, name) < 1:
                raise PellucidError(f"{name} {getattr(self, name)} is not 1 or more")
        for name in ("generator_rate", "encoder_rate", "discriminator_rate", "judge_rate"):
            if not getattr(self, name) > 0:
                raise PellucidError(f"{name} {getattr(self, name)} is not above 0")
        for name in ("real_share", "paired", "running_mean"):
            if not 0 <= getattr(self, name) <= 1:
                raise PellucidError(f"{name} {getattr(self, name)} is not between 0 and 1")
        if self.copies < 0:
            raise PellucidError(f"copies {self.copies} is negative")
        if self.precision not in ("float32", "bfloat16"):
            raise PellucidError(f"precision {self.precision!r} is neither 'float32' nor 'bfloat16'")

    def replace(self, **changes: Any) -> "TrainingOptions":
        """The same options with some changed; loss weights are changed by their own names.

        Raises:
            PellucidError: there is no such option.
        """
        own, losses = ({field.name for field in fields(kind)} for kind in (TrainingOptions, LossWeights))
        own -= {"weights"}
        unknown = set(changes) - own - losses
        if unknown:
            raise PellucidError(
                f"no training option {sorted(unknown)[0]!r}; there are {', '.join(sorted(own | losses))}"
            )
        weights = {name: value for name, value in changes.items() if name in losses - own}
        rest = {name: value for name, value in changes.items() if name in own}
        return replace(self, weights=replace(self.weights, **weights), **rest)


_LARGE = TrainingOptions(
    batch=32,
    latents=32,
    nuisance=256,
    base=16384,
    most=512,
    encoder_base=8192,
    encoder_most=256,
    noise=True,
    equalized=True,
    generator_rate=2.5e-3,
    discriminator_rate=2.5e-3,
    latent_noise=0.3,
    nuisance_noise=0.1,
    running_mean=0.9978,
    judge_steps=10_000,
    precision="bfloat16",
    checkpoint_every=2_000,
    preview_every=2_000,
    weights=LossWeights(path=2.0),
)

PRESETS = {
    "ci-16": TrainingOptions(
        resolution=16,
        steps=600,
        warm_up=100,
        latents=4,
        nuisance=4,
        latent_noise=0.3,
        nuisance_noise=0.1,
        generator_rate=1e-3,
        base=256,
        most=32,
        encoder_base=256,
        encoder_most=32,
        adversary=False,
        judge_steps=400,
        checkpoint_every=200,
        preview_every=300,
    ),
    "cpu-32": TrainingOptions(),
    "gpu-128": replace(_LARGE, resolution=128, steps=45_000, warm_up=2_000, weights=LossWeights(path=2.0, r1=0.1)),
    "gpu-256": replace(_LARGE, resolution=256, steps=94_000, warm_up=3_000, weights=LossWeights(path=2.0, r1=1.0)),
}
"""Options by name. `gpu-128` and `gpu-256` are recipes: steps x batch is 1.4 and 3 million images."""


def get_preset(name: str) -> TrainingOptions:
    """The options of a preset.

    Raises:
        PellucidError: there is no such preset.
    """
    if name not in PRESETS:
        raise PellucidError(f"no preset {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]

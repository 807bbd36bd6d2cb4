"""Sanity checks: a map must depend on which class it explains, and on what the network has learnt."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from pellucid.attribution import Explanation, Output, Target, TargetLike, View
from pellucid.classifiers import (
    Classifier,
    LayerView,
    randomizable_layers,
    randomize_cascading,
    randomize_independent,
    replace_module,
)
from pellucid.errors import PellucidError, TargetError
from pellucid.evaluation.localization import as_maps
from pellucid.evaluation.metrics.metric import ExplainedImages, MetricScores
from pellucid.statistics import spearman_matrix

Explain = Callable[[View, Tensor, TargetLike], Explanation]
"""What explains images: every `Method` does."""

_WINDOW, _SIGMA = 11, 1.5  # of the structural similarity: Wang et al., 2004


@dataclass(frozen=True)
class MapSimilarity:
    """How alike pairs of maps are: 1 is the same up to a positive factor; NaN where a map is constant or not finite.

    Attributes:
        ssim: structural similarity in [-1, 1], each map brought to [0, 1] by its least and largest value.
        spearman: rank correlation of the signed values in [-1, 1].
        spearman_absolute: rank correlation of the absolute values.
    """

    ssim: Tensor
    spearman: Tensor
    spearman_absolute: Tensor


@dataclass(frozen=True)
class RandomizationStep:
    """Similarity (N,) of the maps of a network with random weights to those of the trained one.

    Attributes:
        layer: the layer that was set back in this step.
        layers: all layers that are random.
        similarity: image by image.
    """

    layer: str
    layers: tuple[str, ...]
    similarity: MapSimilarity


@dataclass(frozen=True, kw_only=True)
class WeightRandomization:
    """How alike the maps stay when the network forgets its weights from the top; a map that stays shows no learning.

    Attributes:
        steps: in how many steps the network forgets, the last of which leaves nothing; each costs as much as the maps.
        seed: of the weights.
    """

    steps: int = 1
    seed: int = 0
    uses_maps: ClassVar[bool] = True
    higher_is_better: ClassVar[bool] = False
    description: ClassVar[str] = "Rank correlation of the map with that of the network with random weights."

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise PellucidError(f"steps is {self.steps}; it must be at least 1")

    def __call__(self, explained: ExplainedImages) -> tuple[MetricScores, ...]:
        """Spearman's correlation with the maps of each randomized network."""
        views, results = explained.shared.get(self), []
        if views is None:
            views = explained.shared[self] = self._randomize(explained.view)
        target = Target(explained.targets, explained.output)
        for state, view in views.items():
            values = explained.explain_again(view, explained.images, target).values[:, 0]
            similarity = map_similarity(explained.values, values).spearman
            results.append(MetricScores.without_chance(f"rank correlation, {state}", similarity))
        return tuple(results)

    def _randomize(self, view: LayerView) -> dict[str, LayerView]:
        """The classifier after each step, in words, seen from the same layer."""
        classifier = view.classifier
        count = len(randomizable_layers(classifier.module))
        chosen = cascade_steps(count, self.steps)
        return {
            f"{number} of {count} layers random": replace_module(classifier, step.network).at(view.layer)
            for number, step in enumerate(randomize_cascading(classifier.module, seed=self.seed), 1)
            if number in chosen
        }


@dataclass(frozen=True, kw_only=True)
class RandomLogit:
    """How alike the map is to that of another class, drawn at random; a map that stays does not explain the class.

    Attributes:
        seed: image n gets its other class from seed + n.
    """

    seed: int = 0
    uses_maps: ClassVar[bool] = True
    higher_is_better: ClassVar[bool] = False
    description: ClassVar[str] = "Rank correlation of the map with that of another class."

    def __call__(self, explained: ExplainedImages) -> tuple[MetricScores, ...]:
        """Spearman's correlation with the maps of the other classes."""
        similarity = random_logit_test(
            explained.explain_again,
            explained.view,
            explained.images,
            explained.targets,
            seed=self.seed + explained.offset,
        )
        return (MetricScores.without_chance("rank correlation with another class", similarity.spearman),)


@dataclass(frozen=True, kw_only=True)
class TargetSensitivity:
    """How alike the logit's map is to that of a score which no shift of all logits changes.

    Attributes:
        output: the other score, see `pellucid.attribution.Target`.
    """

    output: Output = "log_probability"
    uses_maps: ClassVar[bool] = True
    higher_is_better: ClassVar[bool] = True
    description: ClassVar[str] = "Rank correlation of the logit's map with that of the log-probability."

    def __call__(self, explained: ExplainedImages) -> tuple[MetricScores, ...]:
        """Spearman's correlation between the two maps."""
        similarity = target_sensitivity(
            explained.explain_again, explained.view, explained.images, explained.targets, outputs=(self.output,)
        )[self.output]
        return (MetricScores.without_chance(f"rank correlation with {self.output}", similarity.spearman),)


def cascade_steps(layers: int, steps: int) -> tuple[int, ...]:
    """How many of `layers` are random after each of `steps` of a cascade; the last step has all of them.

    >>> cascade_steps(10, 4)
    (2, 5, 8, 10)
    """
    return tuple(sorted({round(layers * step / steps) for step in range(1, steps + 1)} - {0}))


def map_similarity(first: Tensor, second: Tensor) -> MapSimilarity:
    """Compare maps pair by pair.

    Structural similarity: Wang et al., IEEE TIP 2004, with its Gaussian window of 11 cells (sigma 1.5), or the largest
    odd one that fits a smaller map, over the windows that lie inside the map. It is not made for negative values, whose
    means and covariances may cancel in it, so maps are brought to [0, 1] first.

    Args:
        first: (N, 1, h, w) or (N, h, w), signed.
        second: likewise.

    Returns:
        Three numbers (N,) float64 for every pair.

    Raises:
        PellucidError: the shapes differ.

    >>> maps = torch.rand(1, 6, 6, generator=torch.Generator().manual_seed(0))
    >>> map_similarity(maps, 2 * maps + 1).spearman, map_similarity(maps, -maps).spearman
    (tensor([1.], dtype=torch.float64), tensor([-1.], dtype=torch.float64))
    """
    a, b = as_maps(first).double(), as_maps(second).double()
    if a.shape != b.shape:
        raise PellucidError(f"maps {tuple(first.shape)} and {tuple(second.shape)}; expected two of one shape")
    spread = [maps.flatten(1).amax(1) - maps.flatten(1).amin(1) for maps in (a, b)]
    defined = torch.stack([width.isfinite() & (width > 0) for width in spread]).all(0)
    ssim, spearman, absolute = torch.full((3, len(a)), torch.nan, dtype=torch.float64)
    for index in defined.nonzero().flatten().tolist():
        ssim[index] = _ssim(_scaled(a[index]), _scaled(b[index]))
        spearman[index] = _spearman(a[index], b[index])
        absolute[index] = _spearman(a[index].abs(), b[index].abs())
    return MapSimilarity(ssim, spearman, absolute)


def random_logit_test(
    method: Explain, view: View, images: Tensor, target: Tensor | None = None, *, seed: int = 0
) -> MapSimilarity:
    """Compare the maps of the target's logit with those of another class, drawn at random for every image.

    A method whose map hardly changes does not explain the class. Both maps come from one pass. Source: Sixt, Granz and
    Landgraf, When Explanations Lie, ICML 2020, section 5.

    Args:
        method: any, or another function of a view, images and a target.
        view: `classifier.at(layer)`, or a grid setting's.
        images: (N, C, H, W) in the classifier's own input space.
        target: (N,) class indices, or (head, class) pairs (N, 1, 2) where a setting has several heads; the other class
            is of the same head. None for the predicted classes.
        seed: image n gets its other class from seed + n.

    Returns:
        Similarity (N,).

    Raises:
        TargetError: the targets do not fit, or there is one class only.
    """
    if target is None:
        target = view.classifier.logits(images).detach().cpu().argmax(-1)
    if target.shape not in ((len(images),), (len(images), 1, 2)):
        raise TargetError(f"targets {tuple(target.shape)} for {len(images)} images; expected (N,) or (N, 1, 2)")
    both = target.reshape(len(images), 1, -1).cpu().repeat(1, 2, 1)  # (N, own and other, 1 or 2)
    both[:, 1, -1] = _other_classes(both[:, 0, -1], len(view.classifier.class_names), seed)
    values = method(view, images, both if target.ndim == 3 else both[:, :, 0]).values
    return map_similarity(values[:, 0], values[:, 1])


def target_sensitivity(
    method: Explain,
    view: View,
    images: Tensor,
    target: Tensor | None = None,
    *,
    outputs: Sequence[Output] = ("centered", "log_probability", "margin"),
) -> dict[Output, MapSimilarity]:
    """Compare the maps for a class's logit with those for what no shift of all logits can change.

    Adding one vector to the weights of every class leaves all probabilities as they are and moves every logit's map at
    will. Where the maps for "centered" or "log_probability" differ much from those for the logit, so might those for
    the logit of an equivalent network. Source: Gairola et al., How to Probe, ICLR 2025.

    Args:
        method: any, or another function of a view, images and a target.
        view: the classifier, or a setting, seen from a layer.
        images: (N, C, H, W) in its own input space.
        target: (N,) class indices, or (N, T, 2) heads and classes of a setting; None for the predicted class.
        outputs: what is compared with "logit", see `Target`.

    Returns:
        For each output the similarities (N,) to the first target's map of the logit.
    """
    if target is None:
        target = view.classifier.logits(images).detach().cpu().argmax(-1)
    logit_maps = method(view, images, Target(target)).values[:, 0]
    return {
        output: map_similarity(logit_maps, method(view, images, Target(target, output)).values[:, 0])
        for output in outputs
    }


def parameter_randomization_test(
    method: Explain,
    classifier: Classifier,
    images: Tensor,
    target: Tensor | None = None,
    *,
    layer: str = "final",
    layers: Sequence[str] | None = None,
    cascading: bool = True,
    seed: int = 0,
) -> Iterator[RandomizationStep]:
    """Compare the maps of a network with those of copies that forget their weights, layer by layer from the top.

    A method whose maps stay alike does not show what was learnt. Source: Adebayo et al., Sanity Checks for Saliency
    Maps, NeurIPS 2018.

    Args:
        method: any, or another function of a view, images and a target.
        classifier: the trained one; it is not changed.
        images: (N, C, H, W) in its own input space.
        target: (N,) class indices, the same for all copies; None for what the trained classifier predicts.
        layer: where the maps are.
        layers: modules that are set back, see `randomize_cascading`; None for all, one by one.
        cascading: False sets back one layer at a time, with all others as learnt.
        seed: of the weights.

    Yields:
        One step after the other, with similarities (N,).

    Raises:
        ModelError: no such module.
        TargetError: the targets do not fit.
    """
    if target is None:
        target = classifier.logits(images).detach().cpu().argmax(1)
    trained = method(classifier.at(layer), images, target).values
    randomize = randomize_cascading if cascading else randomize_independent
    for step in randomize(classifier.module, seed=seed, layers=layers):
        values = method(replace_module(classifier, step.network).at(layer), images, target).values
        yield RandomizationStep(step.layer, step.layers, map_similarity(trained, values))


def _other_classes(classes: Tensor, count: int, seed: int) -> Tensor:
    if count < 2:
        raise TargetError("the random-logit test needs at least two classes; the classifier has one")
    drawn = [
        int(torch.randint(count - 1, (), generator=torch.Generator().manual_seed(seed + row)))
        for row in range(len(classes))
    ]
    others = torch.tensor(drawn)
    return others + (others >= classes)  # all classes but the own one, each as likely


def _scaled(values: Tensor) -> Tensor:
    return (values - values.min()) / (values.max() - values.min())


def _ssim(first: Tensor, second: Tensor) -> Tensor:
    """Mean structural similarity of two maps (h, w) with values in [0, 1]."""
    side = min(_WINDOW, *((size - 1) // 2 * 2 + 1 for size in first.shape))
    offsets = torch.arange(side, dtype=first.dtype, device=first.device) - side // 2
    weights = torch.exp(-0.5 * (offsets / _SIGMA).square())
    weights = torch.outer(weights, weights) / weights.sum().square()
    moments = torch.stack([first, second, first * first, second * second, first * second])
    a, b, aa, bb, ab = F.conv2d(moments[:, None], weights[None, None])[:, 0]
    luminance = (2 * a * b + 0.01**2) / (a * a + b * b + 0.01**2)
    structure = (2 * (ab - a * b) + 0.03**2) / (aa - a * a + bb - b * b + 0.03**2)
    similarity: Tensor = (luminance * structure).mean()
    return similarity


def _spearman(first: Tensor, second: Tensor) -> float:
    values = {"first": first.flatten().cpu().numpy(), "second": second.flatten().cpu().numpy()}
    return float(spearman_matrix(values)[0, 1])

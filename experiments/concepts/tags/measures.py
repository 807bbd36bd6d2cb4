"""One network of the tag experiment: what object and tag do to it, and what each explanation says they do."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

import pellucid as pl
from experiments.concepts.tags.networks import SIZE, Named, to_input
from pellucid.attribution import Explanation, GradCAM, IntegratedGradients
from pellucid.classifiers import LayerView
from pellucid.concepts import (
    CAV,
    Bootstrap,
    ConceptSet,
    FitOptions,
    VisualTCAV,
    concept_set,
    explain_class,
    fit_cav,
    fit_cavs,
    null_directions,
    tcav,
)
from pellucid.evaluation.metrics import false_alarm, relevance_mass_accuracy, remove_concepts, soft_iou
from pellucid.synthetic import BLANK, SHAPES, Scene, draw_scenes

PARTS = ("tag", "object")
LAYERS = ("final", "middle")
SIGNIFICANT = 0.05
_DIRECTION_ONLY = FitOptions(splits=1, resamples=2)  # these CAVs' AUC and stability are not reported
_SEED = 10**6  # far from the seeds of the training scenes
Row = dict[str, str | float]
Values = Mapping[tuple[str, str], Iterable[float]]
"""Values of (part, measure)."""


@dataclass(frozen=True)
class Exhibits:
    """The images that all networks are examined with.

    Attributes:
        per_class: images of each class that are explained and intervened on, all with the right tag.
        per_concept: images of each concept, and of each kind of negatives.
    """

    per_class: int = 20
    per_concept: int = 40

    @cached_property
    def scenes(self) -> list[Scene]:
        """The scenes that are explained, class by class."""
        return draw_scenes(self.per_class * len(SHAPES), SIZE, _SEED)

    @property
    def classes(self) -> Tensor:
        """(N,) the object's class."""
        return torch.arange(len(SHAPES)).repeat_interleave(self.per_class)

    @cached_property
    def images(self) -> dict[str, Tensor]:
        """The same scenes after each intervention, (N, 3, SIZE, SIZE) each."""
        own = [SHAPES[index] for index in self.classes]
        steps = 1 + torch.arange(len(own)) % (len(SHAPES) - 1)
        other = [SHAPES[index] for index in (self.classes + steps) % len(SHAPES)]
        nothing: Named = [None] * len(own)
        named: dict[str, tuple[Named, Named]] = {
            "right": (own, own),
            "tag removed": (own, nothing),
            "tag swapped": (own, other),
            "object removed": (nothing, own),
            "object swapped": (other, own),
        }
        return {name: to_input(self.scenes, *pair) for name, pair in named.items()}

    @cached_property
    def masks(self) -> dict[str, Tensor]:
        """Where each part is, (N, SIZE, SIZE) bool."""
        objects = [scene.shape_mask(SHAPES[own]) for scene, own in zip(self.scenes, self.classes, strict=True)]
        return {
            "tag": torch.from_numpy(np.stack([scene.tag_mask for scene in self.scenes])),
            "object": torch.from_numpy(np.stack(objects)),
        }

    @cached_property
    def concepts(self) -> list[ConceptSet]:
        """The tag of each class on backgrounds without an object, then the object of each class without a tag."""
        scenes = draw_scenes(self.per_concept, SIZE, _SEED + 1)
        nothing: Named = [None] * len(scenes)
        return [
            concept_set(to_input(scenes, *pair), f"{part} {name}")
            for part in PARTS
            for name in SHAPES
            for pair in [(nothing, [name] * len(scenes)) if part == "tag" else ([name] * len(scenes), nothing)]
        ]

    @cached_property
    def negatives(self) -> ConceptSet:
        """Backgrounds alone, and hard negatives: with the tag's rectangle, but without a glyph."""
        scenes = draw_scenes(2 * self.per_concept, SIZE, _SEED + 2)
        tags = [None] * self.per_concept + [BLANK] * self.per_concept
        return concept_set(to_input(scenes, [None] * len(scenes), tags), "negatives")


def measure(classifier: pl.Classifier, exhibits: Exhibits, layers: Sequence[str] = LAYERS) -> list[Row]:
    """Measure one network: a tidy table, one row per layer, part, measure and class.

    The rows of layer "truth" tell what the interventions do: "logit removed" and "logit swapped" are how far the logit
    of the class falls, "accuracy ..." the share of images that are given the object's class. "accuracy right", with
    nothing changed, is the same for both parts.
    """
    rows = _rows("truth", _interventions(classifier, exhibits)) + _rows("input", _input_gradients(classifier, exhibits))
    for layer in layers:
        view = classifier.at(layer)
        rows += _rows(layer, _grad_cam(view, exhibits))
        differences = fit_cavs(view, exhibits.concepts, exhibits.negatives)
        linear = fit_cavs(view, exhibits.concepts, exhibits.negatives, "logistic", options=_DIRECTION_ONLY)
        for index, name in enumerate(SHAPES):
            own, trained = ([cavs[index], cavs[index + len(SHAPES)]] for cavs in (differences, linear))
            images = exhibits.images["right"][exhibits.classes == index]
            result = {**_visual_tcav(view, own, images, index), **_tcav(view, trained, images, index)}
            result |= _seen(view, own, exhibits, index) | _contrasted(view, exhibits, index)
            rows += [
                {"layer": layer, "part": part, "measure": kind, "class": name, "value": value}
                for (part, kind), value in result.items()
            ]
    return rows


def _interventions(classifier: pl.Classifier, exhibits: Exhibits) -> Values:
    with torch.no_grad():
        logits = {name: classifier.logits(images) for name, images in exhibits.images.items()}
    own = {name: result.gather(1, exhibits.classes[:, None])[:, 0] for name, result in logits.items()}
    right = {name: (result.argmax(1) == exhibits.classes).double() for name, result in logits.items()}
    result: dict[tuple[str, str], Iterable[float]] = {}
    for part in PARTS:
        result[part, "accuracy right"] = _by_class(right["right"])
        for change in ("removed", "swapped"):
            result[part, f"accuracy {change}"] = _by_class(right[f"{part} {change}"])
            result[part, f"logit {change}"] = _by_class(own["right"] - own[f"{part} {change}"])
    return result


def _input_gradients(classifier: pl.Classifier, exhibits: Exhibits) -> Values:
    """Integrated gradients of the pixels: the share of the positive evidence in the mask, and all evidence in it."""
    explanation = IntegratedGradients()(classifier.at("input"), exhibits.images["right"], exhibits.classes)
    inside = {part: (explanation.values[:, 0] * mask).sum((1, 2)) for part, mask in exhibits.masks.items()}
    sums = {(part, "IG sum in mask"): _by_class(total) for part, total in inside.items()}
    return {**_mass_shares(explanation, exhibits, "IG mass"), **sums}


def _grad_cam(view: LayerView, exhibits: Exhibits) -> Values:
    return _mass_shares(GradCAM()(view, exhibits.images["right"], exhibits.classes), exhibits, "Grad-CAM mass")


def _mass_shares(explanation: Explanation, exhibits: Exhibits, name: str) -> Values:
    return {
        (part, name): _by_class(relevance_mass_accuracy(explanation.values, mask).scores)
        for part, mask in exhibits.masks.items()
    }


def _visual_tcav(view: LayerView, cavs: Sequence[CAV], images: Tensor, target: int) -> dict[tuple[str, str], float]:
    """Global attributions of tag and object, and of a random CAV in place of each under the same emblems.

    "tested" is the signed attribution, and 0 where it is not significant or where a warning says that the CAV is weak.
    """
    chance = [
        replace(cav, name=f"random {cav.name}", direction=null_directions(cav, 1, target, "relabel")[0]) for cav in cavs
    ]
    explainer = VisualTCAV(view, [*cavs, *chance], permutations=99, null="relabel", max_batch=32)
    result = explain_class(explainer, images, target, bootstrap=Bootstrap(repeats=1))
    assert result.signed.p_values is not None
    scores: dict[tuple[str, str], float] = {}
    for index, part in enumerate(PARTS):
        scores[part, "Visual-TCAV signed"] = float(result.signed.mean[index, 0])
        scores[part, "Visual-TCAV reference"] = float(result.reference.mean[index, 0])
        scores[part, "random CAV signed"] = float(result.signed.mean[index + len(cavs), 0])
        trusted = bool(result.signed.p_values[index, 0] <= SIGNIFICANT) and not cavs[index].is_weak
        scores[part, "Visual-TCAV tested"] = trusted * scores[part, "Visual-TCAV signed"]
        scores[part, "Visual-TCAV trusted"] = float(trusted)
    return scores


def _tcav(view: LayerView, cavs: Sequence[CAV], images: Tensor, target: int) -> dict[tuple[str, str], float]:
    """TCAV with logistic CAVs: the sign fraction, the same with 0.5 where it is not significant, mean sensitivity."""
    result = tcav(view, cavs, images, target, permutations=99, max_batch=32)
    scores: dict[tuple[str, str], float] = {}
    for index, part in enumerate(PARTS):
        score, passed = float(result.scores[index]), bool(result.adjusted["p_values"][index] <= SIGNIFICANT)
        scores[part, "TCAV"] = score
        scores[part, "TCAV tested"] = score if passed else 0.5
        scores[part, "TCAV significant"] = float(passed)
        scores[part, "TCAV mean sensitivity"] = float(result.mean_sensitivities[index])
    return scores


def _seen(view: LayerView, cavs: Sequence[CAV], exhibits: Exhibits, target: int) -> dict[tuple[str, str], float]:
    """How well concepts are fitted and seen, the joint attribution of both, and their deletion from the layer."""
    rows = exhibits.classes == target
    explainer = VisualTCAV(view, cavs, permutations=0, max_batch=32)
    curves = remove_concepts(view, exhibits.images["right"][rows], cavs, target, max_batch=64)
    result = explainer(exhibits.images["right"][rows], target)
    scores: dict[tuple[str, str], float] = {}
    for index, part in enumerate(PARTS):
        absent = explainer(exhibits.images[f"{part} removed"][rows], target).maps
        scores[part, "concept deletion"] = float(
            (curves.scores[:, index, 0, 0] - curves.scores[:, index, 0, -1]).mean()
        )
        scores[part, "Visual-TCAV joint"] = float(result.joint.contributions[:, index, 0].mean())
        scores[part, "CAV AUC"] = cavs[index].auc
        scores[part, "Soft-IoU"] = float(soft_iou(result.maps[:, index], exhibits.masks[part][rows]).nanmean())
        scores[part, "false alarm"] = float(false_alarm(absent[:, index]).mean())
    return scores


def _contrasted(view: LayerView, exhibits: Exhibits, target: int) -> dict[tuple[str, str], float]:
    """Global attributions with the images of the other part, tag or object, among the negatives of each."""
    pair = [exhibits.concepts[target], exhibits.concepts[target + len(SHAPES)]]
    cavs = []
    for own, other in (pair, pair[::-1]):
        negatives = replace(
            exhibits.negatives,
            images=exhibits.negatives.images + other.images,
            sources=exhibits.negatives.sources + other.sources,
        )
        cavs.append(fit_cav(view, own, negatives, options=_DIRECTION_ONLY))
    explainer = VisualTCAV(view, cavs, permutations=0, max_batch=32)
    result = explainer(exhibits.images["right"][exhibits.classes == target], target)
    return {
        (part, f"Visual-TCAV {score}, contrasted"): float(values[:, index, 0].mean())
        for index, part in enumerate(PARTS)
        for score, values in (("signed", result.signed), ("reference", result.reference))
    }


def _by_class(values: Tensor) -> list[float]:
    """Means over the images of each class."""
    means: list[float] = values.double().view(len(SHAPES), -1).mean(1).tolist()
    return means


def _rows(layer: str, values: Values) -> list[Row]:
    return [
        {"layer": layer, "part": part, "measure": kind, "class": name, "value": value}
        for (part, kind), of_classes in values.items()
        for name, value in zip(SHAPES, of_classes, strict=True)
    ]

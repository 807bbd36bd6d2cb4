"""All that is asked of a surrogate of a classifier of real images, as numbers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

import pellucid
from pellucid.data import ContextTable
from pellucid.storage import to_record
from pellucid.surrogate import (
    EncodedBatch,
    GlobalExplanation,
    GlobalOptions,
    LocalExplanation,
    RefusedError,
    SurrogateExplainer,
    margin,
    measure_fidelity,
)
from pellucid.surrogate.causal import Edge

Setter = Callable[[Tensor, str, float], Tensor]
"""(images in the classifier's input space, context, value in the table's units) -> the images with that context set
by code and the others held."""

_LOW, _HIGH = 0.05, 0.95  # quantiles between which code and surrogate move a context
_SHOWN = 3  # strips of an example


@dataclass(frozen=True)
class HeldOut:
    """Images that the surrogate was not trained on, in the classifier's input space, with classes and measured
    context.
    """

    images: Tensor
    labels: Tensor
    context: ContextTable

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, rows: slice) -> "HeldOut":
        """Some of them."""
        return HeldOut(self.images[rows], self.labels[rows], self.context.subset(rows))


@dataclass(frozen=True)
class Questions:
    """How many images each question is asked on.

    Attributes:
        measured: whose interventions are re-measured.
        intervened: whose decision edges are weighed, and that code redraws.
        shared: whose Shapley values are averaged.
        permutations: of those; an example has 64.
        examples: explained in full.
    """

    measured: int = 400
    max_interventions: int = 400
    shared: int = 60
    permutations: int = 16
    examples: int = 6


def examine(
    explainer: SurrogateExplainer,
    held_out: HeldOut,
    measure: Callable[[Tensor], Tensor],
    measured_by: str,
    set_by_code: Setter,
    settable: Sequence[str],
    questions: Questions,
    tell: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Assess the surrogate, discover its graphs, hold it against code and explain some images.

    Args:
        surrogate: trained.
        held_out: images.
        measure: (N, C, H, W) in the classifier's input space -> context (N, K) in the table's units.
        measured_by: says what that is.
        set_by_code: the oracle.
        settable: contexts that it sets.
        questions: how much is asked.
        tell: called with what is being done.
    """
    tell("assessing the surrogate")
    explainer.assess(
        held_out.images[: questions.measured],
        lambda drawn: explainer.standard_context(measure(drawn)),
        measured_by=measured_by,
    )
    explainer.set_reference(held_out.images)
    tell("discovering graphs")
    global_explanation = explainer.discover(
        held_out.images,
        held_out.context.values.float(),
        options=GlobalOptions(max_interventions=questions.max_interventions),
    )
    batch = explainer.encode_batch(held_out.images)
    part = batch[: questions.max_interventions]
    tell("asking code and surrogate the same")
    return {
        "made_with": {"pellucid": pellucid.__version__, "torch": torch.__version__},
        "surrogate": {
            "steps": explainer.surrogate.steps,
            "parameters": _parameters(explainer),
            "options": to_record(explainer.surrogate.options),
        },
        "classifier": _classifier(explainer, batch, held_out),
        "predictor_r2": dict(
            zip(explainer.context_names, zip(*explainer.surrogate.quality.predictor_r2, strict=True), strict=True)
        ),
        "fidelity": _fidelity(explainer, batch),
        "control": {control.concept: asdict(control) for control in _assessment(explainer).controls},
        "gate": _gate(explainer, held_out.rows(slice(0, 64))),
        "global_explanation": _world(global_explanation),
        "against_code": {name: _against_code(explainer, part, held_out, name, set_by_code) for name in settable},
        "importance": _importance(explainer, held_out.images[: questions.shared], questions.permutations),
        "examples": [_example(explainer, held_out, row, tell) for row in range(questions.examples)],
    }


def rounded(content: Any, digits: int = 4) -> Any:
    """The same with every number at so many significant digits; NaN is None."""
    if isinstance(content, float):
        return None if content != content else float(f"{content:.{digits}g}")
    if isinstance(content, Mapping):
        return {key: rounded(value, digits) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [rounded(value, digits) for value in content]
    return content


def _assessment(explainer: SurrogateExplainer) -> Any:
    assert explainer.assessment is not None
    return explainer.assessment


def _parameters(explainer: SurrogateExplainer) -> int:
    return sum(weight.numel() for weight in explainer.surrogate.networks.parameters())


def _classifier(explainer: SurrogateExplainer, batch: EncodedBatch, held_out: HeldOut) -> dict[str, Any]:
    said = torch.bincount(batch.classes, minlength=len(explainer.class_names))
    return {
        "name": explainer.classifier.name,
        "layers": list(explainer.surrogate.features.layers),
        "images": len(held_out),
        "accuracy": float((batch.classes == held_out.labels).float().mean()),
        "commonest_class": float(said.max() / said.sum()),
    }


def _fidelity(explainer: SurrogateExplainer, batch: EncodedBatch) -> dict[str, Any]:
    """The marks of the assessment, and over all held-out images how far single ones may be relied on."""
    trust = measure_fidelity(batch)
    marks = {name: value for name, value in asdict(_assessment(explainer)).items() if name != "controls"}
    kl = torch.quantile(trust.kl, torch.tensor([0.5, 0.9])).tolist()
    everyone = {
        "images": len(batch),
        "agreement": float(trust.same_class.float().mean()),
        "reliable": float(trust.reliable.float().mean()),
        "kl_median": kl[0],
        "kl_90": kl[1],
    }
    by_class = {
        name: float(trust.same_class[batch.classes == index].float().mean())
        for index, name in enumerate(explainer.class_names)
        if bool((batch.classes == index).any())
    }
    return {"assessed": marks, "all_held_out": everyone, "agreement_by_class": by_class}


def _gate(explainer: SurrogateExplainer, some: HeldOut) -> dict[str, dict[str, Any]]:
    """Ask for the upper quartile of each context: what is answered, or why it is refused."""
    answers: dict[str, dict[str, Any]] = {}
    for name in explainer.context_names:
        value = float(torch.quantile(some.context.column(name), 0.75))
        try:
            result = explainer.counterfactual(some.images, {name: value})
        except RefusedError as error:
            answers[name] = {"refused": str(error)}
            continue
        changed = result.before.argmax(1) != result.after.argmax(1)
        answers[name] = {
            "asked": value,
            "mean_predicted": float(result.predicted[:, explainer.context_names.index(name)].mean()),
            "class_changed": float(changed.float().mean()),
            "supported": float(result.in_distribution.float().mean()),
        }
    return answers


def _world(global_explanation: GlobalExplanation) -> dict[str, Any]:
    reported = global_explanation.difference
    assert global_explanation.data is not None
    assert reported is not None
    return {
        "perceives": dict(global_explanation.probe_r2),
        "data": [_edge(edge) for edge in global_explanation.data.edges],
        "perceived": [_edge(edge) for edge in global_explanation.perceived.edges],
        "only_data": [str(edge) for edge in reported.only_first],
        "only_perceived": [str(edge) for edge in reported.only_second],
        "reoriented": [[str(one), str(other)] for one, other in reported.reoriented],
        "common": [str(one) for one, _ in reported.common],
        "decisions": [asdict(edge) | {"matters": edge.matters} for edge in global_explanation.decision_effects],
        "null": asdict(global_explanation.null),
        "notes": list(global_explanation.notes),
    }


def _edge(edge: Edge) -> dict[str, Any]:
    return {"edge": str(edge), "confidence": edge.confidence, "strength": edge.strength, "tentative": edge.tentative}


def changes(
    explainer: SurrogateExplainer,
    batch: EncodedBatch,
    context: ContextTable,
    name: str,
    set_by_code: Setter,
    *,
    transferred: bool = False,
) -> tuple[Tensor, Tensor]:
    """How far the margin of each image's class moves from a context's 5 % to its 95 % quantile, by code and surrogate.

    By the surrogate on its own drawings, or `transferred` with the residual transferred to the input images.
    """
    column = explainer.context_names.index(name)
    shown = batch if transferred else batch.reconstructed()
    true, ours = [], []
    for value in torch.quantile(context.column(name), torch.tensor([_LOW, _HIGH]).double()).tolist():
        true.append(_margin(explainer, set_by_code(batch.images, name, value), batch))
        codes = batch.codes.context.clone()
        raw = explainer.context_values(codes)
        raw[:, column] = value
        codes[:, column] = explainer.standard_context(raw)[:, column]
        logits = shown.counterfactual_logits(replace(batch.codes, context=codes))
        ours.append(margin(logits, batch.classes))
    return true[1] - true[0], ours[1] - ours[0]


def _against_code(
    explainer: SurrogateExplainer, batch: EncodedBatch, held_out: HeldOut, name: str, set_by_code: Setter
) -> dict[str, float]:
    expected, result = changes(explainer, batch, held_out.context, name, set_by_code)
    _, with_residual = changes(explainer, batch, held_out.context, name, set_by_code, transferred=True)
    return {
        "correlation": float(torch.corrcoef(torch.stack([expected, result]))[0, 1]),
        "residual_correlation": float(torch.corrcoef(torch.stack([expected, with_residual]))[0, 1]),
        "same_sign": float((expected.sign() == result.sign()).float().mean()),
        "mean_by_code": float(expected.mean()),
        "mean_by_surrogate": float(result.mean()),
        "size_by_code": float(expected.abs().mean()),
        "size_by_surrogate": float(result.abs().mean()),
        "spread_of_margin": float(margin(batch.logits, batch.classes).std()),
        "images": len(batch),
    }


def _margin(explainer: SurrogateExplainer, images: Tensor, batch: EncodedBatch) -> Tensor:
    with torch.no_grad():
        logits = torch.cat([explainer.logits(chunk) for chunk in torch.split(images, batch.max_batch)])
    return margin(logits, batch.classes)


def _importance(explainer: SurrogateExplainer, images: Tensor, permutations: int) -> dict[str, Any]:
    result = explainer.importance(images, against="all", permutations=permutations)
    sizes = result.values.abs().mean(0)
    return {
        "images": len(images),
        "permutations": permutations,
        "mean_absolute_logits": dict(zip(result.names, sizes.tolist(), strict=True)),
        "share": dict(zip(result.names, (sizes / sizes.sum()).tolist(), strict=True)),
        "mean_standard_error": float(result.errors.mean()),
    }


def _example(explainer: SurrogateExplainer, held_out: HeldOut, row: int, tell: Callable[[str], None]) -> dict[str, Any]:
    tell(f"explaining image {row}")
    result = explainer.explain(held_out.images[row : row + 1])
    names, values = result.importance.names, result.importance.values[0]
    errors = result.importance.errors[0]
    return {
        "image": row,
        "true_class": explainer.class_names[int(held_out.labels[row])],
        "class": explainer.class_names[result.target],
        "probability": float(result.logits.softmax(1)[0, result.target]),
        "fidelity": {
            "kl": float(result.fidelity.kl[0]),
            "agrees": bool(result.fidelity.same_class[0]),
            "reliable": bool(result.fidelity.reliable[0]),
        },
        "importance": {
            name: [float(value), float(error)] for name, value, error in zip(names, values, errors, strict=True)
        },
        "effects": {effect.concept: [effect.direct, *effect.total] for effect in result.effects},
        "interactions": {" x ".join(pair.concepts): pair.effect for pair in result.interactions},
        "strips": _strips(result),
        "flip": _flip(explainer, result),
        "refused": sorted(result.refused),
        "sentences": list(result.sentences),
    }


def _strips(result: LocalExplanation) -> dict[str, Any]:
    """Of the concepts that move the probability of the class most."""
    ranges = {one.concept: float(one.probabilities[:, result.target].std()) for one in result.traversals}
    kept = sorted(ranges, key=lambda name: -ranges[name])[:_SHOWN]
    return {
        one.concept: {
            "levels": one.levels.tolist(),
            "probability": one.probabilities[:, result.target].tolist(),
            "predicted": one.predicted.tolist(),
            "supported": one.in_distribution.tolist(),
        }
        for one in result.traversals
        if one.concept in kept
    }


def _flip(explainer: SurrogateExplainer, result: LocalExplanation) -> dict[str, Any] | None:
    flipped = result.minimal_counterfactual
    if flipped is None:
        return None
    moved = zip(result.importance.names, flipped.change[0].tolist(), strict=True)
    return {
        "to": explainer.class_names[int(flipped.targets[0])],
        "valid": bool(flipped.transferred_valid[0]),
        "raw_valid": bool(flipped.valid[0]),
        "change_in_sd": {name: by for name, by in moved if by},
        "pixels": float(flipped.pixel_change[0]),
    }

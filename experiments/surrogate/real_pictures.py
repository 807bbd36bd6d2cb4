"""All that is asked of a twin of a classifier of real pictures, as numbers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

import pellucid
from pellucid.data.context_table import ContextTable
from pellucid.surrogate import TwinSurrogate
from pellucid.surrogate.causal.graph import Edge
from pellucid.surrogate.explain.encoded_batch import Painting, margin
from pellucid.surrogate.explain.global_explanation import GlobalExplanation
from pellucid.surrogate.explain.local_explanation import LocalExplanation
from pellucid.surrogate.explain.validity import RefusedError, fidelity

__all__ = ["HeldOut", "Questions", "Setter", "changes", "examine", "rounded"]

Setter = Callable[[Tensor, str, float], Tensor]
"""(pictures in the classifier's input space, context, value in the table's units) -> the pictures with that context set
by code and the others held."""

_LOW, _HIGH = 0.05, 0.95  # quantiles between which code and twin move a context
_SHOWN = 3  # strips of an example


@dataclass(frozen=True)
class HeldOut:
    """Pictures that the twin was not trained on, in the classifier's input space, with classes and measured context."""

    pictures: Tensor
    labels: Tensor
    context: ContextTable

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, rows: slice) -> "HeldOut":
        """Some of them."""
        return HeldOut(self.pictures[rows], self.labels[rows], self.context.subset(rows))


@dataclass(frozen=True)
class Questions:
    """How many pictures each question is asked on.

    Attributes:
        measured: whose interventions are re-measured.
        intervened: whose decision edges are weighed, and that code redraws.
        shared: whose Shapley values are averaged.
        permutations: of those; an example has 64.
        examples: explained in full.
    """

    measured: int = 400
    intervened: int = 400
    shared: int = 60
    permutations: int = 16
    examples: int = 6


def examine(
    twin: TwinSurrogate,
    held_out: HeldOut,
    measure: Callable[[Tensor], Tensor],
    measured_by: str,
    set_by_code: Setter,
    settable: Sequence[str],
    questions: Questions,
    tell: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Assess the twin, discover its graphs, hold it against code and explain some pictures.

    Args:
        twin: trained.
        held_out: pictures.
        measure: (N, C, H, W) in the classifier's input space -> context (N, K) in the table's units.
        measured_by: says what that is.
        set_by_code: the oracle.
        settable: contexts that it sets.
        questions: how much is asked.
        tell: told what is being done.
    """
    tell("assessing the twin")
    twin.assess(
        held_out.pictures[: questions.measured],
        lambda drawn: twin.standard_context(measure(drawn)),
        measured_by=measured_by,
    )
    twin.remember(held_out.pictures)
    tell("discovering graphs")
    world = twin.discover(held_out.pictures, held_out.context.values.float(), intervened=questions.intervened)
    painting = twin.paint(held_out.pictures)
    part = painting[: questions.intervened]
    tell("asking code and twin the same")
    return {
        "made_with": {"pellucid": pellucid.__version__, "torch": torch.__version__},
        "twin": {"steps": twin.steps, "parameters": _parameters(twin), "options": twin.options.record()},
        "classifier": _classifier(twin, painting, held_out),
        "judges": dict(zip(twin.context_names, zip(*twin.quality.judged, strict=True), strict=True)),
        "fidelity": _fidelity(twin, painting),
        "control": {control.concept: asdict(control) for control in _assessment(twin).controls},
        "gate": _gate(twin, held_out.rows(slice(0, 64))),
        "world": _world(world),
        "against_code": {name: _against_code(twin, part, held_out, name, set_by_code) for name in settable},
        "importance": _importance(twin, held_out.pictures[: questions.shared], questions.permutations),
        "examples": [_example(twin, held_out, row, tell) for row in range(questions.examples)],
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


def _assessment(twin: TwinSurrogate) -> Any:
    assert twin.assessment is not None
    return twin.assessment


def _parameters(twin: TwinSurrogate) -> int:
    return sum(weight.numel() for weight in twin.networks.parameters())


def _classifier(twin: TwinSurrogate, painting: Painting, held_out: HeldOut) -> dict[str, Any]:
    said = torch.bincount(painting.classes, minlength=len(twin.class_names))
    return {
        "name": twin.classifier.name,
        "layers": list(twin.features.layers),
        "pictures": len(held_out),
        "accuracy": float((painting.classes == held_out.labels).float().mean()),
        "commonest_class": float(said.max() / said.sum()),
    }


def _fidelity(twin: TwinSurrogate, painting: Painting) -> dict[str, Any]:
    """The marks of the assessment, and over all held-out pictures how far single ones may be relied on."""
    trust = fidelity(painting)
    marks = {name: value for name, value in asdict(_assessment(twin)).items() if name != "controls"}
    kl = torch.quantile(trust.kl, torch.tensor([0.5, 0.9])).tolist()
    everyone = {
        "pictures": len(painting),
        "agreement": float(trust.agrees.float().mean()),
        "reliable": float(trust.reliable.float().mean()),
        "kl_median": kl[0],
        "kl_90": kl[1],
    }
    by_class = {
        name: float(trust.agrees[painting.classes == index].float().mean())
        for index, name in enumerate(twin.class_names)
        if bool((painting.classes == index).any())
    }
    return {"assessed": marks, "all_held_out": everyone, "agreement_by_class": by_class}


def _gate(twin: TwinSurrogate, some: HeldOut) -> dict[str, dict[str, Any]]:
    """Ask for the upper quartile of each context: what is answered, or why it is refused."""
    answers: dict[str, dict[str, Any]] = {}
    for name in twin.context_names:
        value = float(torch.quantile(some.context.column(name), 0.75))
        try:
            found = twin.counterfactual(some.pictures, {name: value})
        except RefusedError as error:
            answers[name] = {"refused": str(error)}
            continue
        changed = found.before.argmax(1) != found.after.argmax(1)
        answers[name] = {
            "asked": value,
            "mean_judged": float(found.judged[:, twin.context_names.index(name)].mean()),
            "class_changed": float(changed.float().mean()),
            "supported": float(found.supported.float().mean()),
        }
    return answers


def _world(world: GlobalExplanation) -> dict[str, Any]:
    told = world.difference
    assert world.data is not None
    assert told is not None
    return {
        "perceives": dict(world.perceives),
        "data": [_edge(edge) for edge in world.data.edges],
        "perceived": [_edge(edge) for edge in world.perceived.edges],
        "only_data": [str(edge) for edge in told.only_first],
        "only_perceived": [str(edge) for edge in told.only_second],
        "turned": [[str(one), str(other)] for one, other in told.turned],
        "common": [str(one) for one, _ in told.common],
        "decisions": [asdict(edge) | {"significant": edge.significant} for edge in world.decisions],
        "null": asdict(world.null),
        "notes": list(world.notes),
    }


def _edge(edge: Edge) -> dict[str, Any]:
    return {"edge": str(edge), "confidence": edge.confidence, "strength": edge.strength, "tentative": edge.tentative}


def changes(
    twin: TwinSurrogate,
    painting: Painting,
    context: ContextTable,
    name: str,
    set_by_code: Setter,
    *,
    transferred: bool = False,
) -> tuple[Tensor, Tensor]:
    """How far the margin of each picture's class moves from a context's 5 % to its 95 % quantile, by code and twin.

    By the twin on its own drawings, or `transferred` with the changes laid on the pictures.
    """
    column = twin.context_names.index(name)
    shown = painting if transferred else painting.bare()
    true, ours = [], []
    for value in torch.quantile(context.column(name), torch.tensor([_LOW, _HIGH]).double()).tolist():
        true.append(_margin(twin, set_by_code(painting.pictures, name, value), painting))
        codes = painting.codes.context.clone()
        raw = twin.context_values(codes)
        raw[:, column] = value
        codes[:, column] = twin.standard_context(raw)[:, column]
        logits = shown.changed_logits(replace(painting.codes, context=codes))
        ours.append(margin(logits, painting.classes))
    return true[1] - true[0], ours[1] - ours[0]


def _against_code(
    twin: TwinSurrogate, painting: Painting, held_out: HeldOut, name: str, set_by_code: Setter
) -> dict[str, float]:
    wanted, found = changes(twin, painting, held_out.context, name, set_by_code)
    _, laid_on = changes(twin, painting, held_out.context, name, set_by_code, transferred=True)
    return {
        "correlation": float(torch.corrcoef(torch.stack([wanted, found]))[0, 1]),
        "laid_on_correlation": float(torch.corrcoef(torch.stack([wanted, laid_on]))[0, 1]),
        "same_sign": float((wanted.sign() == found.sign()).float().mean()),
        "mean_by_code": float(wanted.mean()),
        "mean_by_twin": float(found.mean()),
        "size_by_code": float(wanted.abs().mean()),
        "size_by_twin": float(found.abs().mean()),
        "spread_of_margin": float(margin(painting.logits, painting.classes).std()),
        "pictures": len(painting),
    }


def _margin(twin: TwinSurrogate, pictures: Tensor, painting: Painting) -> Tensor:
    with torch.no_grad():
        logits = torch.cat([twin.logits(chunk) for chunk in torch.split(pictures, painting.max_batch)])
    return margin(logits, painting.classes)


def _importance(twin: TwinSurrogate, pictures: Tensor, permutations: int) -> dict[str, Any]:
    found = twin.importance(pictures, permutations=permutations)
    sizes = found.values.abs().mean(0)
    return {
        "pictures": len(pictures),
        "permutations": permutations,
        "mean_absolute_logits": dict(zip(found.names, sizes.tolist(), strict=True)),
        "share": dict(zip(found.names, (sizes / sizes.sum()).tolist(), strict=True)),
        "mean_standard_error": float(found.errors.mean()),
    }


def _example(twin: TwinSurrogate, held_out: HeldOut, row: int, tell: Callable[[str], None]) -> dict[str, Any]:
    tell(f"explaining picture {row}")
    found = twin.explain(held_out.pictures[row : row + 1])
    names, values = found.importance.names, found.importance.values[0]
    errors = found.importance.errors[0]
    return {
        "picture": row,
        "true_class": twin.class_names[int(held_out.labels[row])],
        "class": twin.class_names[found.target],
        "probability": float(found.painting.logits.softmax(1)[0, found.target]),
        "fidelity": {
            "kl": float(found.fidelity.kl[0]),
            "agrees": bool(found.fidelity.agrees[0]),
            "reliable": bool(found.fidelity.reliable[0]),
        },
        "importance": {
            name: [float(value), float(error)] for name, value, error in zip(names, values, errors, strict=True)
        },
        "effects": {effect.concept: [effect.direct, *effect.total] for effect in found.effects},
        "interactions": {" x ".join(pair): value for pair, value in found.interactions.items()},
        "strips": _strips(found),
        "flip": _flip(twin, found),
        "refused": sorted(found.refused),
        "sentences": list(found.sentences),
    }


def _strips(found: LocalExplanation) -> dict[str, Any]:
    """Of the concepts that move the probability of the class most."""
    ranges = {one.concept: float(one.probabilities[:, found.target].std()) for one in found.strips}
    kept = sorted(ranges, key=lambda name: -ranges[name])[:_SHOWN]
    return {
        one.concept: {
            "levels": one.levels.tolist(),
            "probability": one.probabilities[:, found.target].tolist(),
            "judged": one.judged.tolist(),
            "supported": one.supported.tolist(),
        }
        for one in found.strips
        if one.concept in kept
    }


def _flip(twin: TwinSurrogate, found: LocalExplanation) -> dict[str, Any] | None:
    flipped = found.flipped
    if flipped is None:
        return None
    moved = zip(found.importance.names, flipped.change[0].tolist(), strict=True)
    return {
        "to": twin.class_names[int(flipped.targets[0])],
        "valid": bool(flipped.valid[0]),
        "raw_valid": bool(flipped.raw_valid[0]),
        "change_in_sd": {name: by for name, by in moved if by},
        "pixels": float(flipped.pixels[0]),
    }

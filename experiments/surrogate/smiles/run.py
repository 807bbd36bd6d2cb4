"""Faces: surrogates of a smile classifier, and of one with a planted shortcut: a frame that is bright where they smile.

python -m experiments.surrogate.smiles.run --data DIR --work DIR [--kinds honest shortcut] [--out DIR] [--steps N]

Weights, contexts and checkpoints are kept in --work, so that a run that was broken off goes on; the numbers of all
kinds that are finished go to OUT/smiles.json and, as tables, to OUT/smiles.md. No image is among them.
"""

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.surrogate.real_images.examine import HeldOut, Questions, changes, examine, rounded
from experiments.surrogate.smiles.data import (
    CONTEXTS,
    SETTABLE,
    Faces,
    Kind,
    frame_levels,
    framed,
    load_faces,
    smile_classifier,
)
from pellucid.classifiers import Classifier
from pellucid.data import ContextTable
from pellucid.storage import read_tensors, write_atomically, write_tensors
from pellucid.surrogate import (
    PRESETS,
    SurrogateExplainer,
    TrainingOptions,
    train,
)

KINDS: tuple[Kind, ...] = ("honest", "shortcut")
TRAINING, HELD_OUT = 4000, 1000
OPTIONS = PRESETS["cpu-32"].replace(
    resolution=64,
    steps=2600,
    batch_size=16,
    warmup_steps=400,
    latent_dim=6,
    nuisance_dim=64,
    generator_lr=6e-4,
    predictor_steps=1000,
    checkpoint_every=250,
)
"""`cpu-32` at twice the side, with 8 channels at 64 pixels; smaller steps, and twice the rate. Two classes need few
latents, faces much nuisance."""

_BOUNDS = (0.02, 0.98)  # quantiles between which code draws versions; frames lie between 0 and 1
_MEASURED_BY = "code (detail, contrast, brightness, frame) and published face networks (happy, female, age)"


def run(kind: Kind, data: Path, work: Path, options: TrainingOptions, questions: Questions) -> dict[str, Any]:
    """Train the classifier and its surrogate, or go on training, and examine."""
    faces, labels = load_faces(data)
    faces, labels = faces[: TRAINING + HELD_OUT], labels[: TRAINING + HELD_OUT]
    levels = frame_levels(kind, labels)
    images = framed(faces, levels)
    classifier = smile_classifier(
        images[:TRAINING], labels[:TRAINING], work / kind / "classifier.safetensors", f"{kind} smile CNN"
    )
    measures = Faces(classifier, data)
    context = _context(measures, faces, work).with_columns({"frame": levels})
    training = context.subset(slice(0, TRAINING))
    out = work / kind / "surrogate"
    explainer = train(
        classifier, images[:TRAINING], training, options, out, rerender=measures.versions(*_bounds(training))
    )
    held_out = HeldOut(images[TRAINING:], labels[TRAINING:], context.subset(slice(TRAINING, None)))
    outcome = examine(
        explainer, held_out, measures.measure, _MEASURED_BY, measures.set_by_code, SETTABLE, questions, _say
    )
    explainer.save(out)
    reliance = _reliance(classifier, faces[TRAINING:], labels[TRAINING:])
    moved = _by_class(explainer, held_out, measures, questions.max_interventions)
    return outcome | {"accuracy": reliance, "frame_by_class": moved, "training_images": TRAINING}


def compare(outcome: Mapping[Kind, dict[str, Any]], name: str = "frame") -> dict[str, Any]:
    """What each kind's results say of one context: among the contexts, where does it stand?"""
    return {kind: _standing(result, name) for kind, result in outcome.items()}


def _standing(result: dict[str, Any], name: str) -> dict[str, Any]:
    edges = {edge["concept"]: edge for edge in result["global_explanation"]["decisions"]}
    contexts = list(result["control"])
    shares = {one: result["importance"]["mean_absolute_logits"][one] for one in contexts}
    strengths = {one: edges[one]["strength"] for one in contexts}
    edge = {
        key: edges[name].get(key)
        for key in ("strength", "flip_rate", "dose_response", "sign_agreement", "low", "high", "bound")
    }
    return {
        "decision_edge": edge | {"rank": _rank(strengths, name), "null": result["global_explanation"]["null"]["block"]},
        "importance": {"mean_absolute_logits": shares[name], "rank": _rank(shares, name), "contexts": len(contexts)},
        "against_code": result["against_code"][name],
        "by_class": result[f"{name}_by_class"],
        "effectiveness": result["control"][name]["correlation"],
        "accuracy": result["accuracy"],
    }


def _rank(values: dict[str, float], name: str) -> int:
    return sorted(values, key=lambda one: -values[one]).index(name) + 1


def markdown(outcome: Mapping[Kind, dict[str, Any]]) -> str:
    """What is said of every context, kind by kind, and of the frame, side by side."""
    frames = compare(outcome)
    lines = ["| frame | " + " | ".join(frames) + " |", "| --- |" + " --- |" * len(frames)]
    for title, cell in _FRAME_ROWS.items():
        lines.append(f"| {title} | " + " | ".join(cell(frame) for frame in frames.values()) + " |")
    for kind, result in outcome.items():
        lines += ["", f"### {kind}", "", *_contexts_table(result)]
    return "\n".join(lines) + "\n"


_FRAME_ROWS: Mapping[str, Callable[[dict[str, Any]], str]] = {
    "accuracy, frames tell nothing": lambda frame: f"{frame['accuracy']['even']:.1%}",
    "accuracy, frames tell the label": lambda frame: f"{frame['accuracy']['telling']:.1%}",
    "accuracy, frames tell the contrary": lambda frame: f"{frame['accuracy']['contrary']:.1%}",
    "decision edge, sd of the margin": lambda frame: f"{frame['decision_edge']['strength']:.2f}",
    "its rank among the contexts": lambda frame: (
        f"{frame['decision_edge']['rank']} of {frame['importance']['contexts']}"
    ),
    "swaps that change the class": lambda frame: f"{frame['decision_edge']['flip_rate']:.1%}",
    "importance, logits": lambda frame: f"{frame['importance']['mean_absolute_logits']:.2f}",
    "its rank among the contexts ": lambda frame: f"{frame['importance']['rank']} of {frame['importance']['contexts']}",
    "bright frame, margin of smiles, by code": lambda frame: f"{frame['by_class']['smile']['by_code']:+.2f}",
    "the same by the surrogate": lambda frame: f"{frame['by_class']['smile']['by_surrogate']:+.2f}",
    "bright frame, margin of no smiles, by code": lambda frame: f"{frame['by_class']['no smile']['by_code']:+.2f}",
    "the same by the surrogate ": lambda frame: f"{frame['by_class']['no smile']['by_surrogate']:+.2f}",
    "correlation of surrogate and code": lambda frame: f"{frame['against_code']['correlation']:.2f}",
}


def _contexts_table(result: dict[str, Any]) -> list[str]:
    edges = {edge["concept"]: edge for edge in result["global_explanation"]["decisions"]}
    trust, null = result["fidelity"]["all_held_out"], result["global_explanation"]["null"]
    lines = [
        f"Agreement on reconstructions {trust['agreement']:.1%}, median KL {trust['kl_median']:.3f}; head agrees "
        f"{result['fidelity']['assessed']['head_agreement']:.1%}; another's nuisance moves the margin by "
        f"{null['block']:.2f} sd, its strongest coordinate by {max(null['single']):.2f}.",
        "",
        "| context | attribute predictors | perceived | requested with measured | slope | gate | decision edge "
        "| importance |",
        "| --- |" + " --- |" * 7,
    ]
    for name, control in result["control"].items():
        predictors = ", ".join(f"{value:.2f}" for value in result["predictor_r2"][name])
        gate = "refused" if "refused" in result["gate"][name] else "shown"
        size = result["importance"]["mean_absolute_logits"][name]
        lines.append(
            f"| {name} | {predictors} | {result['global_explanation']['perceives'][name]:.2f} | "
            f"{control['correlation']:.2f} "
            f"| {control['slope']:.2f} | {gate} | {edges[name]['strength']:.2f} | {size:.2f} |"
        )
    return lines


def _context(measures: Faces, faces: Tensor, work: Path) -> ContextTable:
    """Measured once for all kinds, in black frames, then kept."""
    kept = work / "context.safetensors"
    if not kept.exists():
        write_tensors(kept, {"context": measures.measure(framed(faces, torch.zeros(len(faces))), _say)})
    return ContextTable(CONTEXTS, read_tensors(kept)["context"])


def _bounds(training: ContextTable) -> tuple[Tensor, Tensor]:
    values = training.select(SETTABLE).values.float()
    low, high = torch.quantile(values, torch.tensor(_BOUNDS), dim=0)
    low[-1], high[-1] = 0.0, 1.0
    return low, high


@torch.no_grad()
def _reliance(classifier: Classifier, faces: Tensor, labels: Tensor) -> dict[str, float]:
    """Held-out accuracy with frames that tell nothing, the label (in 95 % of images), and the contrary."""
    frames = {
        "even": frame_levels("honest", labels, seed=1),
        "telling": frame_levels("shortcut", labels, seed=1),
        "contrary": frame_levels("shortcut", 1 - labels, seed=1),
    }
    outcome = {}
    for name, levels in frames.items():
        predicted = [classifier.logits(chunk).argmax(1) for chunk in torch.split(framed(faces, levels), 128)]
        outcome[name] = float((torch.cat(predicted) == labels).float().mean())
    return outcome


def _by_class(
    explainer: SurrogateExplainer, held_out: HeldOut, measures: Faces, images: int
) -> dict[str, dict[str, float]]:
    """How far a frame that becomes bright moves the margin of images that the classifier gives to each class."""
    batch = explainer.encode_batch(held_out.images[:images])
    by_code, by_surrogate = changes(explainer, batch, held_out.context, "frame", measures.set_by_code)
    return {
        name: {
            "by_code": float(by_code[mine].mean()),
            "by_surrogate": float(by_surrogate[mine].mean()),
            "images": int(mine.sum()),
        }
        for index, name in enumerate(explainer.class_names)
        for mine in [batch.classes == index]
    }


def _say(line: str) -> None:
    print(line, flush=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with smiles_64 and faceapi_models")
    parser.add_argument(
        "--work", type=Path, required=True, help="folder for weights, contexts, checkpoints and surrogates"
    )
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parents[1] / "results", help="folder for the numbers"
    )
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--steps", type=int, default=OPTIONS.steps)
    parser.add_argument("--report", action="store_true", help="only write the numbers of what is finished")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    for kind in [] if chosen.report else chosen.kinds:
        outcome = run(kind, chosen.data, chosen.work, OPTIONS.replace(steps=chosen.steps), Questions(measured=250))
        write_atomically(chosen.work / kind / "found.json", json.dumps(rounded(outcome)).encode())
    files: dict[Kind, Path] = {kind: chosen.work / kind / "found.json" for kind in KINDS}
    every = {kind: json.loads(file.read_bytes()) for kind, file in files.items() if file.exists()}
    content: dict[str, Any] = {"frame": compare(every), **dict(every.items())}
    write_atomically(chosen.out / "smiles.json", (json.dumps(content, indent=1) + "\n").encode())
    write_atomically(chosen.out / "smiles.md", markdown(every).encode())
    print(f"wrote {chosen.out / 'smiles.json'} and smiles.md")


if __name__ == "__main__":
    main()

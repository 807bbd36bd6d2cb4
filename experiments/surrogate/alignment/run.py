"""Do the surrogate's coordinates say what morphometry measures, each on its own, and what moves when one of them is
set?

python -m experiments.surrogate.alignment.run --data DIR --work DIR [--surrogate NAME] [--out DIR]

The folder --work is that of `experiments.surrogate.digits.train`, with the classifier and the trained surrogate in it.
All marks are of held-out digits. Parts that are done are kept there, so that a run that was broken off goes on; the
results are alignment.json and alignment.md.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import pellucid as pl
from experiments.surrogate.digits.data import CONTEXTS, TRAINING, Digits, digit_classifier, load_digits
from experiments.surrogate.rivals.disentanglement import alignment
from experiments.surrogate.shared.parts import Parts
from pellucid.classifiers import reinitialize, replace_module
from pellucid.storage import write_atomically
from pellucid.surrogate import (
    LOGITS_ONLY,
    ContextMeasurement,
    SurrogateExplainer,
    concept_leakage,
    digit_measure,
    load,
    r2_by_context,
)
from pellucid.surrogate.model import FeatureExtractor, fit_context_probe, mean_and_std

_RESULTS = Path(__file__).parents[1] / "results"
_BLIND_SEEDS = (0, 1, 2)
_RESAMPLES = 1000


def main() -> None:
    """Measure what is not there yet, and write the results."""
    chosen = _arguments()
    torch.set_num_threads(1)
    digits = load_digits(chosen.data, chosen.work)
    classifier = digit_classifier(digits.rows(0, TRAINING), chosen.work)
    explainer = load(chosen.work / chosen.explainer, classifier=classifier)
    weights = sha256((chosen.work / chosen.explainer / "surrogate.safetensors").read_bytes()).hexdigest()
    settings = {"surrogate": weights, "moved": chosen.moved, "torch": torch.__version__, "pellucid": pl.__version__}
    parts = Parts(chosen.work / "alignment", settings)
    result = measured(explainer, digits, chosen.moved, parts)
    result |= {"settings": settings | {"scikit-learn": version("scikit-learn"), "steps": explainer.surrogate.steps}}
    write_atomically(chosen.out / "alignment.json", json.dumps(result, indent=1).encode())
    write_atomically(chosen.out / "alignment.md", tables(result).encode())
    print(tables(result))


def measured(explainer: SurrogateExplainer, digits: Digits, moved: int, parts: Parts) -> dict[str, Any]:
    """All numbers, made part by part."""
    held_out = digits.rows(TRAINING)
    factors = explainer.standard_context(held_out.context.values.float())
    codes = explainer.encode(held_out.images)
    sets = {
        "morphometry itself": (factors, CONTEXTS),
        "predicted contexts": (codes.context, explainer.context_names),
        "perceived contexts": (explainer.surrogate.perceived_context(held_out.images), explainer.context_names),
        "latents": (codes.latent, explainer.latent_names),
        "contexts and latents": (codes.concept_coordinates(), (*explainer.context_names, *explainer.latent_names)),
    }
    order = torch.randperm(len(factors), generator=torch.Generator().manual_seed(0))
    marks, shuffled = {}, {}
    for name, (columns, names) in sets.items():
        marks[name] = parts.part(name, partial(_marks, columns, factors, names))
        shuffled[name] = parts.part(f"{name} permuted", partial(_marks, columns, factors[order], names))
    return {
        "contexts": list(CONTEXTS),
        "held_out": len(factors),
        "marks": marks,
        "rows_permuted": shuffled,
        "perceived": {view: _compared(read, factors) for view, read in _readings(explainer, digits, parts).items()},
        "moves": parts.part("moves", partial(_moves, explainer, held_out.rows(0, moved))),
    }


def _marks(codes: Tensor, factors: Tensor, names: Sequence[str]) -> dict[str, Any]:
    result = alignment(codes, factors, names, CONTEXTS)
    return asdict(result) | {"mig": result.mig, "sap": result.sap}


def _moves(explainer: SurrogateExplainer, digits: Digits) -> dict[str, Any]:
    def tell(done: int, total: int) -> None:
        print(f"setting coordinate {done} of {total}", flush=True)

    return asdict(
        concept_leakage(
            explainer.encode_batch(digits.images),
            ContextMeasurement(digit_measure(explainer.surrogate)),
            on_progress=tell,
        )
    )


def _readings(explainer: SurrogateExplainer, digits: Digits, parts: Parts) -> dict[str, dict[str, Tensor]]:
    """View -> classifier -> context of the held-out digits (N, K) as read off it: the trained one, and blind ones."""
    views: dict[str, Sequence[str] | str] = {"features": explainer.surrogate.features.layers, "logits": LOGITS_ONLY}
    classifiers = {"trained": explainer.classifier}
    own = explainer.classifier
    classifiers |= {f"blind {seed}": replace_module(own, reinitialize(own.module, seed=seed)) for seed in _BLIND_SEEDS}
    return {
        view: {
            name: torch.tensor(parts.part(f"{view} {name}", partial(_read, explainer, classifier, layers, digits)))
            for name, classifier in classifiers.items()
        }
        for view, layers in views.items()
    }


def _read(
    explainer: SurrogateExplainer, classifier: pl.Classifier, layers: Sequence[str] | str, digits: Digits
) -> list[list[float]]:
    """What readers fitted in the surrogate's way read off a classifier, on the held-out digits."""
    features = FeatureExtractor(classifier, layers)
    with torch.no_grad():
        phi = torch.cat([features(chunk).phi for chunk in torch.split(digits.images, 128)])
    mean, spread = mean_and_std(phi[:TRAINING])
    standard = (phi - mean) / spread
    context = explainer.standard_context(digits.context.values.float())[:TRAINING]
    steps, seed = explainer.surrogate.options.predictor_steps, explainer.surrogate.options.seed + 3
    reader, _ = fit_context_probe(standard[:TRAINING], context, steps=steps, seed=seed)
    with torch.no_grad():
        result: list[list[float]] = reader(standard[TRAINING:]).tolist()
    return result


def _compared(read: dict[str, Tensor], factors: Tensor) -> dict[str, Any]:
    """R2 of each classifier's reading, and how far the trained one is ahead of the blind ones."""
    lead = {
        name: {context: _lead(read["trained"][:, k], result[:, k], factors[:, k]) for k, context in enumerate(CONTEXTS)}
        for name, result in read.items()
        if name != "trained"
    }
    return {"r2": {name: r2_by_context(CONTEXTS, result, factors) for name, result in read.items()}, "lead": lead}


def _lead(trained: Tensor, blind: Tensor, factor: Tensor) -> dict[str, float]:
    """R2 of the trained minus that of the blind classifier, with the 95 % interval over images redrawn."""
    errors = torch.stack([(trained - factor).square(), (blind - factor).square(), (factor - factor.mean()).square()])
    random = torch.Generator().manual_seed(0)
    draws = torch.randint(len(factor), (_RESAMPLES, len(factor)), generator=random)
    own, other, spread = errors.double()[:, draws].mean(2)
    low, high = torch.quantile((other - own) / spread, torch.tensor([0.025, 0.975]).double()).tolist()
    value = (errors[1].mean() - errors[0].mean()) / errors[2].mean()
    return {"value": float(value), "low": low, "high": high}


def tables(result: dict[str, Any]) -> str:
    """The numbers as Markdown."""
    sections = [
        "### Marks against morphometry\n\n" + _marks_table(result["marks"]),
        "### The same with the rows of the factors permuted\n\n" + _marks_table(result["rows_permuted"]),
        "### Perceived contexts: R2, and that of classifiers that have learnt nothing\n\n"
        + _blind_table(result["perceived"]),
        "### What moves (mean absolute change in sd when a coordinate is set to its 5 % or 95 % quantile; "
        "in brackets the signed change from 5 % to 95 %)\n\n" + _moves_table(result["moves"]),
    ]
    return "\n\n".join(sections) + "\n"


def _marks_table(marks: dict[str, Any]) -> str:
    rows = []
    for name, result in marks.items():
        informed = sum(result["informativeness"].values()) / len(CONTEXTS)
        scores = [result["disentanglement"], result["completeness"], informed, result["mig"], result["sap"]]
        rows.append([name, *(f"{score:.3f}" for score in (*result["r2"].values(), *scores))])
    heads = ["codes", *(f"R2 {name}" for name in CONTEXTS), "D", "C", "I", "MIG", "SAP"]
    return _table(heads, rows)


def _blind_table(perceived: dict[str, Any]) -> str:
    rows = []
    for view, result in perceived.items():
        for name, r2 in result["r2"].items():
            rows.append([view, name, *(f"{r2[context]:.3f}" for context in CONTEXTS)])
        for name, lead in result["lead"].items():
            cells = (lead[context] for context in CONTEXTS)
            ahead = (f"{cell['value']:+.3f} [{cell['low']:+.3f}, {cell['high']:+.3f}]" for cell in cells)
            rows.append([view, f"trained ahead of {name} by", *ahead])
    return _table(["read off", "classifier", *CONTEXTS], rows)


def _moves_table(moves: dict[str, Any]) -> str:
    rows = [
        [
            name,
            *(f"{size:.2f} ({signed:+.2f})" for size, signed in zip(change, signed_change, strict=True)),
            str(images),
        ]
        for name, change, signed_change, images in zip(
            moves["coordinates"], moves["change"], moves["signed_change"], moves["num_images"], strict=True
        )
    ]
    return _table(["set", *moves["contexts"], "images"], rows)


def _table(heads: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [heads, ["---"] * len(heads), *rows])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with morphomnist_ti")
    parser.add_argument("--work", type=Path, required=True, help="folder with the classifier and the trained surrogate")
    parser.add_argument("--surrogate", default="surrogate", help="name of the surrogate's folder in it")
    parser.add_argument("--moved", type=int, default=300, help="held-out digits whose coordinates are set")
    parser.add_argument("--out", type=Path, default=_RESULTS, help="folder for the results")
    return parser.parse_args()


if __name__ == "__main__":
    main()

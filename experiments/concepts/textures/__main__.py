"""Do textures come out as anybody would expect, on real classifiers with real images and with drawn ones?

python -m experiments.concepts.textures --data DIR [--out DIR]

Writes the tables cavs, classes and images (Parquet), textures.json and two figures. Each layer of
each classifier is kept when it is done, so a run that was stopped goes on where it stopped.
"""

import argparse
import json
import time
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from benchmarks.torchvision_operators import declare_missing_operators
from torch import Tensor

from experiments.concepts.textures.data import (
    FULL,
    LAYERS,
    Sizes,
    class_images,
    drawn_name,
    drawn_sets,
    few_images,
    load_classifier,
    photo_sets,
)
from experiments.concepts.textures.figures import draw_figures
from experiments.concepts.textures.summary import Tables, read_tables, summarize, write_tables
from pellucid.attribution import Case
from pellucid.classifiers import Classifier, LayerView
from pellucid.concepts import (
    CAV,
    Bootstrap,
    ConceptWarning,
    VisualTCAV,
    explain_class,
    fit_cavs,
    tcav,
)
from pellucid.statistics import roc_auc
from pellucid.storage import write_atomically

RESULTS = Path(__file__).parent / "results"
FEWEST = 2
"""A class of which fewer images are recognized is left out of the means over images."""
Row = dict[str, Any]


def run(
    data: Path, out: Path, sizes: Sizes = FULL, layers: Iterable[tuple[str, Sequence[str]]] = tuple(LAYERS.items())
) -> None:
    """Measure every layer that is not measured yet, then write tables, summary and figures."""
    parts = out / "parts"
    measured = []
    for model, names in layers:
        classifier = None
        for layer in names:
            measured.append(parts / f"{model}-{layer}.json")
            if measured[-1].exists():
                continue
            classifier = classifier or load_classifier(model, data)
            started = time.process_time()
            tables = measure(model, classifier, layer, data, sizes)
            write_atomically(measured[-1], json.dumps(tables).encode())
            print(f"{model} {layer}: {time.process_time() - started:.0f} s", flush=True)
    joined: Tables = {}
    for file in measured:
        for table, rows in json.loads(file.read_bytes()).items():
            joined.setdefault(table, []).extend(rows)
    write_tables(joined, out)
    write_report(out)
    for file in measured:
        file.unlink()
    parts.rmdir()


def write_report(out: Path) -> None:
    """Summary and figures from the tables."""
    tables = read_tables(out)
    summary = summarize(tables)
    rounded = json.loads(json.dumps(summary), parse_float=lambda text: float(f"{float(text):.4g}"))
    write_atomically(out / "textures.json", (json.dumps(rounded, indent=1) + "\n").encode())
    draw_figures(tables, summary, out)


def measure(model: str, classifier: Classifier, layer: str, data: Path, sizes: Sizes) -> Tables:
    """Everything at one layer: rows of the tables cavs, classes and images."""
    view = classifier.at(layer)
    with warnings.catch_warnings():  # remarks on weak CAVs are in the table
        warnings.simplefilter("ignore", ConceptWarning)
        photographed = fit_cavs(view, *photo_sets(data, classifier, sizes))
        drawn = fit_cavs(view, *drawn_sets(sizes))
    cavs = [*photographed, *drawn]
    explainer = VisualTCAV(view, cavs, permutations=sizes.permutations)
    tables: Tables = {"cavs": _cav_rows(photographed, drawn), "classes": [], "images": []}
    for name, files in class_images(data, sizes).items():
        classes, images = _many(explainer, classifier, name, files)
        tables["classes"] += classes
        tables["images"] += images
    tables["images"] += _few(explainer, classifier, few_images(data, classifier, sizes))
    place = {"model": model, "layer": layer}
    return {table: [place | row for row in rows] for table, rows in tables.items()}


def _cav_rows(photographed: Sequence[CAV], drawn: Sequence[CAV]) -> list[Row]:
    """Quality of each CAV; for a drawn one also how it does on photographs of the same texture."""
    by_name = {cav.name: cav for cav in photographed}
    rows = []
    for cav in (*photographed, *drawn):
        same_texture = next((one for one in photographed if drawn_name(one.name) == cav.name), None)
        reference = by_name.get("striped", photographed[0])
        rows.append(
            {
                "concept": cav.name,
                "auc": cav.auc,
                "stability": cav.stability,
                "low": cav.emblems.low,
                "high": cav.emblems.high,
                "cosine_to_striped": _cosine(cav.direction, reference.direction),
                "cosine_to_photographed": None
                if same_texture is None
                else _cosine(cav.direction, same_texture.direction),
                "auc_on_photographs": None if same_texture is None else _auc_on(same_texture, cav.direction),
            }
        )
    return rows


def _auc_on(cav: CAV, direction: Tensor) -> float:
    return roc_auc(cav.concept_features @ direction, cav.negative_features @ direction)


def _cosine(one: Tensor, other: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(one, other, dim=0))


def _many(
    explainer: VisualTCAV, classifier: Classifier, name: str, files: Sequence[Path]
) -> tuple[list[Row], list[Row]]:
    """A class with many images: those that the classifier gets right, with intervals and tests."""
    every = classifier.read(list(files))
    predicted = [result[0].name for result in classifier.predict(every, top=1)]
    right = [index for index, label in enumerate(predicted) if label == name]
    if len(right) < FEWEST:
        print(f"{name}: {len(right)} of {len(files)} images are recognized, left out", flush=True)
        return [], []
    images, view = every[right], classifier.at(explainer.view.layer)
    result = explain_class(explainer, images, name, bootstrap=Bootstrap(hierarchical=True))
    tests = tcav(view, explainer.cavs, images, name, permutations=explainer.permutations)
    classes = [
        {
            "concept": concept,
            "score": score,
            "images": len(right),
            "mean": float(estimate.mean[d, 0]),
            "deviation": float(estimate.deviation[d, 0]),
            "low": float(estimate.low[d, 0]),
            "high": float(estimate.high[d, 0]),
            "p_value": None if estimate.p_values is None else float(estimate.p_values[d, 0]),
            "share_seen": float(result.share_seen[d]),
            "class": name,
            "given": len(files),
            "tcav": float(tests.scores[d]),
            "tcav_p_value": float(tests.relabeled_p_values[d]),
        }
        for score, estimate in (("reference", result.reference), ("signed", result.signed))
        for d, concept in enumerate(result.concepts)
    ]
    scores = result.reference.values[:, :, 0], result.signed.values[:, :, 0], result.strongest, tests.sensitivities
    names = [(name, files[index].name, predicted[index]) for index in right]
    return classes, _image_rows(names, result.concepts, result.status[:, :, 0], result.gap[:, 0], *scores, few=False)


def _few(explainer: VisualTCAV, classifier: Classifier, labeled: Sequence[tuple[str, Path]]) -> list[Row]:
    """Classes with one or two images: each image explained on its own, for its true class."""
    images = classifier.read([file for _, file in labeled])
    predicted = [result[0].name for result in classifier.predict(images, top=1)]
    targets = torch.tensor([classifier.class_index(name) for name, _ in labeled])
    local = VisualTCAV(explainer.view, explainer.cavs, permutations=0)(images, targets)
    along = _sensitivities(classifier.at(local.layer), explainer.cavs, images, targets)
    scores = local.reference[:, :, 0], local.signed[:, :, 0], local.maps.amax((2, 3)), along
    names = [(name, file.name, label) for (name, file), label in zip(labeled, predicted, strict=True)]
    return _image_rows(names, local.concepts, local.status[:, :, 0], local.gap[:, 0], *scores, few=True)


def _sensitivities(view: LayerView, cavs: Sequence[CAV], images: Tensor, targets: Tensor) -> Tensor:
    """Derivatives (N, D) of each image's own class along each CAV of length 1: what TCAV counts the signs of."""
    directions = torch.nn.functional.normalize(torch.stack([cav.direction for cav in cavs]), dim=1)
    result = []
    for rows in torch.split(torch.arange(len(images)), 8):
        case = Case(view, images[rows], targets[rows], differentiate=True)
        result.append(case.gradients[:, 0].sum((2, 3)) @ directions.T)
    return torch.cat(result)


def _image_rows(
    names: Sequence[tuple[str, str, str]],
    concepts: Sequence[str],
    status: Any,
    gap: Tensor,
    reference: Tensor,
    signed: Tensor,
    strongest: Tensor,
    sensitivity: Tensor,
    *,
    few: bool,
) -> list[Row]:
    """One row per image and concept; scores are (N, D), the completeness gap is (N,)."""
    return [
        {
            "class": name,
            "image": file,
            "predicted": predicted,
            "few": few,
            "concept": concept,
            "reference": float(reference[n, d]),
            "status": str(status[n, d]),
            "signed": float(signed[n, d]),
            "strongest": float(strongest[n, d]),
            "sensitivity": float(sensitivity[n, d]),
            "gap": float(gap[n]),
        }
        for n, (name, file, predicted) in enumerate(names)
        for d, concept in enumerate(concepts)
    ]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the images and weights")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--report", action="store_true", help="only summary and figures, from the tables")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    declare_missing_operators()
    if arguments.report:
        write_report(arguments.out)
    else:
        run(arguments.data, arguments.out)


if __name__ == "__main__":
    main()

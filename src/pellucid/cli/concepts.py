"""`pellucid concepts`: fit and list CAVs; explain, rank and tcav are in `concepts_explain` and `concepts_class`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from pellucid.cli.common import (
    DEFAULT_MODEL,
    AsJson,
    Device,
    MaxBatch,
    Model,
    Weights,
    load_classifier,
    print_json,
    screen,
)
from pellucid.cli.concepts_class import rank, tcav
from pellucid.cli.concepts_common import (
    Builtin,
    Cache,
    ConceptLayers,
    ConceptRequest,
    Concepts,
    Count,
    EstimatorName,
    Negatives,
    Seed,
    about,
    cavs_by_layer,
    say,
)
from pellucid.cli.concepts_explain import explain
from pellucid.errors import PellucidError

if TYPE_CHECKING:
    from pellucid.concepts import CAV


app = typer.Typer(no_args_is_help=True, help="What did it see, and how much did it count? CAVs, TCAV and Visual-TCAV.")

Features = Annotated[str, typer.Option(help="pooled, or flattened: every cell on its own, for tcav only.")]
CavFolder = Annotated[Path, typer.Option("--out", help="Folder for the fitted CAVs, LAYER/CONCEPT.safetensors.")]
Listed = Annotated[
    Path | None, typer.Argument(help="Folder of fitted CAVs; without it the concepts that can be drawn.")
]


@app.command()
def fit(
    concepts: Concepts = None,
    builtin: Builtin = "",
    negatives: Negatives = None,
    layers: ConceptLayers = None,
    model: Model = DEFAULT_MODEL,
    weights: Weights = None,
    estimator: EstimatorName = "difference",
    features: Features = "pooled",
    count: Count = None,
    seed: Seed = 0,
    out: CavFolder = Path("pellucid-cavs"),
    cache: Cache = "",
    device: Device = None,
    max_batch: MaxBatch = 16,
    as_json: AsJson = False,
) -> None:
    """Fit CAVs: directions that point towards concepts, with their quality on held-out images."""
    from pellucid.concepts import save_cavs
    from pellucid.concepts.cav_store import cav_files

    if concepts is not None and cav_files(concepts):
        raise PellucidError(f"{concepts} holds fitted CAVs; fit needs folders of images")
    classifier = load_classifier(model, weights, device)
    wanted = ConceptRequest(
        concepts=concepts, builtin=builtin, negatives=negatives, layers=layers, estimator=estimator,
        features=features, count=count, seed=seed, cache=cache, max_batch=max_batch,
    )  # fmt: skip
    found = cavs_by_layer(classifier, wanted, as_json)
    files = save_cavs([cav for cavs in found.values() for cav in cavs], out)
    _report(found, files, out, as_json, about(classifier, found, cosines=_cosines(found)))


@app.command("list")
def list_(folder: Listed = None, as_json: AsJson = False) -> None:
    """List the concepts that can be drawn, or the fitted CAVs in a folder with their receipts."""
    if folder is None:
        _list_drawn(as_json)
        return
    from pellucid.concepts.cav_store import cav_files

    files = cav_files(folder)
    if not files:
        raise PellucidError(f"{folder}: no CAVs (*.safetensors) in this folder; `pellucid concepts fit` writes them")
    known, damaged = _readable(files)
    found: dict[str, list[CAV]] = {}
    for cav in known.values():
        found.setdefault(cav.layer, []).append(cav)
    if as_json:
        receipts = [{"file": str(file), **cav.summary()} for file, cav in known.items()]
        print_json({"cavs": receipts, "cosines": _cosines(found), "damaged": damaged})
    else:
        _print_tables(found)
    for file, reason in damaged.items():
        say(f"{file}: {reason}")
    if not known:
        raise PellucidError(f"none of the {len(files)} files in {folder} can be read")


def _list_drawn(as_json: bool) -> None:
    from pellucid.synthetic import COLORS, NEGATIVES, TEXTURES

    if as_json:
        print_json({"textures": list(TEXTURES), "colors": list(COLORS), "negatives": NEGATIVES})
        return
    table = Table("kind", "names for --builtin")
    table.add_row("textures", ", ".join(TEXTURES))
    table.add_row("colors", ", ".join(COLORS))
    screen.print(table)


def _readable(files: list[Path]) -> "tuple[dict[Path, CAV], dict[str, str]]":
    """The CAVs that can be read, and why the others cannot."""
    from pellucid.concepts import CAV

    known, damaged = {}, {}
    for file in files:
        try:
            known[file] = CAV.load(file)
        except PellucidError as error:
            damaged[str(file)] = str(error).removeprefix(f"{file}: ")
    return known, damaged


def _report(
    found: "dict[str, list[CAV]]", files: list[Path], out: Path, as_json: bool, receipt: dict[str, Any]
) -> None:
    from pellucid.concepts.concept_table import plain

    if as_json:
        print_json(plain({**receipt, "files": [str(file) for file in files]}))
        return
    _print_tables(found)
    screen.print(f"{len(files)} CAVs: {out}", highlight=False, markup=False, soft_wrap=True)


def _print_tables(found: "dict[str, list[CAV]]") -> None:
    """One table per layer: quality, emblems, and the concept that each is most like."""
    for layer, cavs in found.items():
        table = Table(
            *("concept", "held-out AUC", "stability", "emblems", "images", "most like"),
            title=escape(f"{layer} of {cavs[0].classifier}, {cavs[0].estimator}"),
            title_justify="left",
            caption="AUC 0.5 is chance, stability 1 is best; a map is 0 at the low emblem and 1 at the high one",
        )
        cosines = _cosines({layer: cavs})[layer]
        for cav in cavs:
            table.add_row(escape(cav.name), _auc(cav), f"{cav.stability:.2f}", _emblems(cav),
                          f"{len(cav.sources)} / {len(cav.negative_sources)}", _nearest(cosines[cav.name]))  # fmt: skip
        screen.print(table)


def _auc(cav: "CAV") -> str:
    return f"{cav.auc:.2f} ± {cav.auc_deviation:.2f}" + (" weak" if cav.is_weak else "")


def _emblems(cav: "CAV") -> str:
    if not cav.is_pooled:
        return "none (flattened)"
    return f"{cav.emblems.low:.3g} to {cav.emblems.high:.3g}" + ("" if cav.is_separable else ": not separable")


def _nearest(cosines: dict[str, float]) -> str:
    if not cosines:
        return ""
    name = max(cosines, key=lambda other: abs(cosines[other]))
    return escape(f"{name} {cosines[name]:+.2f}")


def _cosines(found: "dict[str, list[CAV]]") -> dict[str, dict[str, dict[str, float]]]:
    """layer -> concept -> other concept -> cosine between their CAVs."""
    import torch

    from pellucid.concepts import gram_matrix

    cosines: dict[str, dict[str, dict[str, float]]] = {}
    for layer, cavs in found.items():
        names = [cav.name for cav in cavs]
        if len({len(cav.direction) for cav in cavs}) > 1:  # pooled and flattened ones, or of several networks
            cosines[layer] = {name: {} for name in names}
            continue
        gram = gram_matrix(torch.stack([cav.direction for cav in cavs])).tolist()
        cosines[layer] = {
            name: {other: gram[i][j] for j, other in enumerate(names) if j != i} for i, name in enumerate(names)
        }
    return cosines


for command in (explain, rank, tcav):
    app.command()(command)

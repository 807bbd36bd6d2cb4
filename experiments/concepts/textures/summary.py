"""The numbers of the texture experiment that the write-up quotes, from its tables."""

import io
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from experiments.concepts.textures.data import EXPECTED, HONEYCOMB, LAYERS, PLACEBO, drawn_name
from pellucid.statistics import correct, sign_flip_p_value
from pellucid.storage import write_atomically

Row = dict[str, Any]
Tables = dict[str, list[Row]]
Floats = NDArray[np.float64]

SCORES = ("reference", "signed", "strongest", "sensitivity")
"""Scores of an image: published, signed contribution, largest value of the concept map, TCAV's derivative."""
_TABLES = ("cavs", "classes", "images")
_PERMUTATIONS = 9999
_SHOWN = 5  # concepts of a ranking; all of them are in the tables


def write_tables(tables: Tables, out: Path) -> None:
    """One Parquet file per table."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for name in _TABLES:
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(tables[name]), buffer, compression="zstd")
        write_atomically(out / f"{name}.parquet", buffer.getvalue())


def read_tables(out: Path) -> Tables:
    """What `write_tables` wrote."""
    import pyarrow.parquet as pq

    return {name: pq.read_table(out / f"{name}.parquet").to_pylist() for name in _TABLES}


def select(rows: Sequence[Row], **expected: object) -> list[Row]:
    """Rows with these values; `class_` stands for the column class."""
    values = {key.rstrip("_"): value for key, value in expected.items()}
    return [row for row in rows if all(row[key] == value for key, value in values.items())]


def places(tables: Tables) -> list[tuple[str, str]]:
    """(model, layer) in the order of the experiment."""
    measured = {(row["model"], row["layer"]) for row in tables["cavs"]}
    known = [(model, layer) for model, layers in LAYERS.items() for layer in layers]
    return [place for place in known if place in measured]


def textures_of(tables: Tables) -> list[str]:
    """Names of the photographed textures."""
    names = dict.fromkeys(row["concept"] for row in tables["cavs"])
    return [name for name in names if name != PLACEBO and not name.startswith(drawn_name(""))]


def summarize(tables: Tables) -> dict[str, list[Row]]:
    """CAV quality, classes with many images, classes with few, and drawn against photographed textures."""
    at = places(tables)
    return {
        "cavs": [_quality(tables, *place) for place in at],
        "many": _many(tables),
        "few": [_few(tables, *place, score) for place, score in product(at, SCORES)],
        "drawn": [_drawn(tables, *place, score) for place, score in product(at, ("reference", "signed"))],
    }


def _quality(tables: Tables, model: str, layer: str) -> Row:
    rows = select(tables["cavs"], model=model, layer=layer)
    textures = [row for row in rows if row["concept"] in textures_of(tables)]
    drawn = [row for row in rows if row["auc_on_photographs"] is not None]
    (placebo,) = select(rows, concept=PLACEBO)
    closest = max(textures, key=lambda row: row["cosine_to_striped"] if row["concept"] != "striped" else -1)
    return {
        "model": model,
        "layer": layer,
        "lowest_auc": min(row["auc"] for row in textures),
        "lowest_stability": min(row["stability"] for row in textures),
        "placebo_auc": placebo["auc"],
        "placebo_stability": placebo["stability"],
        "closest_to_striped": closest["concept"],
        "closest_cosine": closest["cosine_to_striped"],
        "not_separable": [row["concept"] for row in rows if row["high"] <= row["low"]],
        "drawn_cosines": {row["concept"]: row["cosine_to_photographed"] for row in drawn},
        "drawn_aucs_on_photographs": {row["concept"]: row["auc_on_photographs"] for row in drawn},
    }


def _many(tables: Tables) -> list[Row]:
    """Classes with many images; p-values adjusted over concepts x classes x layers of a model, for each score."""
    result = []
    for model, score in product(dict.fromkeys(model for model, _ in places(tables)), ("reference", "signed")):
        family = [
            row | {"placebo_test": _against_placebo(tables, row)}
            for row in select(tables["classes"], model=model, score=score)
            if row["concept"] in (*textures_of(tables), PLACEBO)
        ]
        for name in ("p_value", "tcav_p_value", "placebo_test"):
            adjusted = correct(torch.tensor([row[name] for row in family], dtype=torch.float64), "benjamini_hochberg")
            family = [row | {f"adjusted_{name}": float(p)} for row, p in zip(family, adjusted, strict=True)]
        layers, classes = ({row[key]: None for row in family} for key in ("layer", "class"))
        result += [
            _class(tables, select(family, layer=layer, class_=name), score) for layer, name in product(layers, classes)
        ]
    return result


def _values(tables: Tables, row: Row, concept: str) -> torch.Tensor:
    """The scores (N,) of a concept in the images behind a row of the table of classes."""
    place = {key: row[key] for key in ("model", "layer")}
    images = select(tables["images"], **place, class_=row["class"], few=False, concept=concept)
    return torch.tensor([image[row["score"]] for image in images])


def _against_placebo(tables: Tables, row: Row) -> float:
    """Sign-flip test, paired by image, that a concept counts as much as the placebo does; 1 if it counts less."""
    ahead = _values(tables, row, row["concept"]) - _values(tables, row, PLACEBO)
    return float(sign_flip_p_value(ahead)) if float(ahead.mean()) > 0 else 1.0


def _class(tables: Tables, rows: Sequence[Row], score: str) -> Row:
    """One class at one layer: who leads, by how much, and what the placebo does."""
    ranked = sorted(rows, key=lambda row: -row["mean"])
    first, second = ranked[:2]
    lead = _values(tables, first, first["concept"]) - _values(tables, first, second["concept"])
    order, expected = [row["concept"] for row in ranked], EXPECTED.get(first["class"])
    (placebo,) = select(rows, concept=PLACEBO)
    textures = [row for row in rows if row is not placebo]
    kept = ("concept", "mean", "low", "high", "share_seen", "p_value", "adjusted_p_value", "adjusted_placebo_test",
            "tcav", "adjusted_tcav_p_value")  # fmt: skip
    return {
        **{key: first[key] for key in ("model", "layer", "class", "images", "given")},
        "score": score,
        "ranking": [{key: row[key] for key in kept} for row in ranked[:_SHOWN]],
        "expected": expected,
        "expected_rank": order.index(expected) + 1 if expected in order else None,
        "lead": float(lead.mean()),
        "lead_p_value": float(sign_flip_p_value(lead)),
        "textures": len(textures),
        "significant": sum(row["adjusted_p_value"] < 0.05 for row in textures),
        "above_placebo": sum(row["adjusted_placebo_test"] < 0.05 for row in textures),
        "tcav_significant": sum(row["adjusted_tcav_p_value"] < 0.05 for row in textures),
        "tcav_saturated": sum(row["tcav"] in (0.0, 1.0) for row in textures),
        "placebo_rank": order.index(PLACEBO) + 1,
        "placebo_p_value": placebo["adjusted_p_value"],
    }


def few_ranks(tables: Tables, model: str, layer: str, score: str, concepts: Sequence[str]) -> tuple[list[str], Floats]:
    """Ranks (classes, concepts) of the concepts in each class with few images, 1 the highest; ties share a rank."""
    from scipy.stats import rankdata

    values: dict[str, dict[str, list[float]]] = {}
    for row in tables["images"]:
        if row["few"] and (row["model"], row["layer"]) == (model, layer) and row["concept"] in concepts:
            values.setdefault(row["class"], {}).setdefault(row["image"], []).append(row[score])
    ranks = [np.mean([rankdata(-np.array(one)) for one in images.values()], axis=0) for images in values.values()]
    return list(values), np.array(ranks)


def _few(tables: Tables, model: str, layer: str, score: str) -> Row:
    """Where the expected texture stands among all in the classes with one or two images."""
    textures = textures_of(tables)
    every, ranks = few_ranks(tables, model, layer, score, textures)
    kept = [index for index, name in enumerate(every) if EXPECTED.get(name) in textures]
    ranks, expected = ranks[kept], [textures.index(EXPECTED[every[index]]) for index in kept]
    own = ranks[np.arange(len(kept)), expected]
    return {
        "model": model,
        "layer": layer,
        "score": score,
        "classes": len(kept),
        "textures": len(textures),
        "mean_rank": float(own.mean()),
        "first": float((own < 1.5).mean()),
        "among_three": float((own <= 3).mean()),
        "p_value": _dealt_out(ranks, np.array(expected)),
        "ranks": {every[index]: float(rank) for index, rank in zip(kept, own, strict=True)},
    }


def _dealt_out(ranks: Floats, expected: NDArray[np.integer[Any]]) -> float:
    """How often the expected textures have as low a mean rank when they are dealt out among the classes at random.

    A texture that is high in every class gains nothing by that.
    """
    random = np.random.default_rng(0)
    rows = np.arange(len(ranks))
    null = np.array([ranks[rows, random.permutation(expected)].mean() for _ in range(_PERMUTATIONS)])
    return float((1 + (null <= ranks[rows, expected].mean() + 1e-9).sum()) / (1 + _PERMUTATIONS))


def _drawn(tables: Tables, model: str, layer: str, score: str) -> Row:
    """Whether drawn textures rank as photographed ones of the same name do, and lead where they should."""
    from scipy.stats import spearmanr

    textures = textures_of(tables)
    names = [row["concept"] for row in select(tables["cavs"], model=model, layer=layer)]
    drawn = [name for name in names if name.startswith(drawn_name(""))]
    shared = [name for name in textures if drawn_name(name) in drawn]
    classes, photographed = few_ranks(tables, model, layer, score, shared)
    _, drawn_ranks = few_ranks(tables, model, layer, score, [drawn_name(name) for name in shared])
    _, among_drawn = few_ranks(tables, model, layer, score, drawn)
    expected = {name: drawn_name(texture) for name, texture in EXPECTED.items()} | {
        HONEYCOMB: drawn_name("honeycombed")
    }
    own = {
        name: float(among_drawn[index, drawn.index(expected[name])])
        for index, name in enumerate(classes)
        if expected[name] in drawn
    }
    return {
        "model": model,
        "layer": layer,
        "score": score,
        "shared": shared,
        "classes": len(classes),
        "same_first": float((photographed.argmin(1) == drawn_ranks.argmin(1)).mean()),
        "rank_correlation": float(spearmanr(photographed.ravel(), drawn_ranks.ravel()).statistic),
        "expected_first_among_drawn": float(np.mean([rank < 1.5 for rank in own.values()])),
        "expected_mean_rank_among_drawn": float(np.mean(list(own.values()))),
        "drawn": len(drawn),
        "ranks": own,
    }

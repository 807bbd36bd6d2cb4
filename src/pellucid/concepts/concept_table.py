"""Results as tidy tables, one row per image, concept, layer, class and number, and the files they go into."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pellucid.concepts.cav import CAV
from pellucid.concepts.class_explanation import ClassExplanation
from pellucid.concepts.concept_explanation import ConceptExplanation, adjust_over_layers
from pellucid.concepts.joint import gram_matrix
from pellucid.concepts.tcav import TCAVResult
from pellucid.errors import PellucidError
from pellucid.storage import write_atomically

Row = dict[str, Any]
COLUMNS = (
    *("image", "layer", "concept", "target", "number"),
    *("value", "low", "high", "p_value", "adjusted_p_value", "status"),
)
"""What a row says: which number this is (null where it belongs to all), its value, and what is known about it."""
TABLE_SUFFIXES = (".json", ".parquet")


def cav_rows(cavs: Sequence[CAV]) -> Iterator[Row]:
    """What is known of each CAV of a layer, and its cosine to each of the others."""
    gram = gram_matrix(torch.stack([cav.direction for cav in cavs]))
    for index, cav in enumerate(cavs):
        key = {"layer": cav.layer, "concept": cav.name}
        yield _row("auc", cav.auc, **key)
        yield _row("auc_deviation", cav.auc_deviation, **key)
        yield _row("stability", cav.stability, **key)
        yield _row("emblem_low", cav.emblems.low, **key)
        yield _row("emblem_high", cav.emblems.high, **key)
        for other, cosine in zip(cavs, gram[index].tolist(), strict=True):
            if other is not cav:
                yield _row(f"cosine to {other.name}", cosine, **key)


def local_rows(explanations: Sequence[ConceptExplanation], images: Sequence[str]) -> Iterator[Row]:
    """Every number of local explanations.

    Args:
        explanations: the same N images at several layers; p-values are adjusted for all of these.
        images: N texts that say which image each is.
    """
    tested = all(found.nulls is not None for found in explanations)
    adjusted = adjust_over_layers(explanations) if tested else [None] * len(explanations)
    for found, over_layers in zip(explanations, adjusted, strict=True):
        scores = {
            "signed": (found.interval("signed"), found.p_values, over_layers, found.signed_status),
            "reference": (found.interval("reference"), found.reference_p_values, None, found.status),
        }
        for n, image in enumerate(images):
            place = {"image": image, "layer": found.layer}
            yield from _map_rows(found, n, place)
            for t, target in enumerate(found.targets[n]):
                key = place | {"target": target}
                yield from _target_rows(found, n, t, key)
                for d, concept in enumerate(found.concepts):
                    yield from _score_rows(found, scores, (n, d, t), key | {"concept": concept})


def _map_rows(found: ConceptExplanation, n: int, key: Row) -> Iterator[Row]:
    for d, concept in enumerate(found.concepts):
        for name, maps in (("map", found.maps[n, d]), ("negative_map", found.negative_maps[n, d])):
            yield _row(f"{name}_mean", float(maps.mean()), concept=concept, **key)
            yield _row(f"{name}_max", float(maps.max()), concept=concept, **key)


def _target_rows(found: ConceptExplanation, n: int, t: int, key: Row) -> Iterator[Row]:
    numbers = {
        "score": found.scores,
        "delta": found.delta,
        "gap": found.gap,
        "reference_gap": found.reference_gap,
        "class_weight": found.class_weights,
        "positive_mass": found.positive_mass,
        "negative_mass": found.negative_mass,
        "joint_residual": found.joint.residual,
    }
    for name, values in numbers.items():
        yield _row(name, float(values[n, t]), **key)


def _score_rows(
    found: ConceptExplanation, scores: Mapping[str, tuple[Any, ...]], at: tuple[int, int, int], key: Row
) -> Iterator[Row]:
    for name, (interval, p_values, adjusted, status) in scores.items():
        yield _row(
            name,
            float(getattr(found, name)[at]),
            **key,
            low=_at(interval, (0, *at)),
            high=_at(interval, (1, *at)),
            p_value=_at(p_values, at),
            adjusted_p_value=_at(adjusted, at),
            status=str(status[at]),
        )
    for name, values in (
        ("positive", found.positive),
        ("negative", found.negative),
        ("joint", found.joint.contributions),
    ):
        yield _row(name, float(values[at]), **key)


def global_rows(explanations: Sequence[ClassExplanation]) -> Iterator[Row]:
    """Every number of global explanations: means (no image), and what they are means of."""
    for found in explanations:
        yield from cav_rows(found.cavs)
        for d, concept in enumerate(found.concepts):
            place = {"layer": found.layer, "concept": concept}
            yield _row("share_seen", float(found.share_seen[d]), **place)
            for n, image in enumerate(found.sources):
                yield _row("map_max", float(found.strongest[n, d]), image=image, **place)
            for t, target in enumerate(found.targets):
                yield from _global_scores(found, d, t, place | {"target": target})
        for t, target in enumerate(found.targets):
            for n, image in enumerate(found.sources):
                yield _row("gap", float(found.gap[n, t]), image=image, layer=found.layer, target=target)


def _global_scores(found: ClassExplanation, d: int, t: int, key: Row) -> Iterator[Row]:
    for name, estimate, status in (
        ("signed", found.signed, found.signed_status),
        ("reference", found.reference, found.status),
    ):
        yield _row(
            f"{name}_mean",
            float(estimate.mean[d, t]),
            low=float(estimate.low[d, t]),
            high=float(estimate.high[d, t]),
            p_value=_at(estimate.p_values, (d, t)),
            adjusted_p_value=_at(estimate.adjusted_p_values, (d, t)),
            **key,
        )
        yield _row(f"{name}_deviation", float(estimate.deviation[d, t]), **key)
        for n, image in enumerate(found.sources):
            yield _row(name, float(estimate.values[n, d, t]), image=image, status=str(status[n, d, t]), **key)


def tcav_rows(results: Sequence[TCAVResult], images: Sequence[str]) -> Iterator[Row]:
    """Every number of TCAV results; `images` are those of the class."""
    for found in results:
        yield from cav_rows(found.cavs)
        for d, concept in enumerate(found.concepts):
            key = {"layer": found.layer, "concept": concept, "target": found.target}
            yield _row("tcav", float(found.scores[d]), **key)
            for name, sets in (("random_sets", found.random_scores[d]), ("chance", found.baseline_scores[d])):
                yield _row(f"tcav_{name}", float(sets.mean()), low=float(sets.min()), high=float(sets.max()), **key)
            yield _row("mean_sensitivity", float(found.mean_sensitivities[d]), **key)
            yield _row("magnitude", float(found.magnitudes[d]), **key)
            for name, adjusted in found.adjusted.items():
                p_value = float(getattr(found, name)[d])
                yield _row(name, p_value, p_value=p_value, adjusted_p_value=float(adjusted[d]), **key)
            for n, image in enumerate(images):
                yield _row("sensitivity", float(found.sensitivities[n, d]), image=image, **key)


def write_table(path: str | Path, rows: Iterable[Row], about: Mapping[str, Any]) -> None:
    """Write rows as JSON ({"about": ..., "rows": [...]}) or Parquet (`about` is JSON in the schema's metadata).

    All of the file or nothing. Numbers that are NaN or infinite are null.

    Args:
        path: its suffix says the format, one of `TABLE_SUFFIXES`.
        rows: as the other functions give them.
        about: what made them, plainly typed.

    Raises:
        PellucidError: another suffix, or the file cannot be written.
    """
    path = Path(path)
    if path.suffix not in TABLE_SUFFIXES:
        raise PellucidError(f"{path}: a table is written as {' or '.join(TABLE_SUFFIXES)}, not {path.suffix!r}")
    content = {"about": plain(about), "rows": plain(list(rows))}
    encoded = json.dumps(content, indent=1).encode() if path.suffix == ".json" else _parquet(**content)
    try:
        write_atomically(path, encoded)
    except OSError as error:
        raise PellucidError(f"{path}: cannot be written ({error.strerror}); choose another place") from error


def plain(value: Any) -> Any:
    """A value as JSON knows it: mappings and sequences gone through, numbers that are not finite as None."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, int | bool | str | type(None)) else str(value)


def _parquet(about: Mapping[str, Any], rows: Sequence[Row]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = {"image", "layer", "concept", "target", "number", "status"}
    schema = pa.schema(
        [(name, pa.string() if name in texts else pa.float64()) for name in COLUMNS],
        metadata={"about": json.dumps(about)},
    )
    sink = BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), sink, compression="zstd")
    return sink.getvalue()


def _row(number: str, value: float, **known: Any) -> Row:
    return {**dict.fromkeys(COLUMNS), **known, "number": number, "value": value}


def _at(values: Tensor | None, at: tuple[int, ...]) -> float | None:
    return None if values is None else float(values[at])

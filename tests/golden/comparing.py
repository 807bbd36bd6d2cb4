"""Writing, reading and comparing golden results."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

TOLERANCE = 2e-5
VARYING = re.compile(r"seconds|folder|^out$|files?$|page|versions|torch|pellucid|python")


def write(numbers: dict[str, Any], folder: Path) -> None:
    """Arrays into golden.npz, everything else into golden.json."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {name: value for name, value in numbers.items() if isinstance(value, np.ndarray)}
    np.savez_compressed(folder / "golden.npz", **arrays)
    others = {name: value for name, value in numbers.items() if name not in arrays}
    (folder / "golden.json").write_text(json.dumps(others, indent=1))


def read(folder: Path) -> dict[str, Any]:
    """What `write` wrote."""
    with np.load(folder / "golden.npz") as arrays:
        return {**arrays, **json.loads((folder / "golden.json").read_text())}


def differences(golden: Any, present: Any, path: str = "") -> Iterator[str]:
    """Where two results differ beyond rounding, in words; a key may have been added, none may have gone."""
    if isinstance(golden, np.ndarray):
        if golden.shape != np.shape(present):
            yield f"{path}: shape {np.shape(present)}, not {golden.shape}"
        elif not np.allclose(
            golden, present, rtol=1e-4, atol=TOLERANCE * max(1.0, np.abs(golden).max(initial=0)), equal_nan=True
        ):
            yield f"{path}: differs by up to {np.nanmax(np.abs(golden - present)):.3g}"
    elif isinstance(golden, dict):
        for key, value in golden.items():
            if VARYING.search(key):
                continue
            if not isinstance(present, dict) or key not in present:
                yield f"{path}/{key}: gone"
            else:
                yield from differences(value, present[key], f"{path}/{key}")
    elif isinstance(golden, list):
        if not isinstance(present, list) or len(golden) != len(present):
            yield f"{path}: {len(present) if isinstance(present, list) else present!r} entries, not {len(golden)}"
        else:
            for index, (old, new) in enumerate(zip(golden, present, strict=True)):
                yield from differences(old, new, f"{path}[{index}]")
    elif isinstance(golden, float) and isinstance(present, int | float):
        if not np.isclose(golden, present, rtol=1e-4, atol=TOLERANCE, equal_nan=True):
            yield f"{path}: {present}, not {golden}"
    elif isinstance(golden, str) and isinstance(present, str) and (" " in golden or "/" in golden):
        return  # Sentences may be reworded and folders are temporary; numbers may not change.
    elif golden != present:
        yield f"{path}: {present!r}, not {golden!r}"


def _size(values: np.ndarray) -> float:
    return max(1.0, float(np.abs(values).max(initial=0)))

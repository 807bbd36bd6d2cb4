"""Repeat a drawn experiment many times in each of several cells, resumably, and write rates as JSON and Markdown."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest

from pellucid.storage import write_atomically

RESULTS = Path(__file__).parent / "results"
Settings = dict[str, Any]
Claims = Mapping[str, bool | Sequence[bool] | None]
"""Whether what is counted happened, or each time that it could; None where nothing is claimed."""


@dataclass(frozen=True)
class Simulation:
    """One number that is shown, and how often it keeps what it says.

    Attributes:
        name: of the number, and of its file.
        question: what the rates are rates of.
        cells: the settings; each gets its own rates.
        replicate: (settings, generator) -> name -> whether it happened.
        replications: draws for each cell.
    """

    name: str
    question: str
    cells: Sequence[Settings]
    replicate: Callable[[Settings, np.random.Generator], Claims]
    replications: int = 400


def run(simulation: Simulation, results: Path = RESULTS, *, replications: int | None = None) -> list[dict[str, Any]]:
    """The rates of every cell; cells that the file already has are not drawn again.

    Args:
        simulation: what to repeat.
        results: folder of the JSON files.
        replications: fewer than the simulation has, to try it.
    """
    file = results / f"{simulation.name}.json"
    rows: list[dict[str, Any]] = json.loads(file.read_text()) if file.exists() else []
    repeats = replications or simulation.replications
    for number, cell in enumerate(simulation.cells):
        if any(row["settings"] == cell and row["replications"] >= repeats for row in rows):
            continue
        started = time.process_time()
        draws = [simulation.replicate(cell, np.random.default_rng([number, repeat, 12])) for repeat in range(repeats)]
        rows = [row for row in rows if row["settings"] != cell]
        rows.append({"settings": cell, "replications": repeats, "rates": _rates(draws)})
        rows.sort(key=lambda row: simulation.cells.index(row["settings"]) if row["settings"] in simulation.cells else 0)
        results.mkdir(exist_ok=True)
        write_atomically(file, json.dumps(rows, indent=1).encode())
        print(f"{simulation.name} {cell}: {rows[-1]['rates']} ({time.process_time() - started:.0f} s)", flush=True)
    return [row for row in rows if row["settings"] in simulation.cells]


def table(simulation: Simulation, rows: Sequence[Mapping[str, Any]]) -> str:
    """The rates as Markdown, with exact 95 % intervals of the simulation itself."""
    settings = list(simulation.cells[0])
    names = list(dict.fromkeys(name for row in rows for name in row["rates"]))
    lines = [f"### {simulation.name}", "", simulation.question, ""]
    lines += [f"| {' | '.join([*settings, *names, 'draws'])} |", f"|{'---|' * (len(settings) + len(names) + 1)}"]
    for row in rows:
        cells = [str(row["settings"][name]) for name in settings] + [_cell(row["rates"].get(name)) for name in names]
        lines.append(f"| {' | '.join([*cells, str(row['replications'])])} |")
    return "\n".join([*lines, ""])


def _rates(draws: Sequence[Claims]) -> dict[str, dict[str, float]]:
    rates = {}
    for name in draws[0]:
        parts = [draw[name] for draw in draws]
        claims = [bool(one) for part in parts if part is not None for one in ([part] if np.isscalar(part) else part)]
        given = sum(part is not None for part in parts)
        rates[name] = {"hits": sum(claims), "claims": len(claims), "draws": len(draws), "given": given}
    return rates


def _cell(rate: Mapping[str, float] | None) -> str:
    if rate is None or not rate["claims"]:
        return "none given"
    hits, claims = int(rate["hits"]), int(rate["claims"])
    interval = binomtest(hits, claims).proportion_ci(method="exact")
    shown = rate.get("given", claims) / rate["draws"]
    given = "" if shown == 1 else f", given in {shown:.0%}"
    given = f", {claims} claims" if claims > rate["draws"] else given
    return f"{hits / claims:.1%} ({interval.low:.1%} to {interval.high:.1%}{given})"

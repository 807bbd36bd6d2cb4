"""Planted cues: a classifier that uses one of two tied cues must be found out, and the other cue must not be blamed.

python -m experiments.surrogate.planted_cues --data DIR --work DIR [--only bars|digits ...]

bars: analytic classifiers of drawn bars that read the thickness or the intensity alone (tied at r = 0.91); a minute and
a half of one core for each of four twins. digits: CNNs of real Morpho-MNIST digits at 32 pixels that were trained to
use the intensity, the thickness or the digit alone; some twenty minutes of one core for each. Redrawn digits, networks,
twins and measurements are kept in the work folder, so that a run that was broken off goes on; the results are
results/planted_cues.json and results/planted_cues.md.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

import pellucid as pl
from experiments.surrogate import planted_cues_bars, planted_cues_digits, planted_cues_effects
from experiments.surrogate.digits import TRAINING, load_digits
from experiments.surrogate.planted_cues_bars import BARS, explained_bars
from experiments.surrogate.planted_cues_digits import CUES, explained_digits
from pellucid.data import write_atomically

__all__ = ["main"]

RESULTS = Path(__file__).parent / "results"
_PARTS = (planted_cues_effects, planted_cues_bars, planted_cues_digits)
_CODE = sha256(b"".join(Path(str(part.__file__)).read_bytes() for part in _PARTS)).hexdigest()
_TIED = {"thickness": "intensity", "intensity": "thickness"}

Row = Mapping[str, Any]


def kept(file: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A row, made or read from an earlier run of the same code."""
    settings = {"code": _CODE, "pellucid": pl.__version__}
    if file.exists():
        found = json.loads(file.read_text(encoding="utf-8"))
        if found["settings"] == settings:
            return dict(found["row"])
    row = make()
    write_atomically(file, json.dumps({"settings": settings, "row": row}, indent=1).encode())
    return row


def bars(work: Path) -> Iterator[dict[str, Any]]:
    """The rows of the bench of bars."""
    for cue, versions in BARS:
        out = work / f"bars-{cue}-{'versions' if versions else 'plain'}"
        yield kept(out.with_suffix(".json"), partial(explained_bars, cue, versions, out))


def digits(data: Path, work: Path) -> Iterator[dict[str, Any]]:
    """The rows of the digits."""
    every = load_digits(data, work)
    training, held_out = every.rows(0, TRAINING), every.rows(TRAINING)
    for cue in CUES:
        yield kept(work / f"digits-{cue}.json", partial(explained_digits, cue, training, held_out, work))


def ratios(row: Row) -> dict[str, float]:
    """How much larger the effect of the cue is than that of the cue that is tied to it, by every measure."""
    cue, other = row["cue"], _TIED[row["cue"]]
    effects, edges = row["effects"], row["edges"]
    return {
        "strength": edges[cue]["strength"] / edges[other]["strength"],
        "importance": row["importance"][cue] / row["importance"][other],
        "reach": effects[cue]["reach"] / effects[other]["reach"],
        "true_strength": effects[cue]["true_strength"] / effects[other]["true_strength"],
        "plain_correlation": abs(row["plain_correlation"][cue] / row["plain_correlation"][other]),
    }


def bars_markdown(rows: Sequence[Row]) -> str:
    """The bench of bars beside the thresholds of a first prototype."""
    head = ["what decides", "versions", "agreement (≥ 0.95)", "reach of the cue (true)", "of the other (true)"]
    head += ["ratio (≥ 3)", "r with the true change (≥ 0.8)", "ratio by correlation"]
    lines = [_line(head), _line(["---"] * len(head))]
    for row in rows:
        cue, other = (row["effects"][name] for name in (row["cue"], _TIED[row["cue"]]))
        reaches = [f"{one['reach']:.2f} ({one['true_reach']:.2f})" for one in (cue, other)]
        ratio = ratios(row)
        numbers = [f"{ratio['reach']:.1f}", f"{cue['correlation']:.2f}", f"{ratio['plain_correlation']:.2f}"]
        agreement = f"{row['agreement']:.3f}"
        lines.append(_line([row["cue"], "yes" if row["versions"] else "no", agreement, *reaches, *numbers]))
    return "\n".join(lines) + "\n"


def digits_markdown(rows: Sequence[Row]) -> str:
    """For every planted classifier and concept: the twin's word, the truth, and what plain correlation says."""
    head = ["what decides", "concept", "share of the margin", "decision edge", "p", "importance", "place"]
    head += ["strength (true)", "reach (true)", "flips (true)", "r with the true change", "plain correlation"]
    lines = [_line(head), _line(["---"] * len(head))]
    for row in rows:
        lines += [_line([row["cue"], name, *_concept(row, name)]) for name in row["effects"]]
        latents = {name: edge["strength"] for name, edge in row["edges"].items() if name not in row["effects"]}
        first = max(latents, key=lambda name: latents[name])
        lines.append(_line([row["cue"], f"strongest latent ({first})", "", *_told(row, first), *[""] * 5]))
        single, block = max(row["null"]["single"]), row["null"]["block"]
        lines.append(
            _line([row["cue"], "one nuisance coordinate, the strongest (null)", "", f"{single:.2f}", *[""] * 8])
        )
        lines.append(_line([row["cue"], "all nuisance", "", f"{block:.2f}", *[""] * 8]))
    return "\n".join(lines) + "\n"


def _told(row: Row, name: str) -> list[str]:
    edge, place = row["edges"][name], row["importance_order"].index(name) + 1
    return [f"{edge['strength']:.2f}", f"{edge['p_value']:.1g}", f"{row['importance'][name]:.2f}", str(place)]


def _concept(row: Row, name: str) -> list[str]:
    effect = row["effects"][name]
    pairs = [f"{effect[key]:.2f} ({effect[f'true_{key}']:.2f})" for key in ("strength", "reach", "flips")]
    ends = [f"{effect['correlation']:.2f}", f"{row['plain_correlation'][name]:.2f}"]
    return [f"{row['proof']['share'][name]:.3f}", *_told(row, name), *pairs, *ends]


def marks_markdown(rows: Sequence[Row]) -> str:
    """How good each twin of digits is."""
    keys = ("agreement", "kl", "head_agreement", "swap_flips")
    head = [
        "what decides",
        *keys,
        "effectiveness T, I, S, W",
        "edge, importance, true strength: cue over the tied other",
    ]
    lines = [_line(head), _line(["---"] * len(head))]
    for row in rows:
        control = " ".join(f"{value:.2f}" for value in row["effectiveness"].values())
        found = ratios(row) if row["cue"] in _TIED else None
        ratio = (
            "" if found is None else ", ".join(f"{found[k]:.1f}" for k in ("strength", "importance", "true_strength"))
        )
        lines.append(_line([row["cue"], *(f"{row[key]:.3f}" for key in keys), control, ratio]))
    return "\n".join(lines) + "\n"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Train, measure and report what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with morphomnist_ti")
    parser.add_argument("--work", type=Path, required=True, help="folder for networks, twins and measurements")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--only", nargs="+", default=["bars", "digits"], choices=["bars", "digits"])
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    chosen.work.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[dict[str, Any]]] = {part: [] for part in chosen.only}
    for part in chosen.only:
        for row in bars(chosen.work) if part == "bars" else digits(chosen.data, chosen.work):
            found[part].append(row)
            report(found, chosen.out)
    print((chosen.out / "planted_cues.md").read_text(encoding="utf-8"))


def report(found: Mapping[str, Sequence[Row]], out: Path) -> None:
    """Write the rows and their tables."""
    tables = [bars_markdown(found["bars"])] if found.get("bars") else []
    tables += [digits_markdown(found["digits"]), marks_markdown(found["digits"])] if found.get("digits") else []
    options = {"bars": planted_cues_bars.OPTIONS.record(), "digits": planted_cues_digits.OPTIONS.record()}
    versions = {"pellucid": pl.__version__, "torch": torch.__version__}
    summary = {"versions": versions, "options": {part: options[part] for part in found}, **found}
    write_atomically(out / "planted_cues.json", json.dumps(summary, indent=1).encode())
    write_atomically(out / "planted_cues.md", "\n".join(tables).encode())


if __name__ == "__main__":
    main()

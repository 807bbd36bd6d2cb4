"""Planted cues: a classifier that uses one of two tied cues must be found out, and the other cue must not be blamed.

python -m experiments.surrogate.planted_cues.run --data DIR --work DIR [--only bars|digits ...]

bars: analytic classifiers of drawn bars that read the thickness or the intensity alone (tied at r = 0.91); a minute and
a half of one core for each of four surrogates. digits: CNNs of real Morpho-MNIST digits at 32 pixels that were trained
to use the intensity, the thickness or the digit alone; some twenty minutes of one core for each. Redrawn digits,
networks, surrogates and measurements are kept in the work folder, so that a run that was broken off goes on; the
results are results/planted_cues.json and results/planted_cues.md.
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
from experiments.surrogate.digits.data import TRAINING, load_digits
from experiments.surrogate.planted_cues import bars as planted_cues_bars
from experiments.surrogate.planted_cues import digits as planted_cues_digits
from experiments.surrogate.planted_cues import effects as planted_cues_effects
from experiments.surrogate.planted_cues.bars import BARS, explained_bars
from experiments.surrogate.planted_cues.digits import CUES, explained_digits
from pellucid.storage import to_record, write_atomically

RESULTS = Path(__file__).parents[1] / "results"
_PARTS = (planted_cues_effects, planted_cues_bars, planted_cues_digits)
_CODE = sha256(b"".join(Path(str(part.__file__)).read_bytes() for part in _PARTS)).hexdigest()
_TIED = {"thickness": "intensity", "intensity": "thickness"}

Row = Mapping[str, Any]


def kept(file: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A row, made or read from an earlier run of the same code."""
    settings = {"code": _CODE, "pellucid": pl.__version__}
    if file.exists():
        result = json.loads(file.read_text(encoding="utf-8"))
        if result["settings"] == settings:
            return dict(result["row"])
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


KINDS = {"transferred": "residual transferred to the input image", "drawn": "reconstruction"}
"""How the surrogate's intervention is shown to the classifier: the first is how explanations are made."""


def ratios(row: Row, kind: str) -> dict[str, float]:
    """How much larger the effect of the cue is than that of the cue that is tied to it, by every measure."""
    cue, other = row["cue"], _TIED[row["cue"]]
    effects, edges, shares = (row[kind][part] for part in ("effects", "edges", "importance"))
    return {
        "edge": edges[cue]["strength"] / edges[other]["strength"],
        "importance": shares[cue] / shares[other],
        "reach": effects[cue]["reach"] / effects[other]["reach"],
        "truth": effects[cue]["true_strength"] / effects[other]["true_strength"],
        "plain correlation": abs(row["plain_correlation"][cue] / row["plain_correlation"][other]),
    }


def bars_markdown(rows: Sequence[Row]) -> str:
    """The bench of bars beside the thresholds of a first prototype."""
    head = [
        "what decides",
        "versions",
        "shown as",
        "agreement (≥ 0.95)",
        "reach of the cue (true)",
        "of the other (true)",
    ]
    head += ["ratio (≥ 3)", "r with the true change (≥ 0.8)", "edge, importance: cue over other", "by correlation"]
    lines = [_line(head), _line(["---"] * len(head))]
    for row in rows:
        for kind, shown in KINDS.items():
            cue, other = (row[kind]["effects"][name] for name in (row["cue"], _TIED[row["cue"]]))
            ratio = ratios(row, kind)
            first = [row["cue"], "yes" if row["versions"] else "no", shown, f"{row['agreement']:.3f}"]
            reaches = [_pair(one, "reach") for one in (cue, other)]
            numbers = [f"{ratio['reach']:.1f}", f"{cue['correlation']:.2f}"]
            last = [f"{ratio['edge']:.1f}, {ratio['importance']:.1f}", f"{ratio['plain correlation']:.2f}"]
            lines.append(_line([*first, *reaches, *numbers, *last]))
    return "\n".join(lines) + "\n"


def digits_markdown(row: Row) -> str:
    """A planted classifier, concept by concept: the surrogate's word in both ways, the truth, and plain correlation."""
    head = ["concept", "share of the margin", "plain correlation", "true strength"]
    for kind in KINDS:
        head += [f"{kind}: strength", "flips (true)", "r with the true change", "decision edge", "importance (place)"]
    lines = [_line(head), _line(["---"] * len(head))]
    contexts = list(row["drawn"]["effects"])
    lines += [
        _line([name, *_truth(row, name), *(x for kind in KINDS for x in _cells(row[kind], name))]) for name in contexts
    ]
    edges = row["drawn"]["edges"]
    first = max((name for name in edges if name not in contexts), key=lambda name: float(edges[name]["strength"]))
    lines.append(
        _line([f"strongest latent ({first})", "", "", "", *(x for kind in KINDS for x in _cells(row[kind], first))])
    )
    for title, null in (("strongest nuisance coordinate", _strongest), ("all nuisance", _block)):
        lines.append(_line([title, "", "", "", *(x for kind in KINDS for x in ("", "", "", null(row[kind]), ""))]))
    return "\n".join(lines) + "\n"


def _strongest(reported: Row) -> str:
    return f"{max(reported['null']['single']):.2f}"


def _block(reported: Row) -> str:
    return f"{reported['null']['block']:.2f}"


def _truth(row: Row, name: str) -> list[str]:
    shares = f"{row['proof']['share'][name]:.3f}", f"{row['plain_correlation'][name]:.2f}"
    return [*shares, f"{row['drawn']['effects'][name]['true_strength']:.2f}"]


def _cells(reported: Row, name: str) -> list[str]:
    edge, place = reported["edges"][name], reported["importance_order"].index(name) + 1
    # Results from before intervals were measured have a test instead.
    matters = (edge["low"] or 0.0) > edge["bound"] if "low" in edge else edge["p_value"] < 0.05
    stands = "" if matters else " n.s."
    last = [f"{edge['strength']:.2f}{stands}", f"{reported['importance'][name]:.2f} ({place})"]
    if name not in reported["effects"]:
        return ["", "", "", *last]
    effect = reported["effects"][name]
    return [f"{effect['strength']:.2f}", _pair(effect, "flips"), f"{effect['correlation']:.2f}", *last]


def _pair(effect: Row, key: str) -> str:
    return f"{effect[key]:.2f} ({effect[f'true_{key}']:.2f})"


def marks_markdown(rows: Sequence[Row]) -> str:
    """How good each surrogate of digits is, and how far the cue is ahead of its tied companion."""
    keys = ("agreement", "kl", "head_agreement", "swap_flips")
    head = ["what decides", "accuracy", "agreement", "KL", "head agreement", "swap flips", "effectiveness T, I, S, W"]
    head += [f"edge, importance: cue over other, {kind}" for kind in KINDS] + ["in truth", "by correlation"]
    lines = [_line(head), _line(["---"] * len(head))]
    for row in rows:
        control = " ".join(f"{value:.2f}" for value in row["effectiveness"].values())
        marks = [f"{row['proof']['accuracy']:.3f}", *(f"{row[key]:.3f}" for key in keys), control]
        lines.append(_line([row["cue"], *marks, *(_ahead(row) if row["cue"] in _TIED else [""] * 4)]))
    return "\n".join(lines) + "\n"


def _ahead(row: Row) -> list[str]:
    result = [ratios(row, kind) for kind in KINDS]
    ours = [f"{one['edge']:.1f}, {one['importance']:.1f}" for one in result]
    return [*ours, f"{result[0]['truth']:.1f}", f"{result[0]['plain correlation']:.2f}"]


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Train, measure and report what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with morphomnist_ti")
    parser.add_argument("--work", type=Path, required=True, help="folder for networks, surrogates and measurements")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--only", nargs="+", default=["bars", "digits"], choices=["bars", "digits"])
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    chosen.work.mkdir(parents=True, exist_ok=True)
    result: dict[str, list[dict[str, Any]]] = {part: [] for part in chosen.only}
    for part in chosen.only:
        for row in bars(chosen.work) if part == "bars" else digits(chosen.data, chosen.work):
            result[part].append(row)
            report(result, chosen.out)
    print((chosen.out / "planted_cues.md").read_text(encoding="utf-8"))


def report(result: Mapping[str, Sequence[Row]], out: Path) -> None:
    """Write the rows and their tables."""
    tables = [bars_markdown(result["bars"])] if result.get("bars") else []
    if rows := result.get("digits"):
        tables.append(marks_markdown(rows))
        tables += [f"{row['cue']} decides:\n\n{digits_markdown(row)}" for row in rows]
    options = {"bars": to_record(planted_cues_bars.OPTIONS), "digits": to_record(planted_cues_digits.OPTIONS)}
    versions = {"pellucid": pl.__version__, "torch": torch.__version__}
    summary = {"versions": versions, "options": {part: options[part] for part in result}, **result}
    write_atomically(out / "planted_cues.json", json.dumps(summary, indent=1).encode())
    write_atomically(out / "planted_cues.md", "\n".join(tables).encode())


if __name__ == "__main__":
    main()

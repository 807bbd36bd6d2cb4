"""Known causal models of digits: is their graph found, and is the effect of an intervention that of the equations?

python -m experiments.surrogate.causal_models.run --data DIR --work DIR [--models TI IT ..] [--seeds 5] [--perceived 3]

Contexts are drawn from TI, IT, TS and TSWI (`pellucid.synthetic.morphomnist.CAUSAL_MODELS`) and MNIST digits are
redrawn to them. Graphs are looked for among the variables as drawn, as measured on the digits, as read off a small CNN
trained on further digits, and off the same CNN with weights drawn again. Digits and parts that are done are kept in
--work, so that a run that was broken off goes on; the results are causal_models.json, .md and .png.
"""

import argparse
import json
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import pellucid as pl
from experiments.surrogate.causal_models.cases import MODELS, Plan, levels_of, scored, tie
from experiments.surrogate.causal_models.figure import draw_figure
from experiments.surrogate.causal_models.tables import GIVEN, tables
from experiments.surrogate.digits.data import CONTEXTS, load_digits
from experiments.surrogate.shared.parts import Parts
from pellucid.data import read_context
from pellucid.storage import write_atomically
from pellucid.surrogate.causal import BackgroundKnowledge, CausalGraph, DiscoveryOptions, Edge, discover

_BOOTSTRAPS = 200  # of the real table


def main() -> None:
    """Make what is not there yet, and write the results."""
    chosen = _arguments()
    torch.set_num_threads(1)
    plan = Plan(digits=chosen.digits, training=chosen.digits)
    versions = {"pellucid": pl.__version__, "torch": torch.__version__, "causal-learn": version("causal-learn")}
    parts = Parts(chosen.work / "parts", {"plan": asdict(plan), "versions": versions})
    cases: dict[str, Any] = {}
    for seed in range(chosen.seeds):
        for name in chosen.models:
            levels = partial(levels_of, MODELS[name], seed, plan, chosen.data / "mnist", chosen.work, parts)
            cases.setdefault(name, {})[str(seed)] = levels(perceived=seed < chosen.perceived)
    real = {
        "table": parts.part("real table", partial(_real_table, chosen.data)),
        "measured": parts.part("real measured", partial(_real_measured, chosen.data, chosen.work)),
    }
    ties = {
        name: parts.part(f"{name} tie", partial(tie, model, "thickness", "width", "intensity"))
        for name, model in MODELS.items()
        if "width" in model.names
    }
    result = {"plan": asdict(plan), "versions": versions, "real": real, "ties": ties, "cases": _shortened(cases)}
    write_atomically(chosen.out / "causal_models.json", json.dumps(result).encode())
    write_atomically(chosen.out / "causal_models.md", tables(result).encode())
    write_atomically(chosen.out / "causal_models.png", draw_figure(result["cases"]))
    print(tables(result))


def _real_table(data: Path) -> dict[str, Any]:
    """The graph of the thickness and intensity that the 10,000 digits of the set were made from."""
    names = ("thickness", "intensity")
    table = read_context(data / "morphomnist_ti" / "t10k-morpho.csv", columns=names)
    truth = CausalGraph(names, (Edge("thickness", "intensity", "tail", "arrow"),))
    tiers = BackgroundKnowledge(tiers={"thickness": 0, "intensity": 1})
    return {
        predicted: scored(discover(table.values.numpy(), names, knowledge=knowledge, options=_options()), truth)
        for predicted, knowledge in (("with tiers", tiers), ("without tiers", None))
    }


def _real_measured(data: Path, work: Path) -> dict[str, Any]:
    """The same of all four contexts as morphometry finds them on the images, class means taken away."""
    digits = load_digits(data, work)
    truth = CausalGraph(CONTEXTS, (Edge("thickness", "intensity", "tail", "arrow"),))
    tiers = BackgroundKnowledge(tiers={name: int(name != "thickness") for name in CONTEXTS})
    values, labels = digits.context.values.numpy(), digits.labels.numpy()
    return {
        predicted: scored(discover(values, CONTEXTS, labels=labels, knowledge=knowledge, options=_options()), truth)
        for predicted, knowledge in (("with tiers", tiers), ("without tiers", None))
    }


def _options() -> DiscoveryOptions:
    return DiscoveryOptions(bootstraps=_BOOTSTRAPS)


def _shortened(content: Any) -> Any:
    """Numbers to five digits, and curves by the graphs found only: the file holds thousands."""
    if isinstance(content, dict):
        return {key: _shortened(_marks(value) if key == GIVEN else value) for key, value in content.items()}
    if isinstance(content, list):
        return [_shortened(value) for value in content]
    return float(f"{content:.5g}") if isinstance(content, float) else content


def _marks(effects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if not isinstance(value, list)} for row in effects]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with mnist and morphomnist_ti")
    parser.add_argument("--work", type=Path, required=True, help="folder for digits, classifiers and parts")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--seeds", type=int, default=5, help="of each model")
    parser.add_argument("--perceived", type=int, default=3, help="seeds of which a classifier's graph is looked for")
    parser.add_argument(
        "--digits", type=int, default=Plan.digits, help="of each model and seed, and as many for training"
    )
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parents[1] / "results", help="folder for the results"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()

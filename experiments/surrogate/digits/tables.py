"""Print the tables of README_digits.md from results/digits.json: python -m experiments.surrogate.digits.tables"""

import json
from typing import Any

from experiments.surrogate.digits.data import CONTEXTS
from experiments.surrogate.digits.train import RESULTS

_TARGETS = (
    ("classifier agreement on reconstructions", "agreement", ">= 98 %", True),
    ("KL, nats", "kl", "<= 0.05", False),
    ("agreement of the surrogate's head", "head_agreement", ">= 98 %", True),
    ("label changed by another's nuisance", "nuisance_flip_rate", "<= 1 %", True),
    ("logits kept (R2)", "logit_r2", "", False),
)


def main() -> None:
    """Print them."""
    result = json.loads((RESULTS / "digits.json").read_text())
    marks = result["assessment"]
    print("| | reached | target |\n|---|---|---|")
    for title, name, target, share in _TARGETS:
        value = f"{100 * marks[name]:.1f} %" if share else f"{marks[name]:.3f}"
        print(f"| {title} | {value} | {target} |")
    seen = marks["realism"]
    print(
        f"| features of the classifier: cosine; Fréchet distance (two halves of real digits) | {seen['cosine']:.3f}; "
        f"{seen['frechet']:.1f} ({seen['floor']:.1f}) | |"
    )
    columns = ("set", "follows (correlation)", "slope", *CONTEXTS, "oracle")
    print("\n| " + " | ".join(columns) + " |")
    print("|---|---|---|---|---|---|---|---|")
    for control in marks["controls"]:
        print(_control(control, result["oracle_agreement"][control["concept"]]))
    print(f"\nnull: strongest nuisance {max(result['null']['single']):.2f}, whole block {result['null']['block']:.2f}")
    for edge in sorted(result["decisions"], key=lambda one: -one["strength"]):
        # Results from before intervals were measured have none.
        interval = f", {edge['low']:.2f} to {edge['high']:.2f}" if "low" in edge else ""
        print(f"{edge['concept']}: {edge['strength']:.2f} sd{interval}, flips {edge['flip_rate']:.1%}")


def _control(control: dict[str, Any], oracle: dict[str, float]) -> str:
    leak = [f"{control['leakage'][name]:.2f}" if name in control["leakage"] else "" for name in CONTEXTS]
    return (
        f"| {control['concept']} | {control['correlation']:.3f} | {control['slope']:.2f} | {' | '.join(leak)} "
        f"| {oracle['correlation']:.2f} |"
    )


if __name__ == "__main__":
    main()

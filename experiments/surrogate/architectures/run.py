"""One surrogate for every architecture: the same code, options and digits on networks of six kinds and on a black box.

python -m experiments.surrogate.architectures.run --work DIR [--only NAME ...]

The digits are drawn from strokes at 16 pixels, thick ones tend to be bright, so that nothing is downloaded and the true
image of every intervention is known. Networks, surrogates and measurements are kept in DIR, so that a run that was
broken off goes on; the results are results/architectures.json and results/architectures.md. A network and its
surrogate take two to four minutes of one core.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pellucid as pl
from experiments.surrogate.architectures import networks
from experiments.surrogate.architectures.networks import NETWORKS
from pellucid.data import ContextTable, Preprocess
from pellucid.storage import read_tensors, to_record, write_atomically, write_tensors
from pellucid.surrogate import (
    LOGITS_ONLY,
    PRESETS,
    DecisionEffect,
    EncodedBatch,
    GlobalOptions,
    NuisanceNull,
    Rerender,
    SurrogateExplainer,
    digit_measure,
    margin,
    measure_decision_effects,
    measure_digits,
    train,
)
from pellucid.synthetic import draw_digits
from pellucid.synthetic.morphomnist import thickness_to_intensity

RESULTS = Path(__file__).parents[1] / "results"
CONTEXTS = ("thickness", "intensity", "slant", "width")
OPTIONS = PRESETS["ci-16"].replace(
    steps=800, latent_dim=8, nuisance_dim=8, brightness_context="intensity", nuisance_swap=4.0
)
_SIDE = 16
_PEN = 0.6  # pixels of 16 for one of the pens of 28-pixel digits, a little more than to scale: thin pens are faint
_TRAINING, _HELD_OUT, _INTERVENED = 4000, 1000, 300
_EPOCHS, _BATCH, _RATE = 12, 64, 2e-3
_LOW, _HIGH = torch.tensor([[1.0, 70.0, -0.4, 6.0], [2.8, 255.0, 0.4, 11.0]])  # of what versions are drawn from
_BLACK_BOX = "CNN as a black box"
CASES = {name: name for name in NETWORKS} | {_BLACK_BOX: "CNN"}
"""Row of the table -> its network; the last is explained from its logits alone."""


@dataclass(frozen=True)
class Strokes:
    """Drawn digits, (N, 1, 16, 16) in [-1, 1], their classes (N,), what they are drawn from, and the seed of shapes."""

    images: Tensor
    labels: Tensor
    context: ContextTable
    seed: int

    def redrawn(self, values: Tensor) -> Tensor:
        """The same shapes at the same places with other pens: the true images of contexts (N, K)."""
        return _drawn(self.labels, values, self.seed)


def draw_strokes(count: int, seed: int) -> Strokes:
    """Digits of all classes; thickness -> intensity as in Morpho-MNIST (r = 0.9), slant and width of their own."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(10, (count,), generator=random)
    tied = thickness_to_intensity().sample(count, seed=seed)
    thickness = (_PEN * tied.column("thickness")).clamp(_LOW[0], _HIGH[0]).float()
    slant = (0.2 * torch.randn(count, generator=random)).clamp(_LOW[2], _HIGH[2])
    width = (8.5 + 1.2 * torch.randn(count, generator=random)).clamp(_LOW[3], _HIGH[3])
    values = torch.stack([thickness, tied.column("intensity").float(), slant, width], dim=1)
    return Strokes(_drawn(labels, values, seed), labels, ContextTable(CONTEXTS, values), seed)


def _drawn(labels: Tensor, values: Tensor, seed: int) -> Tensor:
    pens = dict(zip(CONTEXTS, values.float().T, strict=True))
    gray = draw_digits(labels, **pens, size=_SIDE, jitter=0.7, seed=seed)
    return gray[:, None] / 127.5 - 1


def versions_of(strokes: Strokes) -> Rerender:
    """Draws digits of a set with pens of any kind; which digits they are follows from their pixels."""

    def rerender(images: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
        rows = torch.cdist(images.flatten(1), strokes.images.flatten(1)).argmin(1)
        values = strokes.context.values.float().clone()
        values[rows] = _LOW + (_HIGH - _LOW) * torch.rand(len(rows), len(CONTEXTS), generator=random)
        return strokes.redrawn(values)[rows], values[rows]

    return rerender


def classifier_of(name: str, strokes: Strokes, work: Path) -> pl.Classifier:
    """The network of a name as a classifier, trained on strokes; its weights are kept in `work`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = NETWORKS[name](10)
        kept = work / f"{_slug(name)}.safetensors"
        if not kept.exists():
            _fit(network, strokes)
            write_tensors(kept, network.state_dict())
    network.load_state_dict(read_tensors(kept))
    preprocess = Preprocess((_SIDE, _SIDE), mean=(0.5,), std=(0.5,))
    names = [str(digit) for digit in range(10)]
    return pl.Classifier(
        network.eval(), preprocess=preprocess, class_names=names, name=name, input_size=(1, _SIDE, _SIDE)
    )


def _fit(network: nn.Module, strokes: Strokes) -> None:
    steps = _EPOCHS * -(-len(strokes.labels) // _BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), lr=_RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=steps)
    network.train()
    for _ in range(_EPOCHS):
        for rows in torch.split(torch.randperm(len(strokes.labels)), _BATCH):
            loss = F.cross_entropy(network(strokes.images[rows]), strokes.labels[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()


def measurements(case: str, training: Strokes, held_out: Strokes, work: Path) -> dict[str, Any]:
    """The row of a case, measured or read from an earlier run of the same code and options."""
    file = work / f"{_slug(case)}.json"
    settings = {"options": to_record(OPTIONS), "code": _code(), "pellucid": pl.__version__}
    if file.exists():
        kept = json.loads(file.read_text(encoding="utf-8"))
        if kept["settings"] == settings:
            return dict(kept["row"])
    classifier = classifier_of(CASES[case], training, work)
    layers = LOGITS_ONLY if case == _BLACK_BOX else None
    out, rerender = work / f"surrogate-{_slug(case)}", versions_of(training)
    explainer = train(classifier, training.images, training.context, OPTIONS, out, layers=layers, rerender=rerender)
    row = _evaluate(explainer, held_out)
    write_atomically(file, json.dumps({"settings": settings, "row": row}, indent=1).encode())
    return row


def _code() -> str:
    return sha256(b"".join(Path(part).read_bytes() for part in (__file__, str(networks.__file__)))).hexdigest()


def _evaluate(explainer: SurrogateExplainer, held_out: Strokes) -> dict[str, Any]:
    marks = explainer.assess(held_out.images, digit_measure(explainer.surrogate), measured_by="morphometry")
    batch = explainer.encode_batch(held_out.images)
    global_explanation = explainer.discover(
        held_out.images, held_out.context.values, options=GlobalOptions(max_interventions=_INTERVENED)
    )
    drawn = batch.reconstructed()
    edges, null = measure_decision_effects(drawn[:_INTERVENED], batch.codes)
    return {
        "layers": list(explainer.surrogate.features.layers) or LOGITS_ONLY,
        "features": explainer.surrogate.features.length,
        "parameters": sum(weight.numel() for weight in explainer.classifier.module.parameters()),
        "tie": _correlation(*held_out.context.values[:, :2].T),
        "accuracy": _share(batch.classes == held_out.labels),
        "agreement": marks.agreement,
        "kl": marks.kl,
        "head_agreement": marks.head_agreement,
        "swap_flips": marks.nuisance_flip_rate,
        "pixels": marks.pixel_error / 2,
        "predicted": [
            dict(zip(CONTEXTS, predictor, strict=True)) for predictor in explainer.surrogate.quality.predictor_r2
        ],
        "effectiveness": marks.effectiveness,
        "perceived": dict(global_explanation.probe_r2),
        "transferred": {
            **_edges(global_explanation.decision_effects, global_explanation.null),
            "effects": _effects(explainer, batch, batch, held_out),
        },
        "drawn": {**_edges(edges, null), "effects": _effects(explainer, drawn, batch, held_out)},
    }


def _edges(edges: Sequence[DecisionEffect], null: NuisanceNull) -> dict[str, Any]:
    return {
        "top": max(edges, key=lambda edge: edge.strength).concept,
        "strengths": {edge.concept: edge.strength for edge in edges},
        "matters": {edge.concept: edge.matters for edge in edges},
        "null": {"strongest": null.strongest, "block": null.block},
    }


def _ceiling(held_out: Strokes) -> dict[str, float]:
    """Correlation of what true images of interventions were drawn from with what they measure: the best there is."""
    random, result = torch.Generator().manual_seed(1), {}
    for column, name in enumerate(CONTEXTS):
        values = held_out.context.values.float().clone()
        low, high = torch.quantile(values[:, column], torch.tensor([0.02, 0.98]))
        values[:, column] = low + (high - low) * torch.rand(len(values), generator=random)
        result[name] = _correlation(values[:, column], measure_digits(held_out.redrawn(values), [name])[:, 0])
    return result


@torch.no_grad()
def _effects(
    explainer: SurrogateExplainer, shown: EncodedBatch, batch: EncodedBatch, held_out: Strokes
) -> dict[str, dict[str, float]]:
    """What another digit's value of a context does to the margin, by the surrogate and by drawing the digit again.

    Args:
        surrogate: of the classifier.
        shown: how the surrogate's interventions are shown: with the residual transferred to the input images, or drawn.
        batch: of the images.
        held_out: the same images with all that they are drawn from.

    Returns:
        For each context the mean absolute change `explainer` and `truth`, in standard deviations of the margin, and
        their `correlation` over images.
    """
    before, own = (margin(one.logits, batch.classes) for one in (shown, batch))
    result = {}
    for column, name in enumerate(CONTEXTS):
        values = held_out.context.values.float().clone()
        values[:, column] = values[:, column].roll(1)
        context = batch.codes.context.clone()
        context[:, column] = explainer.standard_context(values)[:, column]
        codes = batch.codes.replace_concepts(torch.cat([context, batch.codes.latent], dim=1))
        ours = margin(shown.counterfactual_logits(codes), batch.classes) - before
        true = margin(explainer.logits(held_out.redrawn(values)), batch.classes) - own
        sizes = {"surrogate": float(ours.abs().mean() / own.std()), "truth": float(true.abs().mean() / own.std())}
        result[name] = sizes | {"correlation": _correlation(ours, true)}
    return result


def _correlation(x: Tensor, y: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([x.double(), y.double()]))[0, 1])


def _share(mask: Tensor) -> float:
    return float(mask.float().mean())


def _slug(name: str) -> str:
    return name.lower().replace(" ", "-")


def markdown(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The table of all cases."""
    columns = ("accuracy", "agreement", "KL", "head agreement", "swap flips")
    head = ["network", *columns, "effectiveness T, I, S, W", "perceived R² T, I, S, W"]
    lines = [_line(head), _line(["---"] * len(head))]
    for name, row in rows.items():
        numbers = [row[key] for key in ("accuracy", "agreement", "kl", "head_agreement", "swap_flips")]
        several = [
            " ".join(f"{row[key][context]:.2f}" for context in CONTEXTS) for key in ("effectiveness", "perceived")
        ]
        lines.append(_line([name, *(f"{number:.3f}" for number in numbers), *several]))
    return "\n".join(lines) + "\n"


def effects_markdown(rows: Mapping[str, Mapping[str, Any]], kind: str) -> str:
    """The table of effects, the surrogate's beside the true ones with their correlation over images, and of the
    edges.
    """
    head = ["network", *CONTEXTS, "strongest decision edge", "nuisance: one, all", "edges that stand out"]
    lines = [_line(head), _line(["---"] * len(head))]
    for name, row in rows.items():
        reported = row[kind]
        cells = [
            "{surrogate:.2f} / {truth:.2f}, r = {correlation:.2f}".format(**reported["effects"][c]) for c in CONTEXTS
        ]
        edges = [
            f"{reported['top']} {reported['strengths'][reported['top']]:.2f}",
            "{strongest:.2f}, {block:.2f}".format(**reported["null"]),
        ]
        # Results from before intervals were measured have tests instead.
        tests = {name: p < 0.05 for name, p in reported.get("p_values", {}).items()}
        matters = reported.get("matters", tests)
        edges.append(f"{sum(matters.values())} of {len(matters)}")
        lines.append(_line([name, *cells, *edges]))
    return "\n".join(lines) + "\n"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Train, measure and report what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for networks, surrogates and measurements")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--only", nargs="+", default=list(CASES), choices=list(CASES), help="rows to make")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    training, held_out = draw_strokes(_TRAINING, 0), draw_strokes(_HELD_OUT, 1)
    rows: dict[str, dict[str, Any]] = {}
    for case in chosen.only:
        rows[case] = measurements(case, training, held_out, chosen.work)
        report(rows, held_out, chosen.out)
    print((chosen.out / "architectures.md").read_text(encoding="utf-8"))


def report(rows: Mapping[str, Mapping[str, Any]], held_out: Strokes, out: Path) -> None:
    """Write the rows and their tables."""
    summary = {
        "options": to_record(OPTIONS),
        "versions": {"pellucid": pl.__version__, "torch": torch.__version__},
        "images": {"training": _TRAINING, "held_out": _HELD_OUT, "intervened": _INTERVENED},
        "morphometry_of_true_images": _ceiling(held_out),
        "rows": rows,
    }
    tables = [markdown(rows)]
    for kind, shown in (("drawn", "the reconstructions"), ("transferred", "residual transferred to the input image")):
        tables.append(f"Effects surrogate / truth, {shown}:\n\n{effects_markdown(rows, kind)}")
    write_atomically(out / "architectures.json", json.dumps(summary, indent=1).encode())
    write_atomically(out / "architectures.md", "\n".join(tables).encode())


if __name__ == "__main__":
    main()

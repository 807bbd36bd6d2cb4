"""Attribution against Captum: ratios of CPU time in one interleaved run, with the passes made and the fewest possible.

python -m benchmarks.attribution [--rounds 3] [--quick]

Writes benchmarks/results/attribution.md and attribution.json. One thread; images are random, which changes no cost.
"""

import argparse
import json
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import captum
import captum.attr as captum_attr
import torch
from torch import Tensor, nn

import pellucid as pl
from benchmarks.timing import Timing, interleaved
from benchmarks.torchvision_operators import declare_missing_operators
from pellucid.attribution import Explanation, Passes
from pellucid.classifiers import Classifier, LayerView

RESULTS = Path(__file__).parent / "results"
TARGETS = [1, 2, 3, 4]  # what a 2 x 2 grid asks for: n^2 classes of one image
RISE_MASKS = 256


@dataclass(frozen=True)
class Row:
    """One line of the table: a task, its rival, and what both cost."""

    network: str
    task: str
    layer: str
    rival: str
    ours: Timing
    theirs: Timing
    passes: Passes
    fewest: str

    @property
    def ratio(self) -> float:
        return self.theirs.median / self.ours.median


@dataclass(frozen=True)
class Contest:
    """Two ways to the same maps."""

    task: str
    rival: str
    ours: Callable[[], Explanation]
    theirs: Callable[[], object]
    fewest: str


def contests(classifier: Classifier, network: nn.Module, layer: str, images: Tensor, channels: bool) -> list[Contest]:
    """What is measured at one layer."""
    view = classifier.at(layer)
    module = network.get_submodule(view.layer)
    side = view.activation(images).shape[-1]
    window = max(1, side // 7)
    ig = pl.attribution.IntegratedGradients(steps=50)
    occlusion = pl.attribution.Occlusion(window=window, stride=window)
    rival_ig = captum_attr.LayerIntegratedGradients(network, module)
    windows = _window_mask(side, window)
    fewest_ig = "1 + 1 + 1" if view.is_affine else "1 + 50 + 50"
    fewest_occlusion = "1 + 1 + 1" if view.is_affine else f"1 + {1 + int(windows.max()) + 1} + 0"
    contests = [
        Contest(
            "IG, 50 steps", "Captum", lambda: ig(view, images, 1),
            lambda: rival_ig.attribute(images, target=1, n_steps=50), fewest_ig,
        ),
        Contest(
            "IG, 50 steps", "Captum, batches of 8", lambda: ig(view, images, 1),
            lambda: rival_ig.attribute(images, target=1, n_steps=50, internal_batch_size=8), fewest_ig,
        ),
        Contest(
            "IG, 50 steps, 4 targets", "Captum, batches of 8", lambda: ig(view, images, TARGETS),
            lambda: [
                rival_ig.attribute(images, target=t, n_steps=50, internal_batch_size=8) for t in TARGETS
            ],
            "1 + 1 + 4" if view.is_affine else "1 + 50 + 200",
        ),
        Contest(
            "Occlusion, 49 windows", "Captum, batches of 8", lambda: occlusion(view, images, 1),
            lambda: _ablate(network, module, images, windows, 1), fewest_occlusion,
        ),
        Contest(
            "Occlusion, 49 windows, 4 targets", "Captum, batches of 8", lambda: occlusion(view, images, TARGETS),
            lambda: [_ablate(network, module, images, windows, t) for t in TARGETS],
            "1 + 1 + 4" if view.is_affine else fewest_occlusion,
        ),
    ]  # fmt: skip
    if channels:
        contests += _final_contests(view, network, module, images)
    return contests


def _final_contests(view: LayerView, network: nn.Module, module: nn.Module, images: Tensor) -> list[Contest]:
    ablation, rise = pl.attribution.AblationCAM(), pl.attribution.RISE(masks=RISE_MASKS)
    activation = view.activation(images)
    each_channel = torch.arange(activation.shape[1])[None, :, None, None].expand(1, -1, *activation.shape[2:])
    cells = activation.shape[2] * activation.shape[3]
    return [
        Contest(
            f"Ablation-CAM, {activation.shape[1]} channels", "Captum, batches of 8",
            lambda: ablation(view, images, 1),
            lambda: _ablate(network, module, images, each_channel, 1), "1 + 1 + 1",
        ),
        Contest(
            f"RISE, {RISE_MASKS} masks, 4 targets", "full network with a hook, batches of 8",
            lambda: rise(view, images, TARGETS),
            lambda: _rise_with_a_hook(network, module, images, tuple(activation.shape[2:])), f"1 + {cells + 1} + 0",
        ),
    ]  # fmt: skip


def _window_mask(side: int, window: int) -> Tensor:
    cell = torch.arange(side) // window
    return (cell[:, None] * (int(cell[-1]) + 1) + cell[None, :])[None, None]


def _ablate(network: nn.Module, module: nn.Module, images: Tensor, mask: Tensor, target: int) -> object:
    rival = captum_attr.LayerFeatureAblation(network, module)
    return rival.attribute(images, target=target, layer_mask=mask, perturbations_per_eval=8)


def _rise_with_a_hook(network: nn.Module, module: nn.Module, images: Tensor, size: tuple[int, int]) -> Tensor:
    masks = pl.attribution.perturbation.rise_masks(RISE_MASKS, *size, cells=6, keep=0.1, seed=0)
    total = torch.zeros(len(TARGETS), *size)
    for indices in torch.arange(RISE_MASKS).split(8):
        chosen = masks[indices]
        handle = module.register_forward_hook(lambda _m, _i, out, chosen=chosen: out * chosen[:, None])
        try:
            with torch.no_grad():
                probabilities = network(images.expand(len(indices), -1, -1, -1)).softmax(1)[:, TARGETS]
        finally:
            handle.remove()
        total += torch.einsum("rt,rhw->thw", probabilities, chosen)
    return total / (RISE_MASKS * 0.1)


def measure(name: str, classifier: Classifier, network: nn.Module, rounds: int, quick: bool) -> list[Row]:
    """All contests on one network."""
    images = torch.randn(1, *classifier.input_shape, generator=torch.Generator().manual_seed(0))
    rows = []
    for layer in ("middle", "final"):
        for contest in contests(classifier, network, layer, images, channels=layer == "final" and not quick):
            timings = interleaved({"ours": contest.ours, "theirs": contest.theirs}, rounds)
            label = f"{layer} ({classifier.resolve(layer)})"
            passes = contest.ours().passes
            rows.append(
                Row(
                    name, contest.task, label, contest.rival, timings["ours"], timings["theirs"], passes, contest.fewest
                )
            )
            print(f"{name} {label} {contest.task} against {contest.rival}: x{rows[-1].ratio:.1f}", flush=True)
    return rows


def precision_table(module: nn.Module, name: str, rounds: int) -> list[str]:
    """Gain and error of channels-last memory and bfloat16: IG-20 at the input and the middle layer, batches of 8."""
    plain = Classifier(module, input_size=224)
    options = {
        "float32": plain,
        "channels last": Classifier(module, input_size=224, channels_last=True),
        "bfloat16": Classifier(module, input_size=224, autocast=torch.bfloat16),
        "bfloat16, channels last": Classifier(module, input_size=224, autocast=torch.bfloat16, channels_last=True),
    }
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    method = pl.attribution.IntegratedGradients(steps=20, max_batch=8)
    lines = []
    for layer in ("input", "middle"):
        runs = {label: partial(method, classifier.at(layer), images, 1) for label, classifier in options.items()}
        timings = interleaved(runs, rounds)
        expected = runs["float32"]().values.flatten()
        for label, run in runs.items():
            values = run().values.flatten()
            cosine = float(torch.nn.functional.cosine_similarity(values, expected, dim=0))
            gain = timings["float32"].median / timings[label].median
            error = float((values - expected).abs().max() / expected.abs().max())
            lines.append(f"| {name} | {layer} | {label} | x{gain:.2f} | {cosine:.4f} | {error:.1e} |")
    return lines


def report(rows: list[Row], precision: list[str]) -> str:
    """The table as Markdown."""
    head = [
        "# Attribution against Captum",
        "",
        f"One image, CPU time on one thread, medians of interleaved runs; torch {torch.__version__}, captum "
        f"{captum.__version__}, {platform.machine()}. Ratio: rival / pellucid. Passes: rows through prefix forward + "
        "suffix forward + suffix backward, made and fewest possible for the result; pellucid's IG makes two more "
        "forwards (the score and the baseline's) to report the completeness gap.",
        "",
        "| network | layer | task | rival | rival s | pellucid s | ratio | passes made | fewest |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    body = [
        f"| {r.network} | {r.layer} | {r.task} | {r.rival} | {r.theirs.median:.3f} | {r.ours.median:.4f} "
        f"| **x{r.ratio:.1f}** | {r.passes.prefix_forward} + {r.passes.suffix_forward} + {r.passes.suffix_backward} "
        f"| {r.fewest} |"
        for r in rows
    ]
    tail = [
        "",
        "## Options: mixed precision and memory order",
        "",
        "IG with 20 steps in batches of 8, against pellucid's own default (float32, contiguous).",
        "",
        "| network | layer | option | gain | cosine to float32 map | largest error / largest value |",
        "|---|---|---|---|---|---|",
        *precision,
        "",
    ]
    return "\n".join([*head, *body, *tail])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="leave out the slowest rivals")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    declare_missing_operators()
    rows: list[Row] = []
    precision: list[str] = []
    for name in ("efficientnet_lite0", "torchvision:resnet18"):
        classifier = pl.load(name, weights="random" if name.startswith("torchvision") else None)
        network = classifier.module  # the very module that is explained, so that both sides run the same weights
        rows += measure(name.removeprefix("torchvision:"), classifier, network, arguments.rounds, arguments.quick)
        precision += precision_table(network, name.removeprefix("torchvision:"), arguments.rounds)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "attribution.md").write_text(report(rows, precision))
    rounded = [{**asdict(row), "ratio": row.ratio} for row in rows]
    (RESULTS / "attribution.json").write_text(json.dumps(rounded, indent=1))
    print(report(rows, precision))


if __name__ == "__main__":
    main()

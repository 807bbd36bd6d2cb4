"""Grid evaluation against the straightforward way: a call per target and head, the full network each time.

python -m benchmarks.evaluation [--rounds 2]

Writes benchmarks/results/evaluation.md. One thread, CPU time, the contenders take turns in one
process. The maps of both sides are compared before anything is timed. Images are those of scikit-image.
"""

import argparse
import gc
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import captum
import torch
from torch import Tensor, nn

import pellucid as pl
from benchmarks.evaluation.rivals import (
    BATCH,
    CELLS,
    KEEP,
    MASKS,
    STEPS,
    Place,
    Straightforward,
    cam,
    integrated_gradients,
    occlusion,
    rise,
    window_masks,
)
from benchmarks.timing import Timing
from benchmarks.torchvision_operators import declare_missing_operators
from pellucid.attribution import Method, Passes, explain, occlusion_windows, rise_masks
from pellucid.classifiers import Classifier
from pellucid.evaluation import Candidate, GridSet, join_cells, localize, split_cells
from pellucid.evaluation.metrics import grid_controls
from pellucid.evaluation.sweep import grid_targets

RESULTS = Path(__file__).parents[1] / "results"
OURS_MASKS, THEIR_MASKS = 64, 12  # of the masks and windows, so many are timed where all would take minutes
TOLERANCE = 1e-4


@dataclass
class Row:
    """One line of the table."""

    place: Place
    layer: str
    task: str
    ours: Timing
    theirs: Timing
    our_share: float
    their_share: float
    passes: Passes
    fewest: str
    rivals_passes: str
    error: float = field(default=0.0)

    @property
    def seconds(self) -> tuple[float, float]:
        """Per grid, ours and theirs."""
        return self.ours.median / self.our_share, self.theirs.median / self.their_share

    @property
    def ratio(self) -> float:
        return self.seconds[1] / self.seconds[0]


@dataclass(frozen=True)
class Contest:
    """A method, its rival for one target, and how they are timed: all of it, or a stated part."""

    task: str
    method: Method
    rival: Callable[[Place, int], Tensor]
    timed_method: Method
    timed_rival: Callable[[Place, int], Tensor]
    our_share: float = 1
    their_share: float = 1  # of one target


def contests(place: Place, layer: str) -> list[Contest]:
    """What is measured; maps are compared with cheaper options than the methods are timed with."""
    methods, side = pl.attribution, place.size[0]
    windows, coarse, wide = _count(side, 5, 2), max(1, side // 4), layer == "middle" and not place.in_difull
    masks = MASKS if layer == "final" else OURS_MASKS
    nothing = place.view.activation(torch.zeros_like(place.image)).as_subclass(Tensor)
    return [
        Contest("Grad-CAM", methods.GradCAM(), cam, methods.GradCAM(), cam),
        Contest(
            f"IntGrad, {STEPS} steps",
            methods.IntegratedGradients(steps=4, baseline=nothing), partial(integrated_gradients, steps=4),
            methods.IntegratedGradients(steps=STEPS), integrated_gradients,
        ),
        Contest(
            f"Occlusion, {windows} windows",
            methods.Occlusion(window=2 * coarse, stride=coarse), partial(occlusion, window=2 * coarse, stride=coarse),
            methods.Occlusion(stride=5 if wide else 2), partial(occlusion, most=THEIR_MASKS),
            _count(side, 5, 5) / windows if wide else 1, THEIR_MASKS / windows,
        ),
        Contest(
            f"RISE, {MASKS} masks",
            methods.RISE(masks=8), partial(rise, count=8),
            methods.RISE(masks=masks), partial(rise, most=THEIR_MASKS), masks / MASKS, THEIR_MASKS / MASKS,
        ),
    ]  # fmt: skip


def _count(side: int, window: int, stride: int) -> int:
    return len(occlusion_windows(side, window, stride)) ** 2


def measure(place: Place, layer: str, contest: Contest, rounds: int) -> Row:
    """Compare the maps of both sides, then let them take turns: the rival, ours, the rival, ..."""
    values = contest.method(place.view, place.image, place.targets).values[0, -1]
    expected = contest.rival(place, len(place.targets) - 1)
    error = float((values - expected).abs().max() / expected.abs().max())
    if error > TOLERANCE:
        raise SystemExit(f"{place.network} {place.label} {layer} {contest.task}: maps differ by {error:.1e}")
    theirs, ours = [_seconds(lambda: contest.timed_rival(place, 0))], []
    for _ in range(rounds):
        started = time.process_time()
        passes = contest.timed_method(place.view, place.image, place.targets).passes
        ours.append(time.process_time() - started)
        theirs.append(_seconds(lambda: contest.timed_rival(place, 0)))
        if ours[0] + theirs[0] > 4:  # long runs do not need many
            break
    share = contest.their_share / len(place.targets)
    return Row(
        place, layer, contest.task, Timing(tuple(ours)), Timing(tuple(theirs)), contest.our_share, share, passes,
        fewest(place, contest.task), rivals_passes(place, contest.task), error,
    )  # fmt: skip


def _seconds(run: Callable[[], object]) -> float:
    gc.collect()
    started = time.process_time()
    run()
    return time.process_time() - started


# --- Counts of cells: through the prefix + through the suffix + back


def fewest(place: Place, task: str) -> str:
    """What cannot be avoided without looking into the network: every cell that is not yet known, once."""
    heads, affine = len(place.targets), place.view.is_affine
    prefix, one = (heads, heads) if place.in_difull else (CELLS, CELLS)
    back = heads if place.in_difull else CELLS * heads
    if task.startswith("Grad-CAM"):
        return f"{CELLS} + {one} + {back}"  # the map shows the other cells' activation too
    if affine and not task.startswith("RISE"):
        return f"{prefix} + {one} + {back}"
    if task.startswith("IntGrad"):
        return f"{prefix} + {STEPS * one} + {STEPS * back}"
    height, width = place.size
    if affine:  # one position after the other, and nothing
        return f"{prefix} + {height * width * (heads if place.in_difull else CELLS * CELLS) // CELLS + one}"
    if task.startswith("RISE"):
        masks = rise_masks(MASKS, height, width, cells=6, keep=KEEP, seed=0)[torch.arange(MASKS)]
    else:
        masks = 1 - torch.cat(list(window_masks(place.size, 5, 2)))
    if not place.in_difull:
        return f"{prefix} + {CELLS * _distinct(masks)}"
    cells = split_cells(masks[:, None])[:, [0, -1]].unbind(1)
    return f"{prefix} + {sum(_distinct(cell) for cell in cells)}"


def _distinct(masks: Tensor) -> int:
    """How many masks differ, and the whole that drops are taken from."""
    return len(masks.flatten(1).unique(dim=0))


def rivals_passes(place: Place, task: str) -> str:
    """Targets x calls x cells; both parts of the network, and back."""
    kind, _, number = task.partition(", ")
    calls = int(number.split()[0]) if number else 1
    suffix = 1 if place.in_difull else CELLS
    times = len(place.targets) * calls
    back = f" + {times * suffix}" if kind in ("Grad-CAM", "IntGrad") else ""
    return f"{times * CELLS} + {times * suffix}{back}"


# --- Networks and images


def parts_of(network: nn.Module) -> dict[str, nn.Module]:
    """The network as a sequence, with what is functional in its forward."""
    parts: dict[str, nn.Module] = {}
    for name, part in network.named_children():
        if name == "fc":
            parts["flatten"] = nn.Flatten()
        inner = part.named_children() if name == "blocks" else [("", part)]
        parts |= {f"{name}.{own}".rstrip("."): module for own, module in inner}
    return parts


def grid_image(classifier: Classifier) -> Tensor:
    """(1, 3, 448, 448)."""
    from PIL import Image
    from skimage import data

    images = [Image.fromarray(draw()) for draw in (data.astronaut, data.chelsea, data.coffee, data.rocket)]
    return join_cells(classifier.read(images)[None])


def places(name: str, classifier: Classifier, layer: str) -> list[Place]:
    """GridPG with all four cells' classes, DiFull with those of its two corners."""
    image = grid_image(classifier)
    with torch.no_grad():
        classes = classifier.logits(split_cells(image)[0]).topk(CELLS).indices.tolist()
    distinct = list(dict.fromkeys(one for row in classes for one in row))[:CELLS]
    parts = parts_of(classifier.module)
    after = list(parts).index(classifier.resolve(layer)) + 1
    modules = list(parts.values())
    result: list[Place] = []
    for setting, targets in (
        (pl.evaluation.GridPG, distinct),
        (pl.evaluation.DiFull, [(0, distinct[0]), (3, distinct[0])]),
    ):
        view = setting(classifier).at(layer)
        height, width = view.activation(image).shape[2:]
        heads = [target[0] if isinstance(target, tuple) else None for target in targets]
        models = [Straightforward(modules, after, head).eval() for head in heads]
        result.append(Place(name, view, image, targets, models, (height, width)))
    return result


def unit_costs(place: Place) -> str:
    """Milliseconds of a row (one window or mask): the rival's full forward, and the part after the layer alone."""
    rows = 1 if place.in_difull else CELLS
    view = place.view.select_heads([0]) if place.in_difull else place.view
    activation = view.activation(place.image)
    changed = activation.repeat(16 // rows, 1, 1, 1) + 1.0  # everywhere, so that every cell is run
    side_inputs = activation.side_inputs.rows(torch.zeros(len(changed), dtype=torch.long))
    with torch.no_grad():
        whole = [_seconds(lambda: place.models[0](place.image.expand(BATCH, -1, -1, -1))) for _ in range(4)]
        after = [_seconds(lambda: view.logits(changed, side_inputs)) for _ in range(4)]
    shared = 1 if place.in_difull else len(place.targets)
    theirs = 1000 * Timing(tuple(whole[1:])).median / BATCH
    ours = 1000 * Timing(tuple(after[1:])).median / len(changed)
    return (
        f"| {place.network} | {view.layer} | {place.label} | {theirs:.0f} | {ours:.1f} "
        f"| {shared} | x{shared * theirs / ours:.1f} |"
    )


_HEAD = """# Grid evaluation against the straightforward way

One 2 x 2 grid of 224 px cells, CPU time on one thread; {versions}.

pellucid: one call for all targets (GridPG 4 classes, DiFull 2 corners), as the sweep makes it. Rival: a call per target
and head, the full network each time: Captum's LayerGradCam and LayerIntegratedGradients (batches of {batch} grids),
full forwards with a hook for Occlusion and RISE. In DiFull the rival runs the part before the layer cell by cell for every row. Both run batches of 16 cells.

**Not everything is timed in full.** The rival is timed on one target and multiplied by the targets, and its Occlusion
and RISE on {theirs} windows or masks and scaled linearly. At the middle layer pellucid's RISE is timed on {ours} of
{masks} masks, and its Occlusion in GridPG with stride 5 (fewer windows of the same cost), both scaled linearly, the
pass before the layer with them. All else of pellucid is timed in full.

*Error*: largest difference of both sides' maps of the last target over the largest value, asserted below {tolerance:g}
before anything is timed; there Occlusion has larger windows, RISE 8 masks and IntGrad 4 steps from the activation of
the zero image, which is Captum's baseline (pellucid's own is zero activation).

Passes are counted in cells: through the part before the layer + the part after it + back. *Fewest*: every cell that is
not yet known, once. pellucid's others are the score itself and the baseline's, for the completeness gap, and cells
before the layer that no head reads: other methods and the controls do. *Shared targets*: the ratio to a rival that
takes all targets from one forward.

| network | layer | setting | method | rival, grids/h | pellucid, grids/h | ratio | shared targets | passes made | fewest | rival's | error |
|---|---|---|---|---|---|---|---|---|---|---|---|
"""  # noqa: E501

_LIMIT = """
## Where the limit is

For as many windows or masks: what a row (one window or mask) costs the rival, one full forward for every target, and
the part after the layer, which GridPG runs once for all targets; in DiFull every head has a cell of its own, and the
rival also runs all cells up to the layer. The last column is what pure structure gives: without closed forms (at a
layer followed by pooling and a linear layer they need no row, or one for each position), and without leaving out cells
that a window or mask leaves unchanged or empty. Both come on top. At an inner layer nothing below that is exact but
recomputing a window's receptive field alone. DiFull's RISE and Occlusion cost more per cell than the table's: a batch
of 8 grids and 2 heads holds fewer than 16 cells that must be run, and with one thread torch convolves batches of fewer
than 16 rows by a slower routine. A larger max_batch fills them, at the price of memory.

| network | layer | setting | rival, ms/row | pellucid, ms/row | targets from one row | limit |
|---|---|---|---|---|---|---|
"""


def report(rows: list[Row], sweeps: list[str], costs: list[str]) -> str:
    """The tables as Markdown."""
    versions = f"torch {torch.__version__}, captum {captum.__version__}, {platform.machine()}"
    head = _HEAD.format(
        versions=versions, batch=BATCH, theirs=THEIR_MASKS, ours=OURS_MASKS, masks=MASKS, tolerance=TOLERANCE
    )
    return head + "\n".join([*map(_line, rows), *sweeps, _LIMIT]) + "\n".join([*costs, ""])


def _line(row: Row) -> str:
    ours, theirs = row.seconds
    perturbs = row.task.startswith(("Occlusion", "RISE")) and not row.place.in_difull
    shared = f"x{row.ratio / len(row.place.targets):.1f}" if perturbs else ""
    return (
        f"| {row.place.network} | {row.layer} | {row.place.label} | {row.task} | {3600 / theirs:.1f} "
        f"| {3600 / ours:.0f} | **x{row.ratio:.1f}** | {shared} | {_passes(row)} | {row.fewest} "
        f"| {row.rivals_passes} | {row.error:.0e} |"
    )


def sweep_line(place: Place, layer: str, rows: list[Row]) -> str:
    """All methods and five controls at once, as a sweep runs them: passes are shared, and the maps are scored."""
    labels = [place.classes[0], *([-1, -2] if place.in_difull else place.classes[1:-1]), place.classes[-1]]
    cells = tuple(Candidate(label, str(index)) for index, label in enumerate(labels))
    grids = GridSet((2, 2), place.in_difull, 0, (cells,))
    methods = [contest.timed_method for contest in contests(place, layer)]
    methods += grid_controls(grids.grid, grids.evaluated_cells, 0)
    targets = grid_targets(grids, range(1), single_head=not place.in_difull)
    size = (place.image.shape[2], place.image.shape[3])

    def run() -> None:
        for explanation in explain(place.view, place.image, targets, methods):
            localize(explanation.values.flatten(0, 1), grids.grid, size)

    times = [_seconds(run) for _ in range(4)]
    ours, theirs = Timing(tuple(times[1:])).median, sum(row.seconds[1] for row in rows)
    return (
        f"| {place.network} | {layer} | {place.label} | all four, scored, with five controls | {3600 / theirs:.1f} "
        f"| {3600 / ours:.0f} | **x{theirs / ours:.1f}** | | | | | |"
    )


def _passes(row: Row) -> str:
    passes, share = row.passes, row.our_share
    suffix = round(passes.suffix_forward / share)
    about = "about " if share < 1 else ""
    back = f" + {passes.suffix_backward}" if passes.suffix_backward else ""
    return f"{passes.prefix_forward} + {about}{suffix}{back}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    declare_missing_operators()
    RESULTS.mkdir(exist_ok=True)
    rows: list[Row] = []
    sweeps: list[str] = []
    costs: list[str] = []
    for name in ("efficientnet_lite0", "torchvision:resnet18"):
        classifier = pl.load(name, weights="random" if name.startswith("torchvision") else None)
        for layer in ("final", "middle"):
            for place in places(name.removeprefix("torchvision:"), classifier, layer):
                new_rows = []
                for contest in contests(place, layer):
                    new_rows.append(measure(place, layer, contest, arguments.rounds))
                    print(
                        f"{place.network} {layer} {place.label} {contest.task}: x{new_rows[-1].ratio:.1f}", flush=True
                    )
                rows += new_rows
                RESULTS.joinpath("evaluation.md").write_text(report(rows, sweeps, costs))  # what there is, if stopped
                if layer == "final":
                    sweeps.append(sweep_line(place, layer, new_rows))
                else:
                    costs.append(unit_costs(place))
    RESULTS.joinpath("evaluation.md").write_text(report(rows, sweeps, costs))
    print(report(rows, sweeps, costs))


if __name__ == "__main__":
    main()

"""Counterfactuals of digits: ours, StylEx's attribute search and two plain latent baselines on the same generator.

python -m experiments.surrogate.counterfactuals --data DIR --work DIR

Every picture is to become the runner-up of its class. `--work` is that of `train_digits`.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import pellucid as pl
from experiments.surrogate.digits import TRAINING, Digits, digit_classifier, load_digits
from experiments.surrogate.train_digits import RESULTS
from pellucid.storage import write_atomically
from pellucid.surrogate import Codes, TwinSurrogate, load
from pellucid.surrogate.explain.attfind import attfind
from pellucid.surrogate.explain.encoded_batch import Painting
from pellucid.surrogate.explain.minimal_counterfactual import flip
from pellucid.surrogate.explain.stylespace import StyleSpace

__all__ = ["Changed", "judged", "main"]

_PICTURES = 200
_NEIGHBOURS = 10
_TOP = 5  # coordinates that StylEx sets together
_STEPS, _RATE = 60, 0.1  # of the plain latent descent, as in ours
_WALK = 16  # places on the way to a real picture of the other class
_MOVED = 0.3  # standard deviations from which a coordinate counts as moved


@dataclass(frozen=True)
class Changed:
    """What a method makes of pictures.

    Attributes:
        drawn: (N, C, H, W) as the generator draws them.
        codes: of the counterfactuals, where they are codes; else None.
        coordinates: (N,) how many coordinates were moved.
        passes: pictures drawn, per picture explained.
        seconds: per picture explained.
    """

    drawn: Tensor
    codes: Codes | None
    coordinates: Tensor
    passes: float
    seconds: float


class _Drawn:
    """Counts the pictures that a generator draws, and the time."""

    def __init__(self) -> None:
        self.pictures, self._since = 0, time.perf_counter()

    def hook(self, module: Any, inputs: Any, output: Tensor) -> None:
        self.pictures += len(output)

    def cost(self, pictures: int) -> tuple[float, float]:
        return self.pictures / pictures, (time.perf_counter() - self._since) / pictures


@contextmanager
def _counted(twin: TwinSurrogate) -> Iterator[_Drawn]:
    counter = _Drawn()
    handle = twin.networks.generator.register_forward_hook(counter.hook)
    try:
        yield counter
    finally:
        handle.remove()


def ours(twin: TwinSurrogate, painting: Painting, targets: Tensor, known: Codes) -> Changed:
    """The smallest and sparsest change of concepts."""
    with _counted(twin) as counter:
        found = flip(painting, targets, known)
        cost = counter.cost(len(painting))
    return Changed(found.raw, found.codes, found.moved, *cost)


def plain_descent(
    twin: TwinSurrogate, painting: Painting, targets: Tensor, known: Codes, *, transferred: bool
) -> Changed:
    """Descent on the target's cross entropy over the whole code; each picture stops where it flips.

    What must flip is the picture as drawn, or the given one with the change transferred.
    """
    codes = painting.codes.joined()
    scale = known.joined().std(0)
    change = torch.zeros_like(codes, requires_grad=True)
    adam = torch.optim.Adam([change], _RATE)
    left = torch.ones(len(codes), dtype=torch.bool)
    best = codes.clone()
    with _counted(twin) as counter:
        for _ in range(_STEPS):
            moved = codes + change * scale
            drawn = twin.decode(twin.networks.codes(moved))
            logits = twin.logits(painting.transferred(drawn) if transferred else drawn)
            hit = left & (logits.argmax(1) == targets)
            best[left] = moved.detach()[left]
            left &= ~hit
            change.grad = torch.autograd.grad(F.cross_entropy(logits, targets, reduction="none").sum(), change)[0]
            adam.step()
        cost = counter.cost(len(codes))
    return _of_codes(twin, painting, best, scale, cost)


def towards_real(twin: TwinSurrogate, painting: Painting, targets: Tensor, known: Codes, classes: Tensor) -> Changed:
    """On a straight line to the nearest real picture's context and latents of the target class, until it flips."""
    scale = known.joined().std(0)
    codes, goal = painting.codes.joined(), painting.codes.joined().clone()
    for row, target in enumerate(targets.tolist()):
        others = known.joined()[classes == target]
        concepts = painting.codes.concepts().shape[1]
        far = ((others - codes[row]) / scale)[:, :concepts].square().sum(1)
        goal[row, :concepts] = others[far.argmin(), :concepts]
    best, left = goal.clone(), torch.ones(len(codes), dtype=torch.bool)
    with _counted(twin) as counter, torch.no_grad():
        for share in torch.linspace(0, 1, _WALK + 1)[1:].tolist():
            moved = codes + share * (goal - codes)
            hit = left & (twin.logits(twin.decode(twin.networks.codes(moved))).argmax(1) == targets)
            best[hit] = moved[hit]
            left &= ~hit
        cost = counter.cost(len(codes))
    return _of_codes(twin, painting, best, scale, cost)


def stylex(twin: TwinSurrogate, painting: Painting, targets: Tensor, known: Codes, *, styles: bool) -> Changed:
    """AttFind's independent selection: each picture's best coordinates set to their extremes over the data."""
    space = StyleSpace(twin.networks.generator)
    joined = painting.codes.joined()
    concepts = painting.codes.concepts().shape[1]
    own = space.coordinates(joined) if styles else joined[:, :concepts]
    seen = space.coordinates(known.joined()) if styles else known.concepts()
    drawn, moved = torch.empty_like(painting.pictures), torch.full((len(joined),), _TOP)
    codes = joined.clone()
    with _counted(twin) as counter:
        for target in targets.unique().tolist():
            rows = (targets == target).nonzero()[:, 0]

            def draw(coordinates: Tensor, at: Tensor, rows: Tensor = rows) -> Tensor:
                mine = joined[rows[at]]
                if styles:
                    return twin.space.back(space.draw(coordinates, mine))
                return twin.decode(twin.networks.codes(torch.cat([coordinates, mine[:, concepts:]], 1)))

            found = attfind(draw, twin.logits, own[rows], seen.amin(0), seen.amax(0), target, top=_TOP)
            with torch.no_grad():
                drawn[rows] = draw(found.changed, torch.arange(len(rows)))
            if not styles:
                codes[rows, :concepts] = found.changed
        cost = counter.cost(len(joined))
    return Changed(drawn, None if styles else twin.networks.codes(codes), moved, *cost)


def _of_codes(
    twin: TwinSurrogate, painting: Painting, best: Tensor, scale: Tensor, cost: tuple[float, float]
) -> Changed:
    codes = twin.networks.codes(best)
    moved = (((best - painting.codes.joined()) / scale).abs() > _MOVED).sum(1)
    return Changed(painting.drawn(codes), codes, moved, *cost)


def judged(
    twin: TwinSurrogate, other: pl.Classifier, painting: Painting, targets: Tensor, real: Digits, changed: Changed
) -> dict[str, float]:
    """Validity, proximity, sparsity and plausibility, of pictures with the change transferred to the real ones.

    Returns:
        `valid`, `raw_valid`: share that the classifier gives the target, transferred and as drawn;
        `followed`: share that another network, trained apart, gives the target too; `pixels`: mean absolute change in
        [0, 1]; `coordinates`: mean number moved; `typical`: median share of real pictures that lie further from real
        pictures of their class than the counterfactual does from those of the target, in the other network's features;
        `passes`, `seconds`: per picture.
    """
    shown = painting.transferred(changed.drawn)
    with torch.no_grad():
        said, raw, theirs = twin.logits(shown), twin.logits(changed.drawn), other.logits(shown)
    return {
        "valid": float((said.argmax(1) == targets).float().mean()),
        "raw_valid": float((raw.argmax(1) == targets).float().mean()),
        "followed": float((theirs.argmax(1) == targets).float().mean()),
        "pixels": float((shown - painting.pictures).abs().mean() / 2),
        "coordinates": float(changed.coordinates.float().mean()),
        "typical": float(_typical(other, shown, targets, real).median()),
        "passes": changed.passes,
        "seconds": changed.seconds,
    }


def _typical(other: pl.Classifier, shown: Tensor, targets: Tensor, real: Digits) -> Tensor:
    view = other.at("final")
    with torch.no_grad():
        known, found = (view.activation(pictures).flatten(1) for pictures in (real.pictures, shown))
    shares = []
    for row, target in enumerate(targets.tolist()):
        mine = known[real.labels == target]
        own = torch.cdist(mine, mine).kthvalue(_NEIGHBOURS + 1, dim=1).values
        here = torch.cdist(found[row : row + 1], mine).kthvalue(_NEIGHBOURS, dim=1).values
        shares.append((own > here).float().mean())
    return torch.stack(shares)


def main() -> None:
    """Run all methods on the same pictures and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with morphomnist_ti")
    parser.add_argument("--work", type=Path, required=True, help="that of train_digits")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    digits = load_digits(chosen.data, chosen.work)
    training, held_out = digits.rows(0, TRAINING), digits.rows(TRAINING)
    twin = load(chosen.work / "twin", classifier=digit_classifier(training, chosen.work))
    other = digit_classifier(training, chosen.work, seed=1)
    painting = twin.paint(held_out.pictures[:_PICTURES])
    targets = painting.logits.topk(2).indices[:, 1]
    reference = training.rows(0, 2000)
    known = twin.encode(reference.pictures)
    methods: dict[str, Callable[[], Changed]] = {
        "ours": lambda: ours(twin, painting, targets, known),
        "StylEx, concepts": lambda: stylex(twin, painting, targets, known, styles=False),
        "StylEx, StyleSpace": lambda: stylex(twin, painting, targets, known, styles=True),
        "plain latent descent": lambda: plain_descent(twin, painting, targets, known, transferred=False),
        "the same, transferred": lambda: plain_descent(twin, painting, targets, known, transferred=True),
        "towards a real digit": lambda: towards_real(twin, painting, targets, known, reference.labels),
    }
    results: dict[str, Any] = {"steps": twin.steps, "pictures": _PICTURES, "top": _TOP, "methods": {}}
    for name, run in methods.items():
        results["methods"][name] = judged(twin, other, painting, targets, reference, run())
        print(name, {key: round(value, 3) for key, value in results["methods"][name].items()}, flush=True)
    write_atomically(RESULTS / "counterfactuals.json", json.dumps(results, indent=1).encode())


if __name__ == "__main__":
    main()

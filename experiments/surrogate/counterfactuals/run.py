"""Counterfactuals of digits: ours, StylEx's attribute search and two plain latent baselines on the same generator.

python -m experiments.surrogate.counterfactuals.run --data DIR --work DIR

Every image is to become the runner-up of its class. `--work` is that of `train_digits`.
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
from experiments.surrogate.digits.data import TRAINING, Digits, digit_classifier, load_digits
from experiments.surrogate.digits.train import RESULTS
from experiments.surrogate.rivals.attfind import attfind
from experiments.surrogate.rivals.stylespace import StyleSpace
from pellucid.storage import write_atomically
from pellucid.surrogate import Codes, EncodedBatch, ReferenceSet, SurrogateExplainer, find_minimal_counterfactual, load

_IMAGES = 200
_NEIGHBORS = 10
_TOP = 5  # coordinates that StylEx sets together
_STEPS, _RATE = 60, 0.1  # of the plain latent descent, as in ours
_WALK = 16  # places on the way to a real image of the other class
_MOVED = 0.3  # standard deviations from which a coordinate counts as moved


@dataclass(frozen=True)
class Changed:
    """What a method makes of images.

    Attributes:
        drawn: (N, C, H, W) as the generator draws them.
        codes: of the counterfactuals, where they are codes; else None.
        coordinates: (N,) how many coordinates were moved.
        passes: images drawn, per image explained.
        seconds: per image explained.
    """

    drawn: Tensor
    codes: Codes | None
    coordinates: Tensor
    passes: float
    seconds: float


class _Drawn:
    """Counts the images that a generator draws, and the time."""

    def __init__(self) -> None:
        self.images, self._since = 0, time.perf_counter()

    def hook(self, module: Any, inputs: Any, output: Tensor) -> None:
        self.images += len(output)

    def cost(self, images: int) -> tuple[float, float]:
        return self.images / images, (time.perf_counter() - self._since) / images


@contextmanager
def _counted(explainer: SurrogateExplainer) -> Iterator[_Drawn]:
    counter = _Drawn()
    handle = explainer.surrogate.networks.generator.register_forward_hook(counter.hook)
    try:
        yield counter
    finally:
        handle.remove()


def ours(explainer: SurrogateExplainer, batch: EncodedBatch, targets: Tensor, known: ReferenceSet) -> Changed:
    """The smallest and sparsest change of concepts."""
    with _counted(explainer) as counter:
        result = find_minimal_counterfactual(batch, targets, known)
        cost = counter.cost(len(batch))
    return Changed(result.images, result.codes, result.moved, *cost)


def plain_descent(
    explainer: SurrogateExplainer, batch: EncodedBatch, targets: Tensor, known: Codes, *, transferred: bool
) -> Changed:
    """Descent on the target's cross entropy over the whole code; each image stops where it flips.

    What must flip is the image as drawn, or the given one with the change transferred.
    """
    codes = batch.codes.to_vector()
    scale = known.to_vector().std(0)
    change = torch.zeros_like(codes, requires_grad=True)
    adam = torch.optim.Adam([change], _RATE)
    left = torch.ones(len(codes), dtype=torch.bool)
    best = codes.clone()
    with _counted(explainer) as counter:
        for _ in range(_STEPS):
            moved = codes + change * scale
            drawn = explainer.decode(split_codes(moved, known))
            logits = explainer.logits(batch.apply_residual(drawn) if transferred else drawn)
            hit = left & (logits.argmax(1) == targets)
            best[left] = moved.detach()[left]
            left &= ~hit
            change.grad = torch.autograd.grad(F.cross_entropy(logits, targets, reduction="none").sum(), change)[0]
            adam.step()
        cost = counter.cost(len(codes))
    return _of_codes(explainer, batch, best, scale, cost)


def towards_real(
    explainer: SurrogateExplainer, batch: EncodedBatch, targets: Tensor, known: Codes, classes: Tensor
) -> Changed:
    """On a straight line to the nearest real image's context and latents of the target class, until it flips."""
    scale = known.to_vector().std(0)
    codes, goal = batch.codes.to_vector(), batch.codes.to_vector().clone()
    for row, target in enumerate(targets.tolist()):
        others = known.to_vector()[classes == target]
        concepts = batch.codes.concept_coordinates().shape[1]
        far = ((others - codes[row]) / scale)[:, :concepts].square().sum(1)
        goal[row, :concepts] = others[far.argmin(), :concepts]
    best, left = goal.clone(), torch.ones(len(codes), dtype=torch.bool)
    with _counted(explainer) as counter, torch.no_grad():
        for share in torch.linspace(0, 1, _WALK + 1)[1:].tolist():
            moved = codes + share * (goal - codes)
            hit = left & (explainer.logits(explainer.decode(split_codes(moved, known))).argmax(1) == targets)
            best[hit] = moved[hit]
            left &= ~hit
        cost = counter.cost(len(codes))
    return _of_codes(explainer, batch, best, scale, cost)


def stylex(
    explainer: SurrogateExplainer, batch: EncodedBatch, targets: Tensor, known: Codes, *, styles: bool
) -> Changed:
    """AttFind's independent selection: each image's best coordinates set to their extremes over the data."""
    space = StyleSpace(explainer.surrogate.networks.generator)
    joined = batch.codes.to_vector()
    concepts = batch.codes.concept_coordinates().shape[1]
    own = space.coordinates(joined) if styles else joined[:, :concepts]
    seen = space.coordinates(known.to_vector()) if styles else known.concept_coordinates()
    drawn, moved = torch.empty_like(batch.images), torch.full((len(joined),), _TOP)
    codes = joined.clone()
    with _counted(explainer) as counter:
        for target in targets.unique().tolist():
            rows = (targets == target).nonzero()[:, 0]

            def draw(coordinates: Tensor, at: Tensor, rows: Tensor = rows) -> Tensor:
                mine = joined[rows[at]]
                if styles:
                    return explainer.surrogate.space.from_display(space.draw(coordinates, mine))
                return explainer.decode(split_codes(torch.cat([coordinates, mine[:, concepts:]], 1), known))

            result = attfind(draw, explainer.logits, own[rows], seen.amin(0), seen.amax(0), target, top=_TOP)
            with torch.no_grad():
                drawn[rows] = draw(result.changed, torch.arange(len(rows)))
            if not styles:
                codes[rows, :concepts] = result.changed
        cost = counter.cost(len(joined))
    return Changed(drawn, None if styles else split_codes(codes, known), moved, *cost)


def split_codes(vector: Tensor, like: Codes) -> Codes:
    """The blocks of vectors (N, D) as codes have them."""
    return Codes(*torch.split(vector, [like.context.shape[1], like.latent.shape[1], like.nuisance.shape[1]], dim=1))


def _of_codes(
    explainer: SurrogateExplainer, batch: EncodedBatch, best: Tensor, scale: Tensor, cost: tuple[float, float]
) -> Changed:
    codes = split_codes(best, batch.codes)
    moved = (((best - batch.codes.to_vector()) / scale).abs() > _MOVED).sum(1)
    return Changed(batch.decode(codes), codes, moved, *cost)


def evaluate(
    explainer: SurrogateExplainer,
    other: pl.Classifier,
    batch: EncodedBatch,
    targets: Tensor,
    real: Digits,
    changed: Changed,
) -> dict[str, float]:
    """Validity, proximity, sparsity and plausibility, of images with the change transferred to the real ones.

    Returns:
        `valid`, `raw_valid`: share that the classifier gives the target, transferred and as drawn;
        `followed`: share that another network, trained apart, gives the target too; `pixels`: mean absolute change in
        [0, 1]; `coordinates`: mean number moved; `typical`: median share of real images that lie further from real
        images of their class than the counterfactual does from those of the target, in the other network's features;
        `passes`, `seconds`: per image.
    """
    shown = batch.apply_residual(changed.drawn)
    with torch.no_grad():
        predicted, raw, theirs = explainer.logits(shown), explainer.logits(changed.drawn), other.logits(shown)
    return {
        "valid": float((predicted.argmax(1) == targets).float().mean()),
        "raw_valid": float((raw.argmax(1) == targets).float().mean()),
        "followed": float((theirs.argmax(1) == targets).float().mean()),
        "pixels": float((shown - batch.images).abs().mean() / 2),
        "coordinates": float(changed.coordinates.float().mean()),
        "typical": float(_typical(other, shown, targets, real).median()),
        "passes": changed.passes,
        "seconds": changed.seconds,
    }


def _typical(other: pl.Classifier, shown: Tensor, targets: Tensor, real: Digits) -> Tensor:
    view = other.at("final")
    with torch.no_grad():
        known, result = (view.activation(images).flatten(1) for images in (real.images, shown))
    shares = []
    for row, target in enumerate(targets.tolist()):
        mine = known[real.labels == target]
        own = torch.cdist(mine, mine).kthvalue(_NEIGHBORS + 1, dim=1).values
        here = torch.cdist(result[row : row + 1], mine).kthvalue(_NEIGHBORS, dim=1).values
        shares.append((own > here).float().mean())
    return torch.stack(shares)


def main() -> None:
    """Run all methods on the same images and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with morphomnist_ti")
    parser.add_argument("--work", type=Path, required=True, help="that of train_digits")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    digits = load_digits(chosen.data, chosen.work)
    training, held_out = digits.rows(0, TRAINING), digits.rows(TRAINING)
    explainer = load(chosen.work / "surrogate", classifier=digit_classifier(training, chosen.work))
    other = digit_classifier(training, chosen.work, seed=1)
    batch = explainer.encode_batch(held_out.images[:_IMAGES])
    targets = batch.logits.topk(2).indices[:, 1]
    reference = training.rows(0, 2000)
    known = explainer.encode(reference.images)
    methods: dict[str, Callable[[], Changed]] = {
        "ours": lambda: ours(explainer, batch, targets, ReferenceSet(known, reference.labels)),
        "StylEx, concepts": lambda: stylex(explainer, batch, targets, known, styles=False),
        "StylEx, StyleSpace": lambda: stylex(explainer, batch, targets, known, styles=True),
        "plain latent descent": lambda: plain_descent(explainer, batch, targets, known, transferred=False),
        "the same, transferred": lambda: plain_descent(explainer, batch, targets, known, transferred=True),
        "towards a real digit": lambda: towards_real(explainer, batch, targets, known, reference.labels),
    }
    results: dict[str, Any] = {"steps": explainer.surrogate.steps, "images": _IMAGES, "top": _TOP, "methods": {}}
    for name, run in methods.items():
        results["methods"][name] = evaluate(explainer, other, batch, targets, reference, run())
        print(name, {key: round(value, 3) for key, value in results["methods"][name].items()}, flush=True)
    write_atomically(RESULTS / "counterfactuals.json", json.dumps(results, indent=1).encode())


if __name__ == "__main__":
    main()

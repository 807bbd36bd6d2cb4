"""Classifiers of digits that use a known cue: trained on redrawn digits, in which nothing else goes with the cue."""

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pellucid as pl
from experiments.surrogate.architectures.networks import plain_cnn
from experiments.surrogate.digits.data import CONTEXTS, Digits, gray_of, input_of, redraw_digits
from experiments.surrogate.planted_cues.effects import (
    causal_effects,
    interventions,
    plain_correlation,
    reported,
    score,
    true_effects,
)
from pellucid.classifiers import make_digit_preprocess
from pellucid.data import ContextTable
from pellucid.storage import read_tensors, write_tensors
from pellucid.surrogate import PRESETS, GlobalOptions, Rerender, digit_measure, measure_decision_effects, train
from pellucid.surrogate.training import digest_of
from pellucid.synthetic.morphomnist import measure, redraw

DIGIT = "digit"
CUES = ("intensity", "thickness", DIGIT)
OPTIONS = PRESETS["cpu-32"].replace(
    steps=3000,
    warmup_steps=200,
    predictor_steps=1000,
    brightness_context="intensity",
    nuisance_dim=12,
    nuisance_swap=8.0,
)
_SLOPE = 3.0  # of the planted margin, in logits per standard deviation of the cue
_SMOOTHING = 0.1  # of the labels, where the digit is the cue: sure, but not without bounds
_EPOCHS, _BATCH, _RATE = 8, 64, 2e-3
_ORACLE, _INTERVENED = 300, 200
_ROUNDS, _NEAR = 3, 0.35
_BINS = 20


def remembered(rerender: Rerender, folder: Path) -> Rerender:
    """The same re-renderer, which draws the same request only once: what came of it is kept in `folder`."""

    def recall(images: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
        file = folder / f"{digest_of([], [images, random.get_state()])[:16]}.safetensors"
        if not file.exists():
            drawn, context = rerender(images, random)
            write_tensors(file, {"drawn": drawn, "context": context, "random": random.get_state()})
        kept = read_tensors(file)
        random.set_state(kept["random"])
        return kept["drawn"], kept["context"]

    folder.mkdir(parents=True, exist_ok=True)
    return recall


def versions(digits: Digits, rerender: Rerender, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images, context and labels of digits redrawn with independent contexts, as far as they can be measured."""
    random = torch.Generator().manual_seed(seed)
    parts = [rerender(chunk, random) for chunk in torch.split(digits.images, 256)]
    images, context = (torch.cat(column) for column in zip(*parts, strict=True))
    known = context.isfinite().all(1)
    return images[known], context[known], digits.labels[known]


def planted_margin(cue: str, context: Tensor, given: ContextTable) -> Tensor:
    """3 (cue - median) / sd of contexts (N, K), (N,); median and standard deviation those of the given digits."""
    values = given.column(cue)
    return _SLOPE * ((context[:, CONTEXTS.index(cue)] - values.median()) / values.std()).float()


def planted_classifier(cue: str, training: Digits, rerender: Rerender, work: Path) -> pl.Classifier:
    """A CNN trained on redrawn digits, kept in `work`.

    For thickness and intensity it learns to give the upper class the probability σ(`planted_margin`), for the digit
    their labels, smoothed by 0.1.
    """
    names = tuple(map(str, range(10))) if cue == DIGIT else (f"low {cue}", f"high {cue}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = plain_cnn(len(names), batch_norm=True)
        kept = work / f"{cue}.safetensors"
        if not kept.exists():
            images, context, labels = versions(training, rerender, seed=1)
            _fit(network, images, labels if cue == DIGIT else _shares(planted_margin(cue, context, training.context)))
            write_tensors(kept, network.state_dict())
    network.load_state_dict(read_tensors(kept))
    preprocess = make_digit_preprocess()
    size = (1, *preprocess.input_size)
    return pl.Classifier(network.eval(), preprocess=preprocess, class_names=names, input_size=size, name=f"{cue} CNN")


def _shares(margins: Tensor) -> Tensor:
    return torch.stack([torch.sigmoid(-margins), torch.sigmoid(margins)], dim=1)


def _fit(network: nn.Module, images: Tensor, targets: Tensor) -> None:
    steps = _EPOCHS * -(-len(images) // _BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), lr=_RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=steps)
    smoothing = 0.0 if targets.is_floating_point() else _SMOOTHING
    network.train()
    for _ in range(_EPOCHS):
        for rows in torch.split(torch.randperm(len(images)), _BATCH):
            loss = F.cross_entropy(network(images[rows]), targets[rows], label_smoothing=smoothing)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()


@dataclass(frozen=True)
class Oracle:
    """True interventions on real digits.

    Attributes:
        digits: N of them.
        kept: (N, 1, 32, 32), redrawn to the very values that they measure: what redrawing alone does.
        redrawn: context -> (6, N, 1, 32, 32), set to another digit's value, then to five quantiles; all else held.
        usable: (K, N), whether all six measure what was asked, each context within 0.35 standard deviations.
    """

    digits: Digits
    kept: Tensor
    redrawn: dict[str, Tensor]
    usable: Tensor


def oracle(digits: Digits, work: Path) -> Oracle:
    """Redraw real digits with one context set at a time, all four asked for; kept in `work`."""
    digits = digits.rows(0, _ORACLE)
    file = work / f"oracle-{sha256(digits.images.numpy().tobytes()).hexdigest()[:8]}.safetensors"
    if not file.exists():
        own = digits.context.values.float()
        parts = {"kept": _redrawn(digits, own)}
        for column, name in enumerate(CONTEXTS):
            for row, values in enumerate(interventions(own[:, column])):
                requested = own.clone()
                requested[:, column] = values
                parts[f"{name}.{row}"] = _redrawn(digits, requested)
        write_tensors(file, {f"{key}.{part}": value for key, both in parts.items() for part, value in both.items()})
    return _read_oracle(digits, read_tensors(file))


def _redrawn(digits: Digits, requested: Tensor) -> dict[str, Tensor]:
    gray = redraw(gray_of(digits.images), rounds=_ROUNDS, **dict(zip(CONTEXTS, requested.T, strict=True)))
    result = measure(gray)
    reached = torch.stack([getattr(result, name) for name in CONTEXTS], dim=1)
    error = ((reached - requested).abs() / digits.context.values.std(0).float()).nan_to_num(torch.inf)
    return {"images": input_of(gray), "near": (error <= _NEAR).all(1)}


def _read_oracle(digits: Digits, kept: dict[str, Tensor]) -> Oracle:
    redrawn = {name: torch.stack([kept[f"{name}.{row}.images"] for row in range(6)]) for name in CONTEXTS}
    near = [torch.stack([kept[f"{name}.{row}.near"] for row in range(6)]).all(0) for name in CONTEXTS]
    return Oracle(digits, kept["kept.images"], redrawn, torch.stack(near) & kept["kept.near"])


@torch.no_grad()
def proof(
    classifier: pl.Classifier, fresh: tuple[Tensor, Tensor, Tensor], expected: Tensor, seen: Oracle
) -> dict[str, Any]:
    """That a classifier uses its cue and nothing else.

    Args:
        classifier: with a planted cue.
        fresh: images, context and labels of held-out digits redrawn with independent contexts.
        expected: (N,) the classes that these should be given.
        seen: true interventions.

    Returns:
        `accuracy`; `share`: of the score's variance on `fresh`, what each context (in 20 bins of equal count) and the
        digit tell by themselves; `redrawing`: mean absolute change of the score by redrawing with nothing changed, in
        its standard deviations: the noise of the oracle.
    """
    images, context, labels = fresh
    logits = classifier.logits(images)
    scores = score(logits, logits.argmax(1))
    shares = {name: correlation_ratio(scores, _bins(column)) for name, column in zip(CONTEXTS, context.T, strict=True)}
    before = classifier.logits(seen.digits.images)
    own, kept = (score(x, before.argmax(1)) for x in (before, classifier.logits(seen.kept)))
    return {
        "accuracy": float((logits.argmax(1) == expected).float().mean()),
        "share": shares | {DIGIT: correlation_ratio(scores, labels)},
        "redrawing": float((kept - own).abs().mean() / own.std()),
    }


def _bins(values: Tensor) -> Tensor:
    return values.argsort().argsort() * _BINS // len(values)


def correlation_ratio(scores: Tensor, group: Tensor) -> float:
    """Share of the variance of scores (N,) that lies between groups (N,): the correlation ratio."""
    means = torch.stack([scores[group == one].mean() for one in range(int(group.max()) + 1)])
    return float((means[group] - scores.mean()).square().mean() / scores.var(correction=0))


def explained_digits(cue: str, training: Digits, held_out: Digits, work: Path) -> dict[str, Any]:
    """Train a planted classifier and its surrogate, and compare what the surrogate says with the truth."""
    rerender = remembered(redraw_digits, work / "redrawn")
    classifier, seen = planted_classifier(cue, training, rerender, work), oracle(held_out, work)
    fresh = versions(held_out, rerender, seed=2)
    expected = fresh[2] if cue == DIGIT else (planted_margin(cue, fresh[1], training.context) > 0).long()
    explainer = train(
        classifier, training.images, training.context, OPTIONS, work / f"surrogate-{cue}", rerender=rerender
    )
    marks = explainer.assess(
        seen.digits.images, digit_measure(explainer.surrogate), measured_by="Morpho-MNIST morphometry"
    )
    batch = explainer.encode_batch(seen.digits.images)
    context = {name: seen.digits.context.column(name).float() for name in CONTEXTS}
    truth = true_effects(explainer.logits, batch.images, seen.kept, seen.redrawn)
    global_explanation = explainer.discover(
        held_out.images, held_out.context.values, options=GlobalOptions(max_interventions=_INTERVENED)
    )
    drawn, reference = batch.reconstructed(), explainer.set_reference(training.images)
    return {
        "cue": cue,
        "agreement": marks.agreement,
        "kl": marks.kl,
        "head_agreement": marks.head_agreement,
        "swap_flips": marks.nuisance_flip_rate,
        "effectiveness": marks.effectiveness,
        "perceived": dict(global_explanation.probe_r2),
        "tie": float(torch.corrcoef(held_out.context.select(("thickness", "intensity")).values.T)[0, 1]),
        "plain_correlation": plain_correlation(score(batch.logits, batch.classes), context),
        "proof": proof(classifier, fresh, expected, seen),
        "transferred": {
            "effects": causal_effects(batch, batch, explainer.standard_context, context, truth, seen.usable),
            **reported(batch, *measure_decision_effects(batch[:_INTERVENED], reference.codes), reference),
        },
        "drawn": {
            "effects": causal_effects(drawn, batch, explainer.standard_context, context, truth, seen.usable),
            **reported(drawn, *measure_decision_effects(drawn[:_INTERVENED], reference.codes), reference),
        },
    }

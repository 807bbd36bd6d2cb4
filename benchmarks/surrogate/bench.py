"""How the surrogate is measured: training steps, generators and modulated convolutions."""

import copy
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pellucid as pl
from benchmarks.surrogate.rivals import (
    PlainStyleGAN2,
    grouped_conv,
    recorded,
)
from benchmarks.timing import Timing, interleaved
from pellucid.data import Preprocess
from pellucid.surrogate import Surrogate, SurrogateExplainer, TrainingOptions
from pellucid.surrogate.model import (
    DataSizes,
    FeatureExtractor,
    Generator,
    ModulatedConv,
    modulated_conv,
    to_channels_last,
)
from pellucid.surrogate.training import Trainer, make_dataset, prepare
from pellucid.synthetic import draw_digits

CONTEXTS = ("thickness", "intensity", "slant", "width")
LOW, HIGH = torch.tensor([(1.5, 4.0), (100.0, 255.0), (-0.4, 0.4), (9.0, 18.0)]).T
SIDE, DIGITS, HELD_OUT = 32, 1536, 512
TOLERANCE = 1e-4
WIDTHS: Mapping[int, Mapping[str, int]] = {
    32: {"channel_base": 512, "max_channels": 64},
    64: {"channel_base": 1024, "max_channels": 64},
}
"""Of the generators that are timed alone, by resolution; at 32 px those of cpu-32."""


# --- The bench: drawn digits, a classifier of them, and two trainers that differ in the generator only


class PassCounter:
    """Images that went through a module, there and back, counted by hooks."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start from nothing."""
        self.calls, self.forward, self.backward = 0, 0, 0

    @property
    def images(self) -> tuple[int, int]:
        """There and back."""
        return self.forward, self.backward

    def watch(self, module: nn.Module) -> None:
        """Count from now on, also in copies of the module."""
        module.register_forward_hook(self._note)

    def _note(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self.calls += 1
        self.forward += len(output)
        if output.requires_grad:
            output.register_hook(self._note_back)  # type: ignore[no-untyped-call]

    def _note_back(self, gradient: Tensor) -> None:
        self.backward += len(gradient)


@dataclass(frozen=True)
class Bench:
    """Images (N, 1, 32, 32) in [-1, 1], the trainers of both generators on the same data, and a surrogate."""

    images: Tensor
    ours: Trainer
    theirs: Trainer
    explainer: SurrogateExplainer
    classified: PassCounter


def make_bench(options: TrainingOptions) -> Bench:
    """Draw, train the classifier, then a surrogate with pellucid's generator."""
    random = torch.Generator().manual_seed(0)
    labels = torch.randint(10, (DIGITS + HELD_OUT,), generator=random)
    values = LOW + (HIGH - LOW) * torch.rand(len(labels), len(CONTEXTS), generator=random)
    drawn = draw_digits(labels, **dict(zip(CONTEXTS, values.T, strict=True)), size=SIDE, jitter=0.7)
    images = drawn[:, None] / 127.5 - 1
    network, classified = _trained_cnn(images, labels), PassCounter()
    classified.watch(network)
    preprocess = Preprocess((SIDE, SIDE), mean=(0.5,), std=(0.5,))
    classifier = pl.Classifier(network, preprocess=preprocess, input_size=(1, SIDE, SIDE), name="digit CNN")
    shown, space = make_dataset(images[:DIGITS], classifier, SIDE, 0)
    features = FeatureExtractor(classifier)
    with tempfile.TemporaryDirectory() as folder:
        data = prepare(shown, values[:DIGITS], extractor=features, space=space, options=options, folder=Path(folder))
    sizes = DataSizes(1, features.length, classifier.num_classes, CONTEXTS)
    ours = Trainer(features, space, data, sizes, options)
    with mock.patch("pellucid.surrogate.model.surrogate_networks.Generator", PlainStyleGAN2):
        theirs = Trainer(features, space, data, sizes, options)
    for networks in (theirs.networks, theirs.averaged_networks):  # groups are slow in channels-last order
        networks.generator.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    for _ in range(options.steps):
        ours.step()
    explainer = SurrogateExplainer(
        Surrogate(
            features=features,
            networks=copy.deepcopy(ours.averaged_networks),
            auxiliary_models=data.auxiliary_models,
            space=space,
            sizes=sizes,
            options=options,
            quality=data.quality,
            span=data.span,
            steps=options.steps,
        )
    )
    explainer.set_reference(images[DIGITS:])
    return Bench(images[DIGITS:], ours, theirs, explainer, classified)


def _trained_cnn(images: Tensor, labels: Tensor) -> nn.Sequential:
    """Three blocks of convolution, BatchNorm, ReLU and max pooling, three epochs."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for before, width in ((1, 32), (32, 32), (32, 64)):
        layers += [nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2)]
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * (SIDE // 8) ** 2, 10))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for rows in [rows for _ in range(3) for rows in torch.split(torch.randperm(DIGITS), 32)]:
        loss = F.cross_entropy(network(images[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return network.eval()


# --- One training step, and its convolutions alone


@dataclass(frozen=True)
class Steps:
    """A trainer's steps: most of them, and every so many-th with R1 and Hessian penalty.

    Attributes:
        ordinary, lazy: the steps.
        ordinary_alone, lazy_alone: their convolutions with nothing around them.
        convolutions: forward and backward, of an ordinary step.
    """

    ordinary: Timing
    lazy: Timing
    ordinary_alone: Timing
    lazy_alone: Timing
    convolutions: tuple[int, int]

    def seconds(self, every: int) -> float:
        """Of a step, on average."""
        return self.ordinary.median + (self.lazy.median - self.ordinary.median) / every

    def seconds_alone(self, every: int) -> float:
        """Of its convolutions, on average."""
        return self.ordinary_alone.median + (self.lazy_alone.median - self.ordinary_alone.median) / every


def time_steps(bench: Bench, rounds: int) -> dict[str, Steps]:
    """Steps with the full loss and their convolutions, all in turn."""
    trainers = {"pellucid": bench.ours, "plain StyleGAN2": bench.theirs}
    runs: dict[str, Callable[[], object]] = {}
    counts: dict[str, tuple[int, int]] = {}
    for name, trainer in trainers.items():
        every = trainer.options.lazy_reg_interval
        start = -(-trainer.options.steps // every) * every  # a multiple, beyond the warm-up
        for kind, number in (("ordinary", start + 1), ("lazy", start)):

            def run(trainer: Trainer = trainer, number: int = number) -> object:
                trainer.steps = number
                return trainer.step()

            run()  # Adam's first step makes its moments
            alone = recorded(run)
            runs |= {f"{name}/{kind}": run, f"{name}/{kind}_alone": alone.run}
            if kind == "ordinary":
                counts[name] = (alone.forward, alone.backward)
    timings = timed("step", runs, rounds)
    kinds = ("ordinary", "lazy", "ordinary_alone", "lazy_alone")
    return {
        name: Steps(**{kind: timings[f"{name}/{kind}"] for kind in kinds}, convolutions=counts[name])
        for name in trainers
    }


# --- Generators and modulated convolutions alone


def time_convolutions(code: int, rounds: int, batch: int = 32) -> list[dict[str, Any]]:
    """Each modulated convolution of our generator, there and back, ours against a group for each image."""
    rows = []
    for module, x in _modulated_layers(_generator(Generator, code, SIDE), torch.randn(batch, code)).items():
        weight, style = module.weight.detach(), 1 + 0.3 * torch.randn(batch, x.shape[1])
        demodulate = weight.shape[-1] > 1
        plain = (x.contiguous(), weight.contiguous())  # groups are slow in channels-last order
        runs = {
            "ours": partial(_there_and_back, modulated_conv, x, weight, style, demodulate),
            "grouped": partial(_there_and_back, grouped_conv, *plain, style, demodulate),
        }
        error = _largest_difference(runs["ours"](), runs["grouped"]())
        assert error < TOLERANCE, f"modulated convolutions of {tuple(weight.shape)} differ by {error:.1e}"
        timings = interleaved(runs, rounds)
        rows.append({"weight": list(weight.shape), "pixels": x.shape[-1], "error": error, **timings})
    return rows


def _modulated_layers(generator: nn.Module, codes: Tensor) -> dict[ModulatedConv, Tensor]:
    """The modulated convolutions of distinct shapes and what enters them."""
    result: dict[ModulatedConv, Tensor] = {}
    handles = [
        module.register_forward_pre_hook(lambda module, inputs: result.__setitem__(module, inputs[0].detach()))
        for module in generator.modules()
        if isinstance(module, ModulatedConv)
    ]
    generator(codes)
    for handle in handles:
        handle.remove()
    distinct = {(module.weight.shape, x.shape): module for module, x in result.items()}
    return {module: result[module] for module in distinct.values()}


def _there_and_back(
    convolve: Callable[..., Tensor], x: Tensor, weight: Tensor, style: Tensor, demodulate: bool
) -> tuple[Tensor, ...]:
    leaves = [tensor.detach().requires_grad_() for tensor in (x, weight, style)]
    y = convolve(*leaves, demodulate=demodulate)
    return (y.detach(), *torch.autograd.grad(y.square().sum(), leaves))


def _largest_difference(result: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> float:
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(result, expected, strict=True))


def _generator(kind: type[nn.Module], code: int, side: int) -> nn.Module:
    generator: nn.Module = kind(code, side, 1, **WIDTHS[side])
    if kind is Generator:
        to_channels_last(generator, torch.device("cpu"))
    return generator


def time_generators(code: int, rounds: int) -> list[dict[str, Any]]:
    """Forward, and there and back to weights and codes."""
    rows = []
    for side in WIDTHS:
        ours, plain = _generator(Generator, code, side), _generator(PlainStyleGAN2, code, side)
        for batch in (8, 32):
            codes = torch.randn(batch, code)
            runs = {
                "ours forward": partial(_drawn, ours, codes),
                "plain forward": partial(_drawn, plain, codes),
                "ours both": partial(_drawn_and_back, ours, codes),
                "plain both": partial(_drawn_and_back, plain, codes),
            }
            rows.append({"pixels": side, "batch": batch, **interleaved(runs, rounds)})
    return rows


def _drawn(generator: nn.Module, codes: Tensor) -> object:
    with torch.no_grad():
        return generator(codes)


def _drawn_and_back(generator: nn.Module, codes: Tensor) -> object:
    leaf = codes.clone().requires_grad_()
    return torch.autograd.grad(generator(leaf).square().sum(), [*generator.parameters(), leaf])


def timed(what: str, runs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Timing]:
    """Interleaved timings, printed as they come."""
    timings = interleaved(runs, rounds)
    for name, timing in timings.items():
        print(f"{what} of {name}: {1000 * timing.median:.1f} ms, spread {timing.spread:.2f}", flush=True)
    return timings

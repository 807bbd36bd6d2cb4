"""Layer-wise relevance propagation as an attribution method."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pellucid.attribution.cases import Case
from pellucid.attribution.lrp.composites import COMPOSITES, RuleMap, make_composites
from pellucid.attribution.lrp.propagation import Propagation, Relevance
from pellucid.attribution.lrp.rules import Rule
from pellucid.attribution.method import Attribution, Method
from pellucid.attribution.view import rows_per_image
from pellucid.errors import LayerError, PellucidError, TargetError
from pellucid.results import Passes

_WORTH_A_NOTE = 0.01
"""Part of the relevance whose loss is worth a note."""


@dataclass(frozen=True, kw_only=True)
class LRP(Method):
    """Layer-wise relevance propagation (Bach et al., 2015) through the operations after the layer.

    Relevance starts at the logits: for a class it is the class's logit, for a target that is a difference of logits
    each logit in proportion to its part in that difference, so that it sums to the score. Rules carry it back, summed
    over channels when it arrives. `gap` is what did not arrive: biases and stabilizers keep a part, as do values that
    cross the cut beside the activation, and notes say how much where it matters.

    Rules act on operations, so modules, functions, reused and in-place activations give the same maps:

    - convolutions and linear layers: the composite's rules; batch norm is merged into the layer before it;
    - batch norm with no such layer (DenseNet), adding constants: `IdentityRule`; layer norm, group norm: `Epsilon`
      with the deviation held constant (Ali et al., 2022);
    - activation functions: relevance passes; max pooling: the winner takes it;
    - sums (residuals), averages: in proportion to the terms; copies and rearrangements: it follows them;
    - products: the signal takes it, a gate (squeeze-excitation) none; two factors of which neither is a gate share it
      (Achtibat et al., 2024); attention: its weights are a gate on the values (Ali et al., 2022);
    - whatever else there is: a LayerError that names the operation.

    Attributes:
        composite: "epsilon_plus_box" (z-B for convolutions on the images, z+ for others, epsilon for linear layers),
            "epsilon025_plus_box" (the same with epsilon 0.25), "epsilon_gamma_box", "epsilon_plus",
            "epsilon_plus_flat", "epsilon_alpha2_beta1", "epsilon_alpha2_beta1_flat", "excitation_backprop" (z+
            everywhere), "epsilon" (everywhere: activation x gradient as epsilon goes to 0), or "gradient" (no rules:
            the gradient times the logit, which conserves nothing).
        epsilon: of the epsilon rule; None is 0.25 for "epsilon025_plus_box", else 1e-6.
        gamma: of the gamma rule.
        stabilizer: moves the denominators of all other rules away from zero.
        num_conv_epsilon: how many of the last convolutions outside the head get the epsilon rule.
        head: names or patterns of layers that get the rule of linear layers whatever their kind, such as the
            convolutions of a fully convolutional head. A name stands for all layers inside it too.
        rules: rules by layer name or pattern, before all others: `{"features.0": Flat()}`.
        low, high: lowest and highest value of the images in the classifier's input space, one number or one for each
            channel, for z-B; None is black and white under the mean and deviation of the classifier's preprocessing.
        widen_box: how far the box reaches beyond them, in units of high - low.
        fold_batch_norm: merge batch norm into the layer before it; False gives it the rule of convolutions, as one that
            is diagonal: the same function with another relevance.
        absorb_bias: False lets biases keep no relevance.

    >>> import pellucid as pl
    >>> view = pl.load("digit_cnn").at("final")
    >>> pl.attribution.LRP(composite="epsilon_plus")(view, torch.rand(2, 1, 32, 32), "7").values.shape
    torch.Size([2, 1, 8, 8])
    """

    composite: str = "epsilon_plus_box"
    epsilon: float | None = None
    gamma: float = 0.25
    stabilizer: float = 1e-6
    num_conv_epsilon: int = 0
    head: Sequence[str] = ()
    rules: Mapping[str, Rule] = field(default_factory=dict, hash=False)
    low: float | Sequence[float] | None = None
    high: float | Sequence[float] | None = None
    widen_box: float = 0.0
    fold_batch_norm: bool = True
    absorb_bias: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        names = [*COMPOSITES, "gradient"]
        if self.composite not in names:
            raise PellucidError(f"unknown composite {self.composite!r}; choose one of {', '.join(names)}")
        if isinstance(self.head, str):
            raise PellucidError(f"head is a list of layer names, not the string {self.head!r}")
        wrong = [name for name, rule in self.rules.items() if not isinstance(rule, Rule)]
        if wrong:
            raise PellucidError(
                f"rules[{wrong[0]!r}] is not a rule but {self.rules[wrong[0]]!r}; give one such as ZPlus()"
            )
        if self.num_conv_epsilon < 0 or self.widen_box < 0 or (self.low is None) != (self.high is None):
            raise PellucidError("num_conv_epsilon and widen_box are at least 0; low and high are given together")
        make_composites(self.epsilon, self.gamma, self.stabilizer)  # refuses what its rules refuse

    def options(self) -> dict[str, object]:
        """Every option with its value; rules as text."""
        return super().options() | {"rules": {name: str(rule) for name, rule in self.rules.items()}}

    def attribute(self, case: Case) -> Attribution:
        """Maps of one case."""
        start = _start(case)
        if self.composite == "gradient":
            return Attribution(_gradient(case, start))
        values = case.activation.new_zeros(len(case), case.target_count, *case.activation.shape[2:])
        delta = start.flatten(2).sum(2).T
        notes: dict[int, tuple[str, ...]] = {}
        at_once = _rows_at_once(case)
        for rows in torch.split(case.rows, at_once):
            activation = case.activation[rows].requires_grad_()
            propagation, native = self._propagation(case, activation, rows)
            targets = torch.split(start[:, rows], max(1, at_once // len(rows)))
            relevance = _concatenate([_fold(propagation(some), native, activation) for some in targets])
            values[rows] = relevance.values.transpose(0, 1)
            for row, image in enumerate(rows.tolist()):
                losses = _losses(relevance, delta[image], case, row, image)
                notes[image] = (*losses, *self._warnings(propagation, case.activation[image]))
        case.passes += Passes(suffix_forward=_rows_run(case), suffix_backward=_rows_run(case) * case.target_count)
        return Attribution(values, delta, notes)

    def _propagation(self, case: Case, activation: Tensor, rows: Tensor) -> tuple[Propagation, Tensor]:
        """The suffix run with some rows, and the activation in the layer's native layout as a function of itself."""
        view = case.view
        if view.suffix is None:
            raise LayerError(
                f"LRP shares relevance operation by operation, but the network after {view.layer!r} could not be "
                "traced with torch.fx (its control flow may depend on data), so that its operations are not known; "
                "use a method that does without, such as IntegratedGradients"
            )
        with torch.enable_grad():
            native, *side_inputs = view.suffix_inputs(activation, case.activation.side_inputs.rows(rows))
        if torch.finfo(native.dtype).eps > torch.finfo(torch.float32).eps:
            raise PellucidError(
                f"LRP divides by numbers that {native.dtype} cannot tell from 0; make the classifier of module.float()"
            )
        at_images = view.layer == "input"
        propagation = Propagation(
            view.suffix,
            (native.detach(), *side_inputs),
            self._rule_map(),
            stabilizer=self.stabilizer,
            at_images=at_images,
            box=self._box(case) if at_images else None,
            absorb_bias=self.absorb_bias,
        )
        return propagation, native

    def _rule_map(self) -> RuleMap:
        return RuleMap(
            make_composites(self.epsilon, self.gamma, self.stabilizer)[self.composite],
            rules=self.rules,
            head=self.head,
            last_convolutions=self.num_conv_epsilon,
            merge_batch_norm=self.fold_batch_norm,
        )

    def _box(self, case: Case) -> tuple[Tensor, Tensor] | None:
        """Lowest and highest images (1, C, 1, 1), if they are known."""
        channels = case.images.shape[1]
        if self.low is not None and self.high is not None:
            low, high = _per_channel(self.low, channels), _per_channel(self.high, channels)
        else:
            normalize = _normalization(getattr(case.view.classifier, "preprocess", None))
            if normalize is None:
                return None
            mean, std = _per_channel(normalize.mean, channels), _per_channel(normalize.std, channels)
            low, high = -mean / std, (1 - mean) / std
        if not bool((low < high).all()):
            raise PellucidError(f"the box is empty: low {low.flatten().tolist()}, high {high.flatten().tolist()}")
        margin = self.widen_box * (high - low)
        return (low - margin).to(case.activation), (high + margin).to(case.activation)

    def _warnings(self, propagation: Propagation, activation: Tensor) -> list[str]:
        notes = [f"no layer that relevance reaches is named {name!r}" for name in propagation.unused]
        if propagation.box_in_use is not None:
            low, high = propagation.box_in_use
            outside = torch.maximum(low - activation, activation - high).clamp(min=0) / (high - low)
            if float(outside.max()) > _WORTH_A_NOTE:
                notes.append("the image reaches beyond the box of the rule z-B; check low= and high=")
        return notes


def _start(case: Case) -> Tensor:
    """Relevance (T, N, K) that starts at the logits: each logit times its weight in the score."""
    if not case.target.is_linear:
        raise TargetError(
            f"LRP starts from logits, and {case.target.output.replace('_', ' ')} is not linear in them; explain the "
            'logit, "margin", "centered", or a contrast with minus='
        )
    logits = case.all_logits.detach().requires_grad_()
    with torch.enable_grad():
        scores = case.target.scores(logits)
    weights = [torch.autograd.grad(column.sum(), logits, retain_graph=True)[0] for column in scores.unbind(1)]
    return torch.stack(weights) * logits.detach()


def _gradient(case: Case, start: Tensor) -> Tensor:
    """Gradient of the logits weighted by the relevance that starts there, (N, T, h, w)."""
    values = case.activation.new_zeros(len(case), case.target_count, *case.activation.shape[2:])
    for rows in torch.split(case.rows, case.budget.rows("gradient")):
        leaf = case.activation[rows].requires_grad_()
        with torch.enable_grad():
            logits = case.logits(leaf, rows)
        for target, weights in enumerate(start[:, rows]):
            values[rows, target] = torch.autograd.grad(logits, leaf, weights, retain_graph=True)[0].sum(1)
    case.passes += Passes(suffix_backward=_rows_run(case) * case.target_count)
    return values


def _rows_run(case: Case) -> int:
    """Rows that go through the network for all images: in a grid setting each image may be several."""
    return len(case) * rows_per_image(case.view)[1]


def _rows_at_once(case: Case) -> int:
    """Rows of images x targets; every value is kept and a rule computes several, about twice a gradient's bytes."""
    rows = case.budget.rows("gradient")
    return rows if case.budget.max_bytes is None else max(1, rows // 2)


def _fold(relevance: Relevance, native: Tensor, activation: Tensor) -> Relevance:
    """Relevance (T, N, h, w) at the activation; leading tokens in the native layout are side inputs."""
    maps = [torch.autograd.grad(native, activation, values, retain_graph=True)[0].sum(1) for values in relevance.values]
    values = torch.stack(maps)
    beside = relevance.values.flatten(2).sum(2) - values.flatten(2).sum(2)
    return Relevance(values, relevance.to_side_inputs + beside, relevance.absorbed)


def _concatenate(parts: Sequence[Relevance]) -> Relevance:
    """Relevance of consecutive targets as one."""
    return Relevance(
        torch.cat([part.values for part in parts]),
        torch.cat([part.to_side_inputs for part in parts]),
        {name: torch.cat([part.absorbed[name] for part in parts]) for name in parts[0].absorbed},
    )


def _losses(relevance: Relevance, start: Tensor, case: Case, row: int, image: int) -> list[str]:
    """Remarks on relevance that started, `start` (T,) of it, and did not arrive at the map of an image."""
    notes = []
    for target, (label, total) in enumerate(zip(case.target.labels[image], start.tolist(), strict=True)):
        side_inputs = float(relevance.to_side_inputs[target, row])
        lost = total - float(relevance.values[target, row].sum()) - side_inputs
        if abs(side_inputs) > _WORTH_A_NOTE * abs(total):
            names = ", ".join(case.activation.side_inputs.names)
            notes.append(f"{label}: {_share_of(side_inputs, total)} went to what crosses the cut too ({names})")
        if abs(lost) > _WORTH_A_NOTE * abs(total):
            layers = {name: float(part[target, row]) for name, part in relevance.absorbed.items()}
            most = max(layers, key=lambda name: abs(layers[name]))
            notes.append(
                f"{label}: {_share_of(lost, total)} was lost to biases, stabilizers and outputs without contributions "
                f"of the rule's sign, most at {most!r} ({_share_of(layers[most], total)})"
            )
    return notes


def _share_of(relevance: float, whole: float) -> str:
    return f"{relevance / whole:.0%} of the relevance" if whole else f"relevance {relevance:.3g} of 0"


def _normalization(preprocess: Any) -> Any:
    """What holds the mean and deviation of a preprocessing: itself or one of its `transforms`; None if nothing does."""
    steps = [preprocess, *getattr(preprocess, "transforms", [])]
    return next((step for step in steps if hasattr(step, "mean") and hasattr(step, "std")), None)


def _per_channel(value: Any, channels: int) -> Tensor:
    """(1, C, 1, 1) from one number or one for each channel."""
    values = torch.as_tensor(value, dtype=torch.float32).flatten()
    if len(values) not in (1, channels):
        raise PellucidError(f"{len(values)} numbers were given for images of {channels} channels: {values.tolist()}")
    return values.expand(channels)[None, :, None, None]

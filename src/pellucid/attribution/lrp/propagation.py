"""Relevance carried back through a traced suffix, from the logits to the activation."""

from collections import defaultdict
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from pellucid.attribution.lrp.composites import Kind, Layer, RuleMap
from pellucid.attribution.lrp.recording import (
    ABSORBING,
    ADDITIONS,
    ATTENTION,
    BATCH_NORMS,
    BEFORE_FIRST_LAYER,
    COPIES,
    ELEMENTWISE,
    LAYERS,
    MATRIX_PRODUCTS,
    NORMALIZATIONS,
    POOLS,
    PRODUCTS,
    WITH_RULE,
    Recording,
    no_rule,
)
from pellucid.attribution.lrp.rules import Epsilon, IdentityRule, LinearLayer, Rule, ZBox
from pellucid.attribution.lrp.sharing import epsilon_share, vjp_routing
from pellucid.errors import LayerError


@dataclass(frozen=True)
class Relevance:
    """Where the relevance of T targets of N images went.

    Attributes:
        values: (T, N, *native) what arrived at the activation.
        to_side_inputs: (T, N) what went to values that cross the cut beside the activation.
        absorbed: layer name -> (T, N) what stayed there, with biases, stabilizers and outputs without contributions of
            the rule's sign; layers whose values do not have one row for each image are left out.
    """

    values: Tensor
    to_side_inputs: Tensor
    absorbed: dict[str, Tensor]


class Propagation:
    """A suffix run once, with a rule for every layer that relevance will reach.

    Args:
        suffix: from `view.suffix`.
        inputs: native activation (N, ...) first, then what else crosses the cut.
        rule_map: which rule acts on which layer.
        stabilizer: of sums and averages.
        at_images: whether the activation is the images, so that rules for first layers apply.
        box: lowest and highest images, each broadcasting to the images, for `ZBox`.
        absorb_bias: False leaves biases out of every denominator, so that they take no relevance.

    Attributes:
        unused: names and patterns of the rule map that fit no layer here.

    Raises:
        LayerError: an operation that relevance would reach has no rule; the message names it.

    >>> import pellucid as pl
    >>> view = pl.load("digit_cnn").at("final")
    >>> activation = view.activation(torch.rand(2, 1, 32, 32))
    >>> from pellucid.attribution.lrp.composites import make_composites
    >>> rules = RuleMap(make_composites(None, 0.25, 1e-6)["epsilon"])
    >>> relevance = Propagation(view.suffix, view.suffix_inputs(activation), rules)(torch.ones(1, 2, 10))
    >>> relevance.values.shape
    torch.Size([1, 2, 64, 8, 8])
    """

    def __init__(
        self,
        suffix: fx.GraphModule,
        inputs: tuple[Any, ...],
        rule_map: RuleMap,
        *,
        stabilizer: float = 1e-6,
        at_images: bool = False,
        box: tuple[Tensor, Tensor] | None = None,
        absorb_bias: bool = True,
    ) -> None:
        self._recording = Recording(suffix, inputs)
        self._stabilizer = stabilizer
        self._at_images = at_images
        self._box = box
        self._absorb_bias = absorb_bias
        self._merged: dict[fx.Node, fx.Node] = {}
        """Batch norm -> the layer that it is merged into; relevance goes from the one to the other's input."""
        self._relevance_inputs = self._reached(merge=rule_map.merge_batch_norm)
        layers = {node: layer for node in self._relevance_inputs if (layer := self._layer(node)) is not None}
        in_order = [node for node in self._recording.nodes if node in layers]
        rules = rule_map.assign([layers[node] for node in in_order])
        self._rules = dict(zip(in_order, rules, strict=True))
        self.unused = rule_map.unused(list(layers.values()))

    @property
    def box_in_use(self) -> tuple[Tensor, Tensor] | None:
        """The box of the images, if the rule of some layer is `ZBox`."""
        return self._box if any(isinstance(rule, ZBox) for rule in self._rules.values()) else None

    def __call__(self, start: Tensor) -> Relevance:
        """Carry relevance (T, N, K) of the logits back to the activation."""
        run = self._recording
        if start.shape[1:] != run.env[run.output].shape:
            raise LayerError(
                f"the suffix yields logits of shape {tuple(run.env[run.output].shape)}, "
                f"but relevance starts at {tuple(start.shape[1:])}"
            )
        native = run.env[run.activation]
        values = native.new_zeros(len(start), *native.shape)
        to_side_inputs = start.new_zeros(start.shape[:2])
        absorbed: dict[str, Tensor] = defaultdict(partial(torch.zeros_like, to_side_inputs))
        arriving: dict[fx.Node, Any] = {run.output: start}
        for node in reversed(run.nodes):
            relevance = arriving.pop(node, None)
            if relevance is None:
                continue
            if node is run.activation:
                values = relevance
            elif node not in self._relevance_inputs:
                to_side_inputs = to_side_inputs + _totals(relevance, to_side_inputs)
            else:
                shares = self._shares(node, relevance)
                for taker, share in shares.items():
                    arriving[taker] = _add(arriving.get(taker), share)
                if run.kind_of(node) in ABSORBING:
                    lost = _totals(relevance, to_side_inputs) - _totals(shares, to_side_inputs)
                    absorbed[self._name(node)] += lost
        return Relevance(values, to_side_inputs, dict(absorbed))

    def _reached(self, *, merge: bool) -> dict[fx.Node, list[fx.Node]]:
        """Every operation between activation and logits that relevance reaches, with the nodes that take its share."""
        run = self._recording
        relevance_inputs: dict[fx.Node, list[fx.Node]] = {}
        reached = {run.output}
        for node in reversed(run.nodes):
            if node not in reached or node not in run.from_activation or node is run.activation:
                continue
            if run.kind_of(node) not in WITH_RULE:
                raise no_rule(run, node)
            relevance_inputs[node] = run.relevance_inputs(node)
            layer = run.layer_before(node) if merge and run.kind_of(node) in BATCH_NORMS else None
            if layer is not None:
                self._merged[node] = layer
                relevance_inputs[node] = run.relevance_inputs(layer)
            reached.update(relevance_inputs[node])
        return relevance_inputs

    def _layer(self, node: fx.Node) -> Layer | None:
        """What the rule of a node is chosen by; None if the node has no weights."""
        node_or_merged = self._merged.get(node, node)
        kind = self._recording.kind_of(node_or_merged)
        layer_kind: Kind | None = None
        if kind in LAYERS:
            layer_kind = "linear" if kind == "linear" else "convolution"
        elif kind in BATCH_NORMS:
            layer_kind = "batch_norm"
        elif kind in NORMALIZATIONS:
            layer_kind = "normalization"
        elif kind in ADDITIONS and self._keeps_shape(node):
            layer_kind = "shift"
        if layer_kind is None:
            return None
        return Layer(self._name(node), layer_kind, self._is_on_images(node))

    def _name(self, node: fx.Node) -> str:
        return self._recording.name_of(self._merged.get(node, node))

    def _keeps_shape(self, node: fx.Node) -> bool:
        """Whether each element of a node comes from one element of its only taker."""
        relevance_inputs, values = self._relevance_inputs[node], self._recording.env
        return len(relevance_inputs) == 1 and values[relevance_inputs[0]].shape == values[node].shape

    def _is_on_images(self, node: fx.Node) -> bool:
        run, frontier = self._recording, list(self._relevance_inputs[node])
        while self._at_images and frontier:
            before = frontier.pop()
            if before is run.activation:
                continue
            if (
                run.kind_of(before) not in BEFORE_FIRST_LAYER
                or before not in self._relevance_inputs
                or before in self._merged
            ):
                return False
            frontier.extend(self._relevance_inputs[before])
        return self._at_images

    def _shares(self, node: fx.Node, relevance: Any) -> dict[fx.Node, Any]:
        """The relevance of every taker of a node."""
        run, relevance_inputs = self._recording, self._relevance_inputs[node]
        kind = run.kind_of(node)
        if node in self._rules:
            return {relevance_inputs[0]: self._by_rule(node, self._rules[node], relevance)}
        if kind in ELEMENTWISE | PRODUCTS and self._keeps_shape(node):
            return {relevance_inputs[0]: relevance}
        inputs = [run.env[taker] for taker in relevance_inputs]
        if kind == "getitem" and not isinstance(inputs[0], Tensor):
            return {relevance_inputs[0]: {int(node.args[1]) % len(inputs[0]): relevance}}  # type: ignore[arg-type]
        if kind in ATTENTION:
            arrived = relevance[0] if isinstance(relevance, dict) else relevance
            return {
                relevance_inputs[0]: epsilon_share(partial(run.attention, node), inputs, arrived, self._stabilizer)[0]
            }
        function = partial(self._compute, node)
        if kind in COPIES | POOLS:
            parts = relevance if isinstance(relevance, dict) else {0: relevance}
            outputs = 1 if isinstance(run.env[node], Tensor) else len(run.env[node])
            shares = vjp_routing(function, inputs, [parts.get(index) for index in range(outputs)])
        else:
            # The factors of a product are equal claimants (Achtibat et al., 2024, on bilinear operations).
            claims = len(relevance_inputs) if kind in PRODUCTS | MATRIX_PRODUCTS else 1
            shares = epsilon_share(function, inputs, relevance / claims, self._stabilizer)
        return dict(zip(relevance_inputs, shares, strict=True))

    def _compute(self, node: fx.Node, *inputs: Tensor) -> Any:
        return self._recording.recompute(node, dict(zip(self._relevance_inputs[node], inputs, strict=True)))

    def _by_rule(self, node: fx.Node, rule: Rule, relevance: Tensor) -> Tensor:
        name = self._name(node)
        if self._recording.kind_of(node) in NORMALIZATIONS and not isinstance(rule, Epsilon | IdentityRule):
            raise LayerError(
                f"{name!r} subtracts a mean, which only the rules Epsilon and IdentityRule can share, not {rule}"
            )
        layer = self._linear_layer(node)
        if isinstance(rule, ZBox):
            layer = replace(layer, box=self._box_at(node))
        try:
            return rule(layer, self._recording.env[self._relevance_inputs[node][0]], relevance)
        except LayerError as error:
            raise LayerError(f"{name!r}: {error}") from error

    def _linear_layer(self, node: fx.Node) -> LinearLayer:
        run = self._recording
        if node in self._merged:
            layer = run.merged(self._merged[node], node)
        elif run.kind_of(node) in ADDITIONS:
            layer = self._shift(node)
        else:
            layer = run.linear_layer(node)
        return replace(layer, output=run.env[node]) if self._absorb_bias else replace(layer, bias=None)

    def _shift(self, node: fx.Node) -> LinearLayer:
        """x + constant, or constant - x, as a layer."""
        x = self._recording.env[self._relevance_inputs[node][0]]
        (slope,) = vjp_routing(partial(self._compute, node), [x], [torch.ones_like(x)[None]])
        return LinearLayer(torch.mul, slope[0], self._compute(node, torch.zeros_like(x)))

    def _box_at(self, node: fx.Node) -> tuple[Tensor, Tensor] | None:
        """The box of the images, sent through whatever lies between the images and a layer."""
        run = self._recording
        if self._box is None or not self._is_on_images(node):
            return None
        images = run.env[run.activation]
        ends = [run.value_for(self._relevance_inputs[node][0], bound.expand_as(images)) for bound in self._box]
        return torch.minimum(*ends), torch.maximum(*ends)


def _totals(relevance: Any, like: Tensor) -> Tensor:
    """(T, N) sums of relevance, `like` another; zero where rows cannot be assigned to images.

    Rows are the images', or several of one image after those of the one before.
    """
    if isinstance(relevance, dict):
        return torch.stack([_totals(part, like) for part in relevance.values()]).sum(0)
    if relevance.ndim < 2 or relevance.shape[1] % like.shape[1]:
        return torch.zeros_like(like)
    total: Tensor = relevance.reshape(*like.shape, -1).sum(2)
    return total


def _add(present: Any, more: Any) -> Any:
    """Relevance of one value from several of its users; a tuple's relevance is kept by index."""
    if present is None:
        return more
    if isinstance(more, dict):
        return present | {index: _add(present.get(index), part) for index, part in more.items()}
    total: Tensor = present + more
    return total

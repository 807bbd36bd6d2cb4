"""Composites: which rule acts on which layer, by the layer's name, its kind and its place in the network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from typing import Literal

from pellucid.attribution.lrp.rules import (
    AlphaBeta,
    Epsilon,
    Flat,
    Gamma,
    IdentityRule,
    Rule,
    ZBox,
    ZPlus,
)

Kind = Literal["convolution", "linear", "batch_norm", "normalization", "shift"]
_IDENTITY = IdentityRule()


@dataclass(frozen=True)
class Layer:
    """What a rule is chosen by.

    Attributes:
        name: the layer's name in the user's words.
        kind: "batch_norm" is one that is not merged into the layer before it; "normalization" is layer or group norm;
            "shift" is the addition of a constant.
        on_images: nothing but rearranging and rescaling lies between the images and this layer.

    >>> Layer("features.0", "convolution", on_images=True).kind
    'convolution'
    """

    name: str
    kind: Kind
    on_images: bool = False


@dataclass(frozen=True, kw_only=True)
class Composite:
    """Rules by kind of layer.

    Attributes:
        convolution: for convolutions.
        linear: for linear layers, and for all layers named as the head.
        last_convolution: for as many of the last convolutions as a rule map says.
        first_convolution, first_linear: for such layers applied to the images; None for no exception.
        normalization: for layer norm and group norm, whose deviation is taken as a constant (Ali et al., 2022).
        batch_norm: for batch norm that cannot be merged into the layer before it, as in DenseNet, and
        shift: for additions of constants. Each of their outputs has one input, as those of activation functions have,
            and `IdentityRule` gives it all the relevance.

    >>> Composite(convolution=ZPlus(), linear=Epsilon(), last_convolution=Epsilon(), normalization=Epsilon()).shift
    IdentityRule()
    """

    convolution: Rule
    linear: Rule
    last_convolution: Rule
    normalization: Rule
    first_convolution: Rule | None = None
    first_linear: Rule | None = None
    batch_norm: Rule = _IDENTITY
    shift: Rule = _IDENTITY


def make_composites(epsilon: float | None, gamma: float, stabilizer: float) -> dict[str, Composite]:
    """All composites by name.

    Args:
        epsilon: of the epsilon rule; None is 0.25 for "epsilon025_plus_box", else 1e-6.
        gamma: of the gamma rule.
        stabilizer: of all other rules.

    >>> make_composites(None, gamma=0.25, stabilizer=1e-6)["epsilon_plus"].convolution
    ZPlus(stabilizer=1e-06)
    """
    small, large = (Epsilon(default if epsilon is None else epsilon) for default in (1e-6, 0.25))
    plus, signed, flat = ZPlus(stabilizer), AlphaBeta(2, 1, stabilizer), Flat(stabilizer)
    of = partial(Composite, linear=small, last_convolution=small, normalization=Epsilon(stabilizer))
    with_box = partial(of, first_convolution=ZBox(stabilizer))
    with_flat = partial(of, first_convolution=flat, first_linear=flat)
    return {
        "epsilon_plus_box": with_box(convolution=plus),
        "epsilon025_plus_box": with_box(convolution=plus, linear=large, last_convolution=large),
        "epsilon_gamma_box": with_box(convolution=Gamma(gamma, stabilizer)),
        "epsilon_plus": of(convolution=plus),
        "epsilon_plus_flat": with_flat(convolution=plus),
        "epsilon_alpha2_beta1": of(convolution=signed),
        "epsilon_alpha2_beta1_flat": with_flat(convolution=signed),
        "excitation_backprop": of(convolution=plus, linear=plus),
        "epsilon": of(convolution=small, batch_norm=small, normalization=small, shift=small),
    }


COMPOSITES = tuple(make_composites(None, 0.25, 1e-6))
"""Names of all composites."""


@dataclass(frozen=True)
class RuleMap:
    """A composite with a user's exceptions, which come first.

    Attributes:
        composite: rules by kind.
        rules: rules by layer name or pattern (`features.*`); the first that fits is taken. A name also stands for all
            layers inside it.
        head: names or patterns of layers that get the composite's rule for linear layers, whatever their kind.
        last_convolutions: how many convolutions outside the head count as last.
        merge_batch_norm: False gives batch norms the rule of convolutions, which they are, diagonal and 1 x 1.

    >>> rules = RuleMap(make_composites(None, 0.25, 1e-6)["epsilon_plus"], rules={"features.*": Flat()})
    >>> rules.assign([Layer("features.0", "convolution"), Layer("classifier", "linear")])
    [Flat(stabilizer=1e-06), Epsilon(epsilon=1e-06)]
    """

    composite: Composite
    rules: Mapping[str, Rule] = field(default_factory=dict)
    head: Sequence[str] = ()
    last_convolutions: int = 0
    merge_batch_norm: bool = True

    def assign(self, layers: Sequence[Layer]) -> list[Rule]:
        """The rule of each layer, given in the order of computation."""
        convolutions = [index for index, layer in enumerate(layers) if self._is_body_convolution(layer)]
        last = set(convolutions[len(convolutions) - min(self.last_convolutions, len(convolutions)) :])
        return [self._rule(layer, is_last=index in last) for index, layer in enumerate(layers)]

    def unused(self, layers: Sequence[Layer]) -> list[str]:
        """Names and patterns that fit none of the layers."""
        patterns = [*self.rules, *self.head]
        return [pattern for pattern in patterns if not any(names_layer(pattern, layer.name) for layer in layers)]

    def _is_body_convolution(self, layer: Layer) -> bool:
        return layer.kind == "convolution" and not self._in_head(layer)

    def _in_head(self, layer: Layer) -> bool:
        return any(names_layer(pattern, layer.name) for pattern in self.head)

    def _rule(self, layer: Layer, *, is_last: bool) -> Rule:
        named = next((rule for pattern, rule in self.rules.items() if names_layer(pattern, layer.name)), None)
        if named is not None:
            return named
        if layer.kind in ("normalization", "shift"):
            return self.composite.normalization if layer.kind == "normalization" else self.composite.shift
        if layer.kind == "batch_norm" and self.merge_batch_norm:
            return self.composite.batch_norm
        if self._in_head(layer):
            return self.composite.linear
        if layer.kind == "linear":
            return (self.composite.first_linear if layer.on_images else None) or self.composite.linear
        if layer.kind == "convolution" and layer.on_images and self.composite.first_convolution:
            return self.composite.first_convolution
        return self.composite.last_convolution if is_last else self.composite.convolution


def names_layer(pattern: str, name: str) -> bool:
    """Whether a layer is named by a pattern, or lies inside a block that is.

    >>> names_layer("layer4", "layer4.1.conv1"), names_layer("features.*", "head")
    (True, False)
    """
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")

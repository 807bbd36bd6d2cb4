"""Structural causal models whose equations are known: what a discovered graph and its effects are compared with."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pellucid.data import ContextTable
from pellucid.errors import PellucidError

Values: TypeAlias = Mapping[str, Tensor]
Interventions: TypeAlias = Mapping[str, float | Tensor]


def _standard_normal(random: np.random.Generator, count: int) -> NDArray[Any]:
    return random.standard_normal(count)


@dataclass(frozen=True)
class Mechanism:
    """How one variable comes from its parents and from a noise of its own.

    Attributes:
        name: of the variable.
        parents: names of the variables it is made from.
        value: from the parents' values and the noise, (N,) float64 each, to the variable's; one to one in the noise.
        noise: from the parents' values and the variable's to the noise: the inverse of `value`.
        draw: N draws of the noise; standard normal by default.
    """

    name: str
    parents: tuple[str, ...]
    value: Callable[[Values, Tensor], Tensor]
    noise: Callable[[Values, Tensor], Tensor]
    draw: Callable[[np.random.Generator, int], NDArray[Any]] = _standard_normal


@dataclass(frozen=True)
class CausalModel:
    """A causal model with known equations and independent noises.

    Attributes:
        title: short name, such as "TI".
        mechanisms: one per variable, parents before their children.

    >>> cause = Mechanism("cause", (), lambda _, noise: noise, lambda _, value: value)
    >>> effect = Mechanism(
    ...     "effect", ("cause",), lambda v, noise: 2 * v["cause"] + noise, lambda v, value: value - 2 * v["cause"]
    ... )
    >>> model = CausalModel("double", (cause, effect))
    >>> model.edges
    (('cause', 'effect'),)
    >>> observed = ContextTable.from_columns({"cause": [1.0], "effect": [2.5]})
    >>> model.counterfactual(observed, {"cause": 0.0}).column("effect").tolist()
    [0.5]
    """

    title: str
    mechanisms: tuple[Mechanism, ...]

    def __post_init__(self) -> None:
        for index, mechanism in enumerate(self.mechanisms):
            later = set(mechanism.parents) - set(self.names[:index])
            if later:
                raise PellucidError(f"{mechanism.name!r} has parents {sorted(later)} that no mechanism before it makes")

    @property
    def names(self) -> tuple[str, ...]:
        """The variables, parents before their children."""
        return tuple(mechanism.name for mechanism in self.mechanisms)

    @property
    def edges(self) -> tuple[tuple[str, str], ...]:
        """The causal graph, as (cause, effect) pairs."""
        return tuple((parent, child.name) for child in self.mechanisms for parent in child.parents)

    def sample(self, count: int, seed: int = 0, *, do: Interventions | None = None) -> ContextTable:
        """Draw from the model, or from the model under an intervention.

        With one seed the noises are the same whatever `do` is: rows are then counterfactuals of each other.

        Args:
            count: how many rows.
            seed: of the noises; every variable has its own stream.
            do: variables set to a number, or to (count,) numbers, whatever their causes say.

        Raises:
            PellucidError: a count below 1, or an intervention on an unknown variable.
        """
        if count < 1:
            raise PellucidError(f"{count} rows of {self.title} cannot be drawn; give at least 1")
        streams = np.random.default_rng(seed).spawn(len(self.mechanisms))
        noises = [m.draw(stream, count) for m, stream in zip(self.mechanisms, streams, strict=True)]
        return self.solve(torch.from_numpy(np.stack(noises, axis=1)), do=do)

    def solve(self, noises: Tensor, *, do: Interventions | None = None) -> ContextTable:
        """The values that noises (N, K) lead to, under an intervention if one is given."""
        do = self._check(do or {})
        values: dict[str, Tensor] = {}
        for mechanism, noise in zip(self.mechanisms, noises.double().unbind(1), strict=True):
            if mechanism.name in do:
                level = torch.as_tensor(do[mechanism.name], dtype=torch.float64)
                values[mechanism.name] = level.expand(len(noises))
            else:
                values[mechanism.name] = mechanism.value(values, noise)
        return ContextTable(self.names, torch.stack([values[name] for name in self.names], dim=1))

    def noises(self, context: ContextTable) -> Tensor:
        """The noises (N, K) that explain observed values: abduction."""
        values = {name: context.column(name) for name in self.names}
        return torch.stack([m.noise(values, values[m.name]) for m in self.mechanisms], dim=1)

    def counterfactual(self, context: ContextTable, do: Interventions) -> ContextTable:
        """What rows would have been, had some variables been set otherwise: abduction, action, prediction.

        Args:
            context: observed rows with at least the model's variables.
            do: variables set to a number, or to one number per row.

        Returns:
            The model's variables, same rows and files.
        """
        solved = self.solve(self.noises(context), do=do)
        return ContextTable(solved.names, solved.values, context.files)

    def _check(self, do: Interventions) -> Interventions:
        unknown = [name for name in do if name not in self.names]
        if unknown:
            raise PellucidError(f"{self.title} has no variable {unknown[0]!r} to set; it has {', '.join(self.names)}")
        return do

"""Control maps as methods, so that every table has them beside the methods that they put in their place."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pellucid.attribution import Attribution, Case, Method
from pellucid.evaluation.metrics.controls import (
    input_magnitude,
    oracle_mask,
    random_map,
    sobel_edges,
    uniform_map,
)

CONTROLS = ("Uniform", "Random", "SobelEdges", "InputMagnitude", "OracleMask")
"""What tables call the controls: one value, noise, edges and magnitude of what the layer sees, and the cell itself."""


@dataclass(frozen=True, kw_only=True)
class ControlMap(Method):
    """A map that is made without the part of the network after the layer.

    Attributes:
        control: one of `CONTROLS`.
        grid: (rows, columns).
        cells: the cell of each target, for the oracle.
        seed: of the noise; grid i of a run has that of seed + i.
    """

    control: str
    grid: tuple[int, int]
    cells: tuple[int, ...]
    seed: int = 0

    @property
    def signed(self) -> bool:  # type: ignore[override]
        return False

    @property
    def label(self) -> str:
        return self.control

    def options(self) -> dict[str, Any]:
        """The seed, of the random map."""
        return {"seed": self.seed} if self.control == "Random" else {}

    def attribute(self, case: Case) -> Attribution:
        """Maps of one case."""
        inputs = case.activation.detach().as_subclass(Tensor)
        if self.control == "OracleMask":
            return Attribution(torch.cat([oracle_mask(inputs, self.grid, cell) for cell in self.cells], dim=1))
        if self.control == "Random":
            maps = random_map(inputs, seed=self.seed + case.offset)
        else:
            maps = {"Uniform": uniform_map, "SobelEdges": sobel_edges, "InputMagnitude": input_magnitude}[self.control](
                inputs
            )
        return Attribution(maps.expand(-1, case.target_count, -1, -1))


def control_methods(grid: tuple[int, int], cells: tuple[int, ...], seed: int) -> list[Method]:
    """All controls for targets in these cells."""
    return [ControlMap(control=control, grid=grid, cells=cells, seed=seed) for control in CONTROLS]

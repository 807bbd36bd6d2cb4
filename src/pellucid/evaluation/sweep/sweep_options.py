"""What a researcher chooses for a sweep."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pellucid.attribution import Output, Target
from pellucid.errors import PellucidError
from pellucid.evaluation.localization import Grid, grid_shape
from pellucid.evaluation.settings import (
    DiFull,
    DiPart,
    GridPG,
    GridSetting,
    Order,
)

SETTINGS: dict[str, type[GridSetting]] = {setting.__name__: setting for setting in (GridPG, DiFull, DiPart)}
"""Grid settings by name."""

Pool = Literal["common", "own"]
KeepMaps = Literal["none", "first", "all"]


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """Options of a sweep; the defaults follow Rao et al., CVPR 2022, except for the number of grids.

    Attributes:
        settings: names of grid settings.
        layers: `input`, `middle`, `final`, or names of layers.
        n: n for n x n cells, or (rows, columns).
        grids: how many grids of GridPG.
        same_class_grids: how many grids of DiFull and DiPart, which share theirs; None for as many as `grids`.
        threshold: least probability of the true class for an image to be used.
        pool: with several models, "common" takes images that all of them are sure of, so that all see the same grids;
            "own" makes grids for each.
        reuse: let images between the twins recur in other grids (the rule for CIFAR-10).
        kernel_sizes: Gaussian kernels, odd, in cells of the map, with which every method's maps are also smoothed; at a
            layer where a kernel is longer than both sides of the map it is left out.
        randomize: as a control, also evaluate networks that have forgotten their weights from the top: in so many
            steps, the last of which leaves nothing, or down to each of these layers, the top first.
        keep_maps: which cells' maps are kept for AggAtt: "none", the "first" cell's (the paper's choice), or "all".
        order: "pool_first" or "classify_first" where the head after pooling is not linear (see `GridPG`).
        head: name of the layer with the last spatial map; by default it is looked for.
        output: what of a cell's class is explained, see `pellucid.attribution.Target`: "logit" as published; the others
            do not change when one vector is added to the weights of every class, which leaves all probabilities alone.
        seed: of the grids, the random control and the randomized weights.
        shard_size: grids in one shard, the unit of work that is kept or lost when a run is killed.
        max_batch: most images in one pass when the data set is classified.
    """

    settings: tuple[str, ...] = tuple(SETTINGS)
    layers: tuple[str, ...] = ("input", "middle", "final")
    n: Grid = 2
    grids: int = 100
    same_class_grids: int | None = None
    threshold: float = 0.99
    pool: Pool = "common"
    reuse: bool = False
    kernel_sizes: tuple[int, ...] = ()
    randomize: int | tuple[str, ...] = 0
    keep_maps: KeepMaps = "first"
    order: Order = "auto"
    head: str | None = None
    output: Output = "logit"
    seed: int = 0
    shard_size: int = 4
    max_batch: int = 16

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", grid_shape(self.n))
        object.__setattr__(self, "settings", setting_names(self.settings))
        self._check_layers()
        for name, least in (("grids", 1), ("shard_size", 1), ("max_batch", 1), ("threshold", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise PellucidError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        if self.same_class_grids is not None and self.same_class_grids < 1:
            raise PellucidError(
                f"same_class_grids is {self.same_class_grids}; it must be at least 1, or None for as many as grids"
            )
        for kernel in self.kernel_sizes:
            if kernel < 3 or kernel % 2 == 0:
                raise PellucidError(f"a kernel of {kernel} cells was asked for; it must be odd and at least 3")
        Target(output=self.output)  # refuses an unknown one
        for name, choices in (("pool", ("common", "own")), ("keep_maps", ("none", "first", "all"))):
            if getattr(self, name) not in choices:
                raise PellucidError(f"{name}={getattr(self, name)!r}; choose from {', '.join(choices)}")
        if isinstance(self.randomize, int) and self.randomize < 0:
            raise PellucidError(f"randomize is {self.randomize}; it is a number of steps, or names of layers")
        object.__setattr__(self, "kernel_sizes", tuple(sorted(set(self.kernel_sizes))))

    def _check_layers(self) -> None:
        if not self.layers:
            raise PellucidError("no layers given; choose from input, middle, final, or names of layers")
        if len(set(self.layers)) < len(self.layers):
            raise PellucidError(f"a layer is named twice in {', '.join(self.layers)}")

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns)."""
        return grid_shape(self.n)

    @property
    def needs_distinct(self) -> bool:
        """Whether a setting uses grids of distinct classes."""
        return "GridPG" in self.settings

    @property
    def needs_same_class(self) -> bool:
        """Whether a setting uses grids with twins."""
        return set(self.settings) != {"GridPG"}

    def grids_of(self, setting: str) -> int:
        """How many grids a setting is evaluated on."""
        return self.grids if setting == "GridPG" or self.same_class_grids is None else self.same_class_grids


def setting_names(names: Sequence[str]) -> tuple[str, ...]:
    """Settings by name in any spelling of the case; raises PellucidError for an unknown one."""
    known = {name.lower(): name for name in SETTINGS}
    if not names:
        raise PellucidError(f"no settings given; choose from {', '.join(SETTINGS)}")
    found = []
    for name in names:
        if name.lower() not in known:
            near = difflib.get_close_matches(name.lower(), known, n=1)
            hint = f"did you mean {known[near[0]]}?" if near else f"choose from {', '.join(SETTINGS)}"
            raise PellucidError(f"no setting {name!r}; {hint}")
        found.append(known[name.lower()])
    return tuple(dict.fromkeys(found))

"""What a researcher chooses for a sweep."""

import difflib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from pellucid.attribution import Output, Target
from pellucid.errors import PellucidError
from pellucid.evaluation.localization import Grid, grid_shape
from pellucid.evaluation.metrics import METRICS
from pellucid.evaluation.settings import (
    DiFull,
    DiPart,
    GridPG,
    GridSetting,
    Order,
)

SETTINGS: dict[str, type[GridSetting]] = {setting.__name__: setting for setting in (GridPG, DiFull, DiPart)}
"""Grid settings by name."""

LOCALIZATION = "localization"
"""The metric of grids; all others are of single images."""

Pool = Literal["common", "own"]
KeepMaps = Literal["none", "first", "all"]


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """Options of a sweep; the defaults follow Rao et al., CVPR 2022, except for the number of grids.

    Attributes:
        metrics: localization (on grids), deletion, insertion, road, randomization, random_logit, target_sensitivity,
            regions or concepts (on single images).
        settings: grid settings: GridPG, DiFull, DiPart.
        layers: input, middle, final, or names of layers.
        n: cells of a grid: 2 for 2 x 2, or (rows, columns), typed as 2x3.
        grids: how many grids of GridPG; the paper has 500.
        same_class_grids: how many grids of DiFull and DiPart; the paper has 1000; none for as many as of GridPG.
        threshold: least probability of the true class for an image to be used.
        pool: with several models, "common" images that all are sure of, or each model's "own".
        reuse: let images of the cells between the same-class pair recur in other grids, as for CIFAR-10.
        kernel_sizes: also smooth all maps with Gaussians of this many cells (odd), where they fit the map.
        randomize: also evaluate networks with random weights: in this many steps, or down to each of these layers.
        keep_maps: which cells' maps are kept for AggAtt: none, the first cell's (as in the paper), or all.
        order: of a non-linear head after pooling in GridPG: pool_first or classify_first.
        head: name of the layer with the last spatial map; none to find it.
        output: what of a class is explained: logit (as published), centered, log_probability, probability or margin.
        images: how many single images the other metrics are measured on: those of the grids first.
        regions: boxes (CSV or TSV: path, left, top, right, bottom) or folder of masks, for the metrics that need them.
        metric_options: options of metrics, one at a time, such as deletion.steps=10 or concepts.cavs=FOLDER.
        seed: of the grids, the choice of images, the random control and the random weights.
        shard_size: grids or images in a unit of work, the most that is lost when a run is killed.
        max_batch: most images in one pass when the data set is classified.

    >>> SweepOptions(metrics=("localization", "deletion"), n=3, settings=("gridpg",)).grid
    (3, 3)
    """

    metrics: tuple[str, ...] = (LOCALIZATION,)
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
    images: int = 20
    regions: str | None = None
    metric_options: tuple[str, ...] = ()
    seed: int = 0
    shard_size: int = 4
    max_batch: int = 16

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", grid_shape(self.n))
        object.__setattr__(self, "settings", setting_names(self.settings))
        object.__setattr__(self, "metrics", metric_names(self.metrics))
        self._check_layers()
        for name, least in (
            ("grids", 1),
            ("images", 1),
            ("shard_size", 1),
            ("max_batch", 1),
            ("seed", 0),
        ):
            if getattr(self, name) < least:
                raise PellucidError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        if not 0 <= self.threshold <= 1:
            raise PellucidError(f"threshold is {self.threshold}; it is a probability, 0 to 1")
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
    def measures_grids(self) -> bool:
        """Whether localization is measured."""
        return LOCALIZATION in self.metrics

    @property
    def needs_distinct(self) -> bool:
        """Whether a setting uses grids of distinct classes."""
        return self.measures_grids and "GridPG" in self.settings

    @property
    def needs_same_class(self) -> bool:
        """Whether a setting uses grids with a same-class pair."""
        return self.measures_grids and set(self.settings) != {"GridPG"}

    def grids_of(self, setting: str) -> int:
        """How many grids a setting is evaluated on."""
        return self.grids if setting == "GridPG" or self.same_class_grids is None else self.same_class_grids


def setting_names(names: Sequence[str]) -> tuple[str, ...]:
    """Settings by name in any spelling of the case; raises PellucidError for an unknown one.

    >>> setting_names(["gridpg", "DIFULL"])
    ('GridPG', 'DiFull')
    """
    return _find_names(names, SETTINGS, "setting")


def metric_names(names: Sequence[str]) -> tuple[str, ...]:
    """Metrics by name in any spelling of the case, each once; raises PellucidError for an unknown one.

    >>> metric_names(["Localization", "random-logit"])
    ('localization', 'random_logit')
    """
    return _find_names([name.replace("-", "_") for name in names], (LOCALIZATION, *METRICS), "metric")


def _find_names(names: Sequence[str], choices: Collection[str], noun: str) -> tuple[str, ...]:
    known = {name.lower(): name for name in choices}
    if not names:
        raise PellucidError(f"no {noun}s given; choose from {', '.join(choices)}")
    for name in names:
        if name.lower() not in known:
            near = difflib.get_close_matches(name.lower(), known, n=1)
            hint = f"did you mean {known[near[0]]}?" if near else f"choose from {', '.join(choices)}"
            raise PellucidError(f"no {noun} {name!r}; {hint}")
    return tuple(dict.fromkeys(known[name.lower()] for name in names))

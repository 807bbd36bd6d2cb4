"""What every result is: a frozen dataclass that can be kept, printed and tabulated, with its provenance and receipt."""

import json
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from torch import Tensor

from pellucid._version import __version__
from pellucid.results.passes import Passes
from pellucid.storage import RecordError, to_record

if TYPE_CHECKING:
    import pyarrow


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """How a result was made.

    Attributes:
        model: name of the classifier.
        layers: the layers it was explained at; the last one is the network's nearest to the output.
        method: name of the method.
        options: every option of the method with its value; loaded from a file, as JSON has them (a tuple is a list).
        seeds: what was drawn -> the seed of it.
        versions: package -> version, see `library_versions`.

    >>> made = Provenance(model="digit_cnn", layers=("features.7",), method="GradCAM")
    >>> made.layer
    'features.7'
    """

    model: str
    layers: tuple[str, ...]
    method: str
    options: Mapping[str, object] = field(default_factory=dict)
    seeds: Mapping[str, int] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def layer(self) -> str:
        """The layer's name; several are joined by a comma."""
        return ", ".join(self.layers)

    def recordable(self) -> "Provenance":
        """The same with options that JSON can hold; one that is neither data nor a dataclass becomes its text."""
        return replace(self, options={name: _recordable(value) for name, value in self.options.items()})


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """How well a method did in one kind of test, on the model that the result explains.

    Attributes:
        test: what was measured, in words.
        value: the mean score.
        chance: the score without any knowledge, where there is one.
        count: over how many cases it was measured.
        higher_is_better: whether more is better.

    >>> Measurement(test="right cell of a 2 x 2 grid", value=0.93, chance=0.25, count=100).higher_is_better
    True
    """

    test: str
    value: float
    chance: float | None = None
    count: int = 1
    higher_is_better: bool = True


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What a result cost, and how far to believe it; None stands for "was not measured".

    Attributes:
        passes: rows that went through the network.
        seconds: the time it took, where that was measured.
        gap: the largest relative completeness gap, a share of the change in score (0 is exact); None where the method
            promises no completeness.
        localization: how often the method finds the known place on this model.
        fidelity: how closely the result follows the model, measured by changing images.

    >>> Receipt(passes=Passes(network_forward=1)).gap is None
    True
    """

    passes: Passes = field(default_factory=Passes)
    seconds: float | None = None
    gap: float | None = None
    localization: Measurement | None = None
    fidelity: Measurement | None = None


def _recordable(value: object) -> object:
    try:
        return to_record(value)
    except RecordError:
        return str(value)


def library_versions() -> dict[str, str]:
    """Versions of pellucid and torch, for `Provenance.versions`.

    >>> sorted(library_versions())
    ['pellucid', 'torch']
    """
    import torch

    return {"pellucid": __version__, "torch": torch.__version__}


SCHEMA_VERSION = 1
"""Of saved results; raised when an older pellucid could no longer read a new one."""


class Result(ABC):
    """What all results offer: `values`, `scores`, `targets`, `notes`, `provenance`, `receipt`, and ways to keep them.

    A result is a frozen dataclass that derives from `Result`, names its `kind` (a key of `KINDS`) and gives its numbers
    by `rows`. Saving and loading follow from the dataclass's fields.

    Attributes:
        kind: name of this kind of result.
        values: the maps (N, ..., h, w), or named tensors.
        scores: the explained numbers themselves.
        targets: what was explained, as readers see it.
        notes: remarks on the whole, or on each image.
        provenance: how it was made.
        receipt: what it cost, and how far to believe it.
    """

    kind: ClassVar[str]
    keys: ClassVar[frozenset[str]] = frozenset({"image"})
    """Names of whole-number columns of `rows` that say which image is meant, and are no measured numbers."""

    if TYPE_CHECKING:
        # Fields or properties of the dataclasses; declared here for type checkers only, so that they are no fields.
        @property
        def values(self) -> Tensor | Mapping[str, Tensor]: ...
        @property
        def scores(self) -> Tensor | Mapping[str, Tensor]: ...
        @property
        def targets(self) -> Any: ...
        @property
        def notes(self) -> Any: ...
        @property
        def provenance(self) -> Provenance: ...
        @property
        def receipt(self) -> Receipt: ...

    @abstractmethod
    def rows(self) -> Iterable[Mapping[str, object]]:
        """One mapping for each thing measured: texts that say which it is, and its numbers by name."""

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON: dicts, lists, texts, numbers and None; tensors become lists."""
        return {"kind": self.kind, "schema_version": SCHEMA_VERSION, "record": to_record(self.recordable())}

    def recordable(self) -> Self:
        """The same with a provenance that JSON can hold."""
        return replace(self, provenance=self.provenance.recordable())  # type: ignore[type-var]

    def to_table(self) -> "pyarrow.Table":
        """A tidy table, one row per number.

        Returns:
            The columns kind, model, layer, method, options (JSON), those that `rows` identifies a number by, then
            `quantity` (its name) and `value` (None where it is not known).
        """
        import pyarrow

        provenance = self.provenance
        options = json.dumps(to_record(provenance.recordable().options), sort_keys=True)
        common = {
            "kind": self.kind,
            "model": provenance.model,
            "layer": provenance.layer,
            "method": provenance.method,
            "options": options,
        }
        return pyarrow.Table.from_pylist([{**common, **row} for row in long_rows(self.rows(), self.keys)])

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the result into a folder, whole or not at all: `result.json` and `tensors.safetensors`.

        Args:
            folder: made if missing; a result already there is replaced, other files stay.

        Returns:
            The folder, which `pellucid.results.load` takes.

        Raises:
            OSError: the folder cannot be written.
        """
        from pellucid.results.saved import save

        return save(self, folder)


def long_rows(rows: Iterable[Mapping[str, object]], keys: frozenset[str]) -> list[dict[str, object]]:
    """Rows with many numbers as rows with one number each.

    Args:
        rows: texts, truth values and the columns named in `keys` say which row it is, all others are numbers or None.
        keys: names of whole-number columns that identify a row.

    >>> long_rows([{"image": 0, "target": "cat", "score": 2.0, "gap": None}], frozenset({"image"}))[0]
    {'image': 0, 'target': 'cat', 'quantity': 'score', 'value': 2.0}
    """
    long: list[dict[str, object]] = []
    for row in rows:
        names = {name: value for name, value in row.items() if name in keys or isinstance(value, str | bool)}
        long += [{**names, "quantity": name, "value": _number(row[name])} for name in row if name not in names]
    return long


def _number(value: object) -> float | None:
    """A number of a table; what is not known is None, and so is "not a number"."""
    if value is None:
        return None
    number = float(value)  # type: ignore[arg-type]
    return None if math.isnan(number) else number

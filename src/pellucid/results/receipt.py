"""How a result was made (provenance), and what it cost and how far to believe it (receipt)."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pellucid._version import __version__
from pellucid.results.passes import Passes
from pellucid.storage import RecordError, to_record


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

"""What every result has in common: how it was made, how far to believe it, and one way to keep and to load it."""

from pellucid.results.passes import Passes
from pellucid.results.plot import plot_maps
from pellucid.results.result import SCHEMA_VERSION, Measurement, Provenance, Receipt, Result, library_versions
from pellucid.results.saved import KINDS, ResultError, load

__all__ = [
    "KINDS",
    "SCHEMA_VERSION",
    "Measurement",
    "Passes",
    "Provenance",
    "Receipt",
    "Result",
    "ResultError",
    "library_versions",
    "load",
    "plot_maps",
]

"""Reading pictures safely, and the way between a picture and a classifier's input."""

from pellucid.data.context_table import (
    ContextScale,
    ContextTable,
    read_context,
    write_context,
)
from pellucid.data.geometry import Geometry, PlaceMode
from pellucid.data.images import (
    MAX_PIXELS,
    SUFFIXES,
    PictureFailure,
    find_pictures,
    read_picture,
    read_pictures,
    to_rgb,
)
from pellucid.data.preprocessing import Interpolation, Preprocess
from pellucid.data.probe_geometry import measure_geometry

__all__ = [
    "MAX_PIXELS",
    "SUFFIXES",
    "ContextScale",
    "ContextTable",
    "Geometry",
    "Interpolation",
    "PictureFailure",
    "PlaceMode",
    "Preprocess",
    "find_pictures",
    "measure_geometry",
    "read_context",
    "read_picture",
    "read_pictures",
    "to_rgb",
    "write_context",
]

"""Reading pictures safely, and the way between a picture and a classifier's input."""

from pellucid.data.context import ContextScale, ContextTable, read_context, write_context
from pellucid.data.files import locked, write_atomically
from pellucid.data.geometry import Geometry, PlaceMode
from pellucid.data.idx import read_idx, read_mnist
from pellucid.data.measuring import measure_geometry
from pellucid.data.pictures import (
    MAX_PIXELS,
    SUFFIXES,
    PictureFailure,
    find_pictures,
    read_picture,
    read_pictures,
    to_rgb,
)
from pellucid.data.preprocessing import Interpolation, Preprocess

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
    "locked",
    "measure_geometry",
    "read_context",
    "read_idx",
    "read_mnist",
    "read_picture",
    "read_pictures",
    "to_rgb",
    "write_atomically",
    "write_context",
]

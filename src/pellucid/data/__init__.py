"""Reading pictures safely, and the way between a picture and a classifier's input."""

from pellucid.data.files import write_atomically
from pellucid.data.geometry import Geometry, PlaceMode
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
    "Geometry",
    "Interpolation",
    "PictureFailure",
    "PlaceMode",
    "Preprocess",
    "find_pictures",
    "measure_geometry",
    "read_picture",
    "read_pictures",
    "to_rgb",
    "write_atomically",
]

"""Reading images safely, and the way between an image and a classifier's input."""

from pellucid.data.context_table import (
    ContextScale,
    ContextTable,
    read_context,
    write_context,
)
from pellucid.data.geometry import Geometry, PlaceMode
from pellucid.data.geometry_probe import probe_geometry
from pellucid.data.images import (
    MAX_PIXELS,
    SUFFIXES,
    ImageFailure,
    find_images,
    read_image,
    read_images,
    to_rgb,
)
from pellucid.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Interpolation, Preprocess
from pellucid.data.tables import read_rows, read_text

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "MAX_PIXELS",
    "SUFFIXES",
    "ContextScale",
    "ContextTable",
    "Geometry",
    "ImageFailure",
    "Interpolation",
    "PlaceMode",
    "Preprocess",
    "find_images",
    "probe_geometry",
    "read_context",
    "read_image",
    "read_images",
    "read_rows",
    "read_text",
    "to_rgb",
    "write_context",
]

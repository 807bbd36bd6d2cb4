"""The surrogate (GLANCE): why does the classifier decide so?"""

from pellucid.surrogate.checkpoint import CheckpointError
from pellucid.surrogate.codes import Codes, Twin
from pellucid.surrogate.divergence import DivergedError
from pellucid.surrogate.features import LOGITS_ONLY
from pellucid.surrogate.judge import Rerender
from pellucid.surrogate.options import PRESETS, LossWeights, TrainingOptions
from pellucid.surrogate.shipped import digit_twin
from pellucid.surrogate.training import train
from pellucid.surrogate.twin_surrogate import TwinSurrogate, load

__all__ = [
    "LOGITS_ONLY",
    "PRESETS",
    "CheckpointError",
    "Codes",
    "DivergedError",
    "LossWeights",
    "Rerender",
    "TrainingOptions",
    "Twin",
    "TwinSurrogate",
    "digit_twin",
    "load",
    "train",
]

"""The surrogate (GLANCE): why does the classifier decide so?"""

from pellucid.surrogate.model.codes import Codes, SurrogateProtocol
from pellucid.surrogate.model.features import LOGITS_ONLY
from pellucid.surrogate.pretrained import digit_surrogate
from pellucid.surrogate.surrogate import SurrogateExplainer, load
from pellucid.surrogate.training import CheckpointError, DivergedError, train
from pellucid.surrogate.training_options import PRESETS, LossWeights, Rerender, TrainingOptions, get_preset

__all__ = [
    "LOGITS_ONLY",
    "PRESETS",
    "CheckpointError",
    "Codes",
    "DivergedError",
    "LossWeights",
    "Rerender",
    "SurrogateExplainer",
    "SurrogateProtocol",
    "TrainingOptions",
    "digit_surrogate",
    "get_preset",
    "load",
    "train",
]

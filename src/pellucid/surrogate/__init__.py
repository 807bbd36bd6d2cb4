"""The surrogate (GLANCE): why does the classifier decide so?"""

from pellucid.surrogate.model.attribute_predictors import Rerender
from pellucid.surrogate.model.codes import Codes, SurrogateProtocol
from pellucid.surrogate.model.features import LOGITS_ONLY
from pellucid.surrogate.pretrained import digit_surrogate
from pellucid.surrogate.surrogate import SurrogateExplainer, load
from pellucid.surrogate.training.checkpoint import CheckpointError
from pellucid.surrogate.training.divergence import DivergedError
from pellucid.surrogate.training.train import train
from pellucid.surrogate.training.training_options import PRESETS, LossWeights, TrainingOptions

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
    "load",
    "train",
]

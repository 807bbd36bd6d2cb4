"""The networks of the surrogate: codes, encoders, generator, discriminator, features of the classifier, predictors."""

from pellucid.surrogate.model.auxiliary_models import (
    AttributePredictors,
    AuxiliaryModels,
    AuxiliaryQuality,
    fit_context_probe,
    mean_and_std,
)
from pellucid.surrogate.model.codes import Codes, SurrogateProtocol
from pellucid.surrogate.model.features import LOGITS_ONLY, FeatureExtractor
from pellucid.surrogate.model.image_space import DisplaySpace
from pellucid.surrogate.model.network_layers import (
    ModulatedConv,
    channels_at,
    modulated_conv,
    resolutions_up_to,
    to_channels_last,
)
from pellucid.surrogate.model.surrogate_networks import (
    DataSizes,
    Discriminator,
    Generator,
    SurrogateNetworks,
    make_discriminator,
)

__all__ = [
    "LOGITS_ONLY",
    "AttributePredictors",
    "AuxiliaryModels",
    "AuxiliaryQuality",
    "Codes",
    "DataSizes",
    "Discriminator",
    "DisplaySpace",
    "FeatureExtractor",
    "Generator",
    "ModulatedConv",
    "SurrogateNetworks",
    "SurrogateProtocol",
    "channels_at",
    "fit_context_probe",
    "make_discriminator",
    "mean_and_std",
    "modulated_conv",
    "resolutions_up_to",
    "to_channels_last",
]

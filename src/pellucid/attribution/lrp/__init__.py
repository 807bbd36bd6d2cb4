"""Layer-wise relevance propagation: rules on the operations of a traced network."""

from pellucid.attribution.lrp.lrp import LRP
from pellucid.attribution.lrp.rules import (
    AlphaBeta,
    Epsilon,
    Flat,
    Gamma,
    IdentityRule,
    Rule,
    ZBox,
    ZPlus,
)

__all__ = ["LRP", "AlphaBeta", "Epsilon", "Flat", "Gamma", "IdentityRule", "Rule", "ZBox", "ZPlus"]

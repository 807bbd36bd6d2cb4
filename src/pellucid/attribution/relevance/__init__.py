"""Layer-wise relevance propagation: rules on the operations of a traced network."""

from pellucid.attribution.relevance.lrp import LRP
from pellucid.attribution.relevance.rules import AlphaBeta, Epsilon, Flat, Gamma, Pass, Rule, ZBox, ZPlus

__all__ = ["LRP", "AlphaBeta", "Epsilon", "Flat", "Gamma", "Pass", "Rule", "ZBox", "ZPlus"]

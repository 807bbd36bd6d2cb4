"""What a command does, for Python too: compute and return results; nothing here knows of HTML or of the screen."""

from pellucid.workflows.options import (
    AssessOptions,
    ClassifierOptions,
    ConceptOptions,
    DiscoverOptions,
    EvaluateOptions,
    ExplainClassOptions,
    ExplainConceptsOptions,
    ExplainOptions,
    ExplainSurrogateOptions,
    FitConceptsOptions,
    RunOptions,
    TCAVOptions,
    TrainSurrogateOptions,
)

__all__ = [
    "AssessOptions",
    "ClassifierOptions",
    "ConceptOptions",
    "DiscoverOptions",
    "EvaluateOptions",
    "ExplainClassOptions",
    "ExplainConceptsOptions",
    "ExplainOptions",
    "ExplainSurrogateOptions",
    "FitConceptsOptions",
    "RunOptions",
    "TCAVOptions",
    "TrainSurrogateOptions",
]

"""pellucid: explains image classifiers and proves its explanations."""

__version__ = "0.1.0"

"""The page of a surrogate: its fidelity, the causal graph, and images with their explanations."""

from pellucid.reports.surrogate.image_section import traversal_png
from pellucid.reports.surrogate.surrogate_page import render_surrogate_page, write_surrogate_page

__all__ = ["render_surrogate_page", "traversal_png", "write_surrogate_page"]

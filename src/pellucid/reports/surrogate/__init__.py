"""The page of a surrogate: its fidelity, its graphs, and images explained by it."""

from pellucid.reports.surrogate.graph_page import render_surrogate_page, write_surrogate_page
from pellucid.reports.surrogate.image_parts import traversal_png
from pellucid.reports.surrogate.numbers import explanation_numbers

__all__ = ["explanation_numbers", "render_surrogate_page", "traversal_png", "write_surrogate_page"]

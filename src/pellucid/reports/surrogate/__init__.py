"""The page of a surrogate: its fidelity, the causal graph, and images with their explanations."""

from pellucid.reports.surrogate.surrogate_files import write_explained_images, write_graph
from pellucid.reports.surrogate.surrogate_page import render_surrogate_page, write_surrogate_page

__all__ = ["render_surrogate_page", "write_explained_images", "write_graph", "write_surrogate_page"]

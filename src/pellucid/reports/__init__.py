"""Figures and pages: maps laid over photographs, as PNG files and as one offline HTML page per picture."""

from pellucid.reports.figures import ReportError, colour_bar, overlay, robust_scale, save_overlay
from pellucid.reports.page import PageInput, Panel, render_page, write_page

__all__ = [
    "PageInput",
    "Panel",
    "ReportError",
    "colour_bar",
    "overlay",
    "render_page",
    "robust_scale",
    "save_overlay",
    "write_page",
]

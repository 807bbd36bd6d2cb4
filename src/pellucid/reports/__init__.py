"""Figures and pages: maps laid over photographs, as PNG files and as one offline HTML page per picture."""

from pellucid.reports.colours import ReportError, robust_scale
from pellucid.reports.figures import colour_bar, overlay, save_overlay
from pellucid.reports.local import LocalReport, explain_picture, write_report
from pellucid.reports.page import PageInput, Panel, render_page, write_page

__all__ = [
    "LocalReport",
    "PageInput",
    "Panel",
    "ReportError",
    "colour_bar",
    "explain_picture",
    "overlay",
    "render_page",
    "robust_scale",
    "save_overlay",
    "write_page",
    "write_report",
]

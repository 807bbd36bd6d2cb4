"""Figures and pages: maps laid over photographs, as PNG files and as one offline HTML page per image."""

from pellucid.reports.attribution.explain_image import LocalReport, explain_image, write_report
from pellucid.reports.attribution.page import (
    PageInput,
    Panel,
    render_page,
    write_page,
)
from pellucid.reports.concepts.class_page import render_class_page, write_class_page
from pellucid.reports.concepts.image_page import (
    ConceptReport,
    explain_image_by_concepts,
    render_concept_page,
    write_concept_page,
)
from pellucid.reports.evaluation.evaluation_page import render_evaluation, write_evaluation
from pellucid.reports.shared.colors import ReportError, robust_scale
from pellucid.reports.shared.overlays import color_bar, overlay, save_overlay
from pellucid.reports.surrogate.graph_page import render_surrogate_page, write_surrogate_page
from pellucid.reports.surrogate.why_page import ExplainedImage

__all__ = [
    "ConceptReport",
    "ExplainedImage",
    "LocalReport",
    "PageInput",
    "Panel",
    "ReportError",
    "color_bar",
    "explain_image",
    "explain_image_by_concepts",
    "overlay",
    "render_class_page",
    "render_concept_page",
    "render_evaluation",
    "render_page",
    "render_surrogate_page",
    "robust_scale",
    "save_overlay",
    "write_class_page",
    "write_concept_page",
    "write_evaluation",
    "write_page",
    "write_report",
    "write_surrogate_page",
]

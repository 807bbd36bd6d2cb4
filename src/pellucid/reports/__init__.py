"""Pages and figures: pure functions of results, as PNG files and as HTML pages that work offline."""

from pellucid.reports.attribution import (
    PageInput,
    Panel,
    render_page,
    write_image_files,
    write_image_report,
    write_page,
)
from pellucid.reports.concepts import (
    render_class_page,
    render_concept_page,
    write_class_page,
    write_concept_files,
    write_concept_page,
)
from pellucid.reports.evaluation import render_evaluation, write_evaluation
from pellucid.reports.shared.output_folders import image_folders
from pellucid.reports.shared.overlays import color_bar, overlay, save_overlay
from pellucid.reports.shared.scales import ReportError, robust_scale
from pellucid.reports.surrogate import render_surrogate_page, write_surrogate_page

__all__ = [
    "PageInput",
    "Panel",
    "ReportError",
    "color_bar",
    "image_folders",
    "overlay",
    "render_class_page",
    "render_concept_page",
    "render_evaluation",
    "render_page",
    "render_surrogate_page",
    "robust_scale",
    "save_overlay",
    "write_class_page",
    "write_concept_files",
    "write_concept_page",
    "write_evaluation",
    "write_image_files",
    "write_image_report",
    "write_page",
    "write_surrogate_page",
]

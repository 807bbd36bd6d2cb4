"""The page of an image: predictions and maps in a grid of methods by layers."""

from pellucid.reports.attribution.image_report import write_image_files, write_image_report
from pellucid.reports.attribution.maps_page import PageInput, Panel, render_page, write_page

__all__ = ["PageInput", "Panel", "render_page", "write_image_files", "write_image_report", "write_page"]

"""The concept pages: of one image, and of a class over many images."""

from pellucid.reports.concepts.class_page import render_class_page, write_class_page
from pellucid.reports.concepts.concept_files import write_concept_files
from pellucid.reports.concepts.image_page import render_concept_page, write_concept_page

__all__ = ["render_class_page", "render_concept_page", "write_class_page", "write_concept_files", "write_concept_page"]

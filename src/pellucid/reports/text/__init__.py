"""What a terminal shows of results: tables and lines."""

from pellucid.reports.text.blocks import Block, Line, make_table
from pellucid.reports.text.concept_texts import cav_texts, image_concept_texts, ranking_texts, tcav_texts
from pellucid.reports.text.evaluation_texts import run_texts
from pellucid.reports.text.surrogate_texts import assessment_texts, explained_image_texts, global_explanation_texts

__all__ = [
    "Block",
    "Line",
    "assessment_texts",
    "cav_texts",
    "explained_image_texts",
    "global_explanation_texts",
    "image_concept_texts",
    "make_table",
    "ranking_texts",
    "run_texts",
    "tcav_texts",
]

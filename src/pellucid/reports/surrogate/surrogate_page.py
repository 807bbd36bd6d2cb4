"""The page of a surrogate: can it be believed, what does the classifier perceive, and why these images?"""

import os
from collections.abc import Sequence
from typing import Any

from pellucid.reports.shared.html import render_html
from pellucid.reports.surrogate.fidelity_section import fidelity_view, is_trustworthy
from pellucid.reports.surrogate.graph_figure import graph_views
from pellucid.reports.surrogate.image_section import image_view
from pellucid.results import library_versions
from pellucid.storage import write_atomically
from pellucid.workflows import ExplainedImage, SurrogateFacts


def write_surrogate_page(
    path: str | os.PathLike[str], surrogate: SurrogateFacts, images: Sequence[ExplainedImage] = ()
) -> None:
    """Write `render_surrogate_page` as a UTF-8 file: all of it or nothing.

    Args:
        path: the file; missing folders are created.
        surrogate: with its assessment and its graphs, as far as there are any.
        images: explained ones, in the order shown.

    Raises:
        OSError: the file cannot be written.
    """
    write_atomically(path, render_surrogate_page(surrogate, images).encode())


def render_surrogate_page(surrogate: SurrogateFacts, images: Sequence[ExplainedImage] = ()) -> str:
    """One HTML document that needs no other file and no network.

    Args:
        surrogate: with its assessment and its graphs, as far as there are any; the page says what is missing.
        images: explained ones, in the order shown.

    >>> from pellucid.surrogate import digit_surrogate
    >>> from pellucid.workflows import describe_surrogate
    >>> "Can it be believed?" in render_surrogate_page(describe_surrogate(digit_surrogate()))
    True
    """
    explanation = surrogate.global_explanation
    graph = None if explanation is None else graph_views(explanation, surrogate.class_names)
    name = "surrogate/surrogate_page"
    return render_html(
        f"{name}.html",
        f"{name}.js",
        f"{name}.css",
        {"views": len(graph["views"]) if graph else 0, "photo": "", "targets": 0, "layers": 0},
        name=surrogate.model,
        fidelity=fidelity_view(surrogate),
        trusted=is_trustworthy(surrogate),
        graph=graph,
        images=[image_view(surrogate, image) for image in images],
        crisp=surrogate.options.resolution < 128,
        black_box=not surrogate.layers,
        provenance=_provenance(surrogate),
    )


def _provenance(surrogate: SurrogateFacts) -> dict[str, Any]:
    options, explanation = surrogate.options, surrogate.global_explanation
    provenance: dict[str, Any] = {
        "classifier": {
            "name": surrogate.model,
            "weights": surrogate.weights,
            "read at": ", ".join(surrogate.layers) or "its logits only (black box)",
        },
        "surrogate": {
            "steps": f"{surrogate.steps} of {options.steps}",
            "resolution": options.resolution,
            "contexts": ", ".join(surrogate.context_names) or "none",
            "latents": options.latent_dim,
            "nuisance": options.nuisance_dim,
            "seed": options.seed,
        },
        "versions": library_versions(),
    }
    if explanation is not None:
        provenance["graph"] = {
            name: value for name, value in explanation.perceived.provenance.items() if value not in ([], {})
        }
    return provenance

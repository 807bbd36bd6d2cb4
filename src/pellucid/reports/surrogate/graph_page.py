"""The page of a surrogate: may the twin be believed, what does the classifier perceive, and why these images?"""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pellucid.reports.shared.html import render_html
from pellucid.reports.surrogate.fidelity import fidelity_view, is_trustworthy
from pellucid.reports.surrogate.graph_figure import graph_views
from pellucid.reports.surrogate.why_page import image_view
from pellucid.results import library_versions
from pellucid.storage import write_atomically
from pellucid.workflows import ExplainedImage

if TYPE_CHECKING:
    from pellucid.surrogate import SurrogateExplainer


def write_surrogate_page(
    path: str | os.PathLike[str], explainer: "SurrogateExplainer", images: Sequence[ExplainedImage] = ()
) -> None:
    """Write `render_surrogate_page` as a UTF-8 file: all of it or nothing; missing folders are made."""
    write_atomically(path, render_surrogate_page(explainer, images).encode())


def render_surrogate_page(explainer: "SurrogateExplainer", images: Sequence[ExplainedImage] = ()) -> str:
    """One HTML document that needs no other file and no network.

    Args:
        twin: with its marks (`assess`) and its graphs (`discover`), as far as there are any; what lacks is said.
        images: explained ones, in the order shown.
    """
    world = explainer.global_explanation
    graph = None if world is None else graph_views(world, explainer.class_names)
    name = "surrogate/surrogate_page"
    return render_html(
        f"{name}.html",
        f"{name}.js",
        f"{name}.css",
        {"views": len(graph["views"]) if graph else 0, "photo": "", "targets": 0, "layers": 0},
        name=explainer.classifier.name,
        fidelity=fidelity_view(explainer),
        trusted=is_trustworthy(explainer),
        graph=graph,
        images=[image_view(explainer, each) for each in images],
        crisp=explainer.surrogate.options.resolution < 128,
        black_box=not explainer.surrogate.features.layers,
        provenance=_provenance(explainer),
    )


def _provenance(explainer: "SurrogateExplainer") -> dict[str, Any]:
    classifier = explainer.classifier
    made = {
        "classifier": {
            "name": classifier.name,
            "weights": classifier.fingerprint(),
            "seen at": ", ".join(explainer.surrogate.features.layers) or "its logits only (black box)",
        },
        "twin": {
            "steps": f"{explainer.surrogate.steps} of {explainer.surrogate.options.steps}",
            "resolution": explainer.surrogate.options.resolution,
            "contexts": ", ".join(explainer.context_names) or "none",
            "latents": explainer.surrogate.options.latent_dim,
            "nuisance": explainer.surrogate.options.nuisance_dim,
            "seed": explainer.surrogate.options.seed,
        },
        "versions": library_versions(),
    }
    return (
        made
        if explainer.global_explanation is None
        else made
        | {
            "graph": {
                name: each
                for name, each in explainer.global_explanation.perceived.provenance.items()
                if each not in ([], {})
            }
        }
    )

"""The page of a surrogate: may the twin be believed, what does the classifier perceive, and why these pictures?"""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

import pellucid
from pellucid.reports.shared.html import script_hash, templates
from pellucid.reports.surrogate.fidelity import fidelity_view, is_trusted
from pellucid.reports.surrogate.graph_figure import graph_views
from pellucid.reports.surrogate.why_page import ExplainedPicture, picture_view
from pellucid.storage import write_atomically

if TYPE_CHECKING:
    from pellucid.surrogate import TwinSurrogate


def write_surrogate_page(
    path: str | os.PathLike[str], twin: "TwinSurrogate", pictures: Sequence[ExplainedPicture] = ()
) -> None:
    """Write `render_surrogate_page` as a UTF-8 file: all of it or nothing; missing folders are made."""
    write_atomically(path, render_surrogate_page(twin, pictures).encode())


def render_surrogate_page(twin: "TwinSurrogate", pictures: Sequence[ExplainedPicture] = ()) -> str:
    """One HTML document that needs no other file and no network.

    Args:
        twin: with its marks (`assess`) and its graphs (`discover`), as far as there are any; what lacks is said.
        pictures: explained ones, in the order shown.
    """
    from markupsafe import Markup

    graph = None if twin.world is None else graph_views(twin.world, twin.class_names)
    script = templates().get_template("surrogate.js").render()
    views = len(graph["views"]) if graph else 0
    style = templates().get_template("surrogate.css").render(views=views, photo="", targets=0, layers=0)
    return (
        templates()
        .get_template("surrogate.html")
        .render(
            name=twin.classifier.name,
            style=Markup(style),
            script=Markup(script),
            script_hash=script_hash(script),
            fidelity=fidelity_view(twin),
            trusted=is_trusted(twin),
            graph=graph,
            pictures=[picture_view(twin, each) for each in pictures],
            crisp=twin.options.resolution < 128,
            black_box=not twin.features.layers,
            provenance=_provenance(twin),
        )
    )


def _provenance(twin: "TwinSurrogate") -> dict[str, Any]:
    classifier = twin.classifier
    made = {
        "classifier": {
            "name": classifier.name,
            "weights": classifier.fingerprint(),
            "seen at": ", ".join(twin.features.layers) or "its logits only (black box)",
        },
        "twin": {
            "steps": f"{twin.steps} of {twin.options.steps}",
            "resolution": twin.options.resolution,
            "contexts": ", ".join(twin.context_names) or "none",
            "latents": twin.options.latents,
            "nuisance": twin.options.nuisance,
            "seed": twin.options.seed,
        },
        "versions": {"pellucid": pellucid.__version__, "torch": torch.__version__},
    }
    return (
        made
        if twin.world is None
        else made
        | {"graph": {name: each for name, each in twin.world.perceived.made_by.items() if each not in ([], {})}}
    )

"""The surrogate's page: offline, honest about the surrogate, and its graph drawn as it was discovered."""

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.surrogate.support import bars, classifier_of, small_cnn
from tests.surrogate.test_checkpoint import TINY

from pellucid.reports.shared.html import script_hash
from pellucid.reports.surrogate import render_surrogate_page
from pellucid.reports.surrogate.graph_figure import graph_views
from pellucid.reports.surrogate.graph_layout import assign_layers, lay_out
from pellucid.reports.surrogate.image_section import difference_uri, image_uri, traversal_png
from pellucid.surrogate import (
    DecisionEffect,
    GlobalExplanation,
    LocalExplanation,
    LocalOptions,
    Necessity,
    NuisanceNull,
    Proportion,
    SurrogateExplainer,
    load,
    train,
)
from pellucid.surrogate.causal import CausalGraph, Edge
from pellucid.workflows import ExplainedImage, describe_surrogate
from pellucid.workflows.surrogate_report import attach_flip_probabilities

Run = tuple[Path, LocalExplanation]
"""Folder of a training, and an explanation made with it."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("page") / "run"
    data = bars(64, 0, 0.5)
    torch.set_num_threads(1)
    explainer = train(classifier_of(small_cnn()), data.images, data.context, TINY, out, on_progress=None)
    explainer.set_reference(bars(60, 1, 0.5).images)
    explainer.save_state(out)
    explained = explainer.explain(bars(1, 3, 0.5).images, options=LocalOptions(permutations=2, levels=3))
    return out, explained


@pytest.fixture
def explainer(run: Run) -> SurrogateExplainer:
    classifier = classifier_of(small_cnn())
    classifier.name = "net <b>&"
    return load(run[0], classifier=classifier)


def explained(run: Run, explainer: SurrogateExplainer, **changes: Any) -> ExplainedImage:
    return attach_flip_probabilities(explainer, "a <b>&.png", replace(run[1], **changes), None)


def render(explainer: SurrogateExplainer, images: Sequence[ExplainedImage] = ()) -> str:
    return render_surrogate_page(describe_surrogate(explainer), images)


CLASSES = ("thin", "thick")


def global_explanation() -> GlobalExplanation:
    """One edge of every kind."""
    names = ("thickness", "intensity", "slant", "latent 1", "latent 2")
    firm = Edge("thickness", "intensity", "tail", "arrow", 0.96, 0.9, 0.02, 0.91, "knowledge")
    perceived = CausalGraph(
        (*names, "decision", "class"),
        (
            firm,
            Edge("slant", "intensity", confidence=0.5, strength=-0.2, tentative=True),
            Edge("latent 1", "latent 2", "arrow", "arrow", strength=0.3),
            Edge("slant", "latent 1", "circle", "arrow", strength=0.1),
            Edge(
                "intensity",
                "decision",
                "tail",
                "arrow",
                strength=-0.8,
                orientation_source="intervention",
                p_value=0.0004,
            ),
            Edge("class", "intensity", "tail", "arrow", strength=0.2, orientation_source="knowledge", p_value=0.003),
        ),
    )
    data = CausalGraph(("thickness", "intensity", "slant"), (firm, Edge("slant", "thickness", strength=0.3)))
    decisions = (DecisionEffect("intensity", 0.8, 0.1, (0.4, 0.2, 0, -0.2, -0.4), 0.9, low=0.7, high=0.9),)
    perceives = {"thickness": 0.93, "intensity": 0.95, "slant": 0.88}
    return GlobalExplanation(
        data=data,
        perceived=perceived,
        unmodeled_concepts=(),
        probe_r2=perceives,
        decision_effects=decisions,
        null=NuisanceNull(0.01, (0.0,), 0.0),
        necessity=(),
        target=None,
        residual_transfer=False,
        notes=("a note",),
    )


def test_the_page_is_one_offline_file_that_escapes_what_it_is_given(run: Run, explainer: SurrogateExplainer) -> None:
    explainer.global_explanation = global_explanation()
    page = render(explainer, [explained(run, explainer)])
    assert "net &lt;b&gt;&amp;" in page
    assert "a &lt;b&gt;&amp;.png" in page
    assert "<b>&" not in page
    assert all(source.startswith("data:image/") for source in re.findall(r'src="([^"]*)"', page))
    assert not re.findall(r'https?://|@import|href="(?!#)', page)
    script = re.search(r"<script>(.*)</script>", page, re.DOTALL).group(1)
    assert f"'sha256-{script_hash(script)}'" in page
    assert "nan" not in re.sub(r"base64,[^\"]*", "", page).lower().split("<script>")[0].split("</style>")[1].replace(
        "nuisance", ""
    )


def test_for_one_class_the_page_says_which_and_how_necessary_each_concept_is(
    run: Run, explainer: SurrogateExplainer
) -> None:
    share = Proportion(0.25, 0.1, 0.5, 40)
    edges = [
        replace(edge, tentative=True) if edge.target == "decision" else edge
        for edge in global_explanation().perceived.edges
    ]
    explainer.global_explanation = replace(
        global_explanation(),
        target=1,
        necessity=(Necessity("intensity", share, replace(share, estimate=0.4)),),
        perceived=replace(global_explanation().perceived, edges=tuple(edges)),
    )
    page = render(explainer, [])
    assert f"the margin of <b>{explainer.class_names[1]}</b> move" in page
    assert "on the reconstruction?" in page
    assert "<td>25 % [10, 50]</td><td>40 % [10, 50]</td>" in page
    assert "but the surrogate does not control it" in page
    assert "tentative: the surrogate does not control this concept" in page


def test_every_traversal_has_its_images_and_a_curve_of_the_classifiers_answers(
    run: Run, explainer: SurrogateExplainer
) -> None:
    page = render(explainer, [explained(run, explainer)])
    assert page.count('<div class="film">') == len(run[1].traversals) == 5
    assert "3 unexplained latents" in page
    curves = re.findall(r'<svg viewBox="0 0 100 100" preserveAspectRatio="none"><polyline points="([^"]*)"', page)
    first = [100 - float(point.split(",")[1]) for point in curves[0].split()]
    wanted = (100 * run[1].traversals[0].probabilities[:, run[1].target]).tolist()
    assert first == pytest.approx(wanted, abs=0.01)


def test_an_image_that_is_reconstructed_wrongly_begins_with_a_warning(run: Run, explainer: SurrogateExplainer) -> None:
    trust = run[1].fidelity
    alike = replace(trust, resemblance=torch.tensor([0.95]))
    good = replace(alike, same_class=torch.tensor([True]), kl=torch.tensor([0.01]))
    assert "Do not rely on this explanation" not in render(explainer, [explained(run, explainer, fidelity=good)])
    bad = replace(alike, same_class=torch.tensor([True]), kl=torch.tensor([0.8]))
    page = render(explainer, [explained(run, explainer, fidelity=bad)])
    assert "Do not rely on this explanation" in page
    assert "KL divergence 0.80, above 0.5" in page
    unlike = replace(good, resemblance=torch.tensor([0.3]))
    assert "does not resemble the image" in render(explainer, [explained(run, explainer, fidelity=unlike)])


def test_a_surrogate_that_was_never_assessed_is_not_to_be_relied_on(explainer: SurrogateExplainer) -> None:
    assert "Do not rely on this surrogate" in render(explainer)
    assert "never assessed" in render(explainer)


def test_refused_concepts_are_named_with_the_reason(run: Run, explainer: SurrogateExplainer) -> None:
    explainer.assess(bars(60, 2, 0.5).images)
    assessment = explainer.assessment
    one, other = assessment.controls
    explainer.assessment = replace(
        assessment, agreement=1.0, kl=0.0, logit_r2=1.0, head_agreement=1.0, nuisance_flip_rate=0.0,
        controls=(replace(one, correlation=0.4), replace(other, correlation=0.9, leakage={"thickness": 0.6})),
    )  # fmt: skip
    page = render(explainer, [explained(run, explainer, refused={"thickness": "it is <refused>"})])
    assert "Counterfactuals of thickness are refused" in page
    assert "it is &lt;refused&gt;" in page
    assert "setting it also moves thickness" in page
    assert "upper bounds" in page


def test_each_kind_of_edge_is_drawn_with_its_own_marks() -> None:
    edges = {edge["label"]: edge for edge in graph_views(global_explanation(), CLASSES)["views"][0]["edges"]}
    cause, hidden = edges["thickness → intensity"], edges["latent 1 ↔ latent 2"]
    open_edge, circle = edges["slant — intensity"], edges["slant o→ latent 1"]
    assert [list(mark) for mark in cause["marks"]] == [["points"]]
    assert [list(mark) for mark in hidden["marks"]] == [["points"], ["points"]]
    assert [list(mark) for mark in circle["marks"]] == [["circle"], ["points"]]
    assert open_edge["marks"] == []
    assert (open_edge["open"], open_edge["tentative"], cause["tentative"]) == (True, True, False)
    decides = edges["intensity → decision"]
    assert (decides["sign"], cause["sign"]) == ("against", "for")
    assert decides["width"] > open_edge["width"]
    assert any("sd of the margin" in tip for tip in decides["tips"])
    assert not any("p < 0.001" in tip for tip in decides["tips"])
    assert any("96.0 %" in tip for tip in cause["tips"])
    assert not any("class" in label for label in edges)


def test_the_difference_of_the_graphs_is_drawn_and_described() -> None:
    views = graph_views(global_explanation(), CLASSES)
    assert [view["name"] for view in views["views"]] == [
        "What the classifier perceives",
        "What the data say",
        "Difference",
    ]
    stories = {edge["label"]: edge["story"] for edge in views["views"][2]["edges"]}
    assert stories == {
        "slant — thickness": "only in the data",
        "intensity — slant": "only perceived",
        "thickness → intensity": "in both",
    } or stories == {
        "thickness — slant": "only in the data",
        "intensity — slant": "only perceived",
        "thickness → intensity": "in both",
    }
    assert len(views["differences"]) == 3


def test_a_direction_that_images_do_not_agree_on_has_no_color() -> None:
    explanation = global_explanation()
    unsure = replace(explanation, decision_effects=(replace(explanation.decision_effects[0], sign_agreement=0.52),))
    (edge,) = [
        edge for edge in graph_views(unsure, CLASSES)["views"][0]["edges"] if edge["label"] == "intensity → decision"
    ]
    assert edge["sign"] == "none"


def test_causes_stand_left_of_effects_and_no_boxes_overlap() -> None:
    nodes = [f"n{number}" for number in range(12)] + ["end"]
    random = np.random.default_rng(0)
    pairs = [(f"n{a}", f"n{b}") for a in range(12) for b in range(a + 1, 12) if random.random() < 0.2]
    pairs += [(f"n{number}", "end") for number in range(12)]
    layers = assign_layers(nodes, pairs, "end")
    layout = lay_out(nodes, pairs, layers)
    for cause, effect in pairs:
        assert layout.boxes[cause].x + layout.boxes[cause].width <= layout.boxes[effect].x
        (x1, y1, _), (x2, y2, way) = layout.routes[cause, effect].ends
        assert (x1, x2, way) == (layout.boxes[cause].x + layout.boxes[cause].width, layout.boxes[effect].x, 1)
        for name, y in ((cause, y1), (effect, y2)):
            assert layout.boxes[name].y <= y <= layout.boxes[name].y + layout.boxes[name].height
    boxes = list(layout.boxes.values())
    for place, one in enumerate(boxes):
        assert one.x + one.width <= layout.width
        assert one.y + one.height <= layout.height
        for other in boxes[place + 1 :]:
            assert one.x != other.x or one.y + one.height <= other.y or other.y + other.height <= one.y


def test_an_edge_that_would_close_a_cycle_does_not_count_for_the_layers() -> None:
    assert assign_layers(["a", "b"], [("a", "b"), ("b", "a")]) == {"a": 0, "b": 1}


def decoded(uri: str) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as image:
        return np.asarray(image)


def test_differences_are_green_where_brighter_magenta_where_darker_and_gray_elsewhere(
    explainer: SurrogateExplainer,
) -> None:
    before = torch.full((1, 16, 16), 0.5)
    after = before.clone()
    after[0, :4], after[0, -4:] = 0.8, 0.2
    red, green, blue = decoded(difference_uri(explainer.surrogate.space, before, after)).astype(int).transpose(2, 0, 1)
    assert (green[:4] > red[:4]).all()
    assert (red[-4:] > green[-4:]).all()
    assert ((red == green) & (green == blue))[4:-4].all()
    same = decoded(difference_uri(explainer.surrogate.space, before, before)).astype(int)
    assert (same == same[..., :1]).all()


def test_gray_and_color_images_are_shown_pixel_for_pixel(explainer: SurrogateExplainer) -> None:
    gray = explainer.surrogate.space
    levels = torch.linspace(gray.low[0], gray.high[0], 256).view(1, 16, 16)
    assert decoded(image_uri(gray, levels)).tolist() == np.arange(256).reshape(16, 16).tolist()
    color = replace(gray, low=gray.low * 3, high=gray.high * 3)
    red = torch.cat([levels, levels * 0 + gray.low[0], levels * 0 + gray.low[0]])
    assert decoded(image_uri(color, red))[..., 0].tolist() == np.arange(256).reshape(16, 16).tolist()
    assert decoded(image_uri(color, red)).shape == (16, 16, 3)
    with Image.open(io.BytesIO(traversal_png(color, torch.stack([red, red])))) as strip:
        assert strip.size == (2 * 96, 96)


def test_the_numbers_are_those_of_the_explanation(run: Run, explainer: SurrogateExplainer) -> None:
    numbers = explained(run, explainer).to_dict(describe_surrogate(explainer))
    assert [row["value"] for row in numbers["importance"]] == run[1].importance.values[0].tolist()
    assert sum(row["value"] for row in numbers["importance"]) + numbers["baseline"] == pytest.approx(
        numbers["margin"], abs=1e-3
    )
    assert sum(numbers["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert numbers["counterfactual"] is None

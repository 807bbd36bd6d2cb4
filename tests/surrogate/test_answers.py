"""Questions to a trained twin: the gate, composition, what responds, and what is kept in the folder."""

from dataclasses import replace

import pytest
import torch
from tests.surrogate.support import bars, classifier_of, small_cnn
from tests.surrogate.test_checkpoint import TINY
from torch import nn

from pellucid import Classifier, PellucidError
from pellucid.classifiers.randomize import initialised_anew, with_network
from pellucid.errors import TargetError
from pellucid.surrogate import load, train
from pellucid.surrogate.causal.graph import CausalGraph, Edge
from pellucid.surrogate.causal.search import DiscoveryOptions, Knowledge
from pellucid.surrogate.explain.decision_effects import NuisanceNull
from pellucid.surrogate.explain.global_explanation import GlobalExplanation
from pellucid.surrogate.explain.validity import RefusedError


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("answers") / "run"
    data = bars(64, 0, 0.5)
    torch.set_num_threads(1)
    train(classifier_of(small_cnn()), data.pictures, data.context, TINY, out, report=None)
    return out


@pytest.fixture
def twin(run):
    loaded = load(run, classifier=classifier_of(small_cnn()))
    loaded.remember(bars(80, 1, 0.5).pictures)
    return loaded


def world_of(edge: Edge) -> GlobalExplanation:
    graph = CausalGraph(("thickness", "intensity"), (edge,))
    return GlobalExplanation(None, graph, (), None, {}, (), NuisanceNull(0.0, (), 0.0), (), None, False, ())


def with_control(twin, **correlations):
    marks = twin.assess(bars(60, 2, 0.5).pictures)
    controls = tuple(replace(each, correlation=correlations.get(each.concept, 0.9)) for each in marks.controls)
    twin.assessment = replace(marks, controls=controls)
    twin.remember(bars(80, 1, 0.5).pictures)


def test_a_context_that_the_twin_does_not_control_cannot_be_set(twin):
    with_control(twin, thickness=0.56)
    picture = bars(1, 3, 0.5).pictures
    with pytest.raises(RefusedError, match=r"'thickness' are refused: .* 0\.56"):
        twin.counterfactual(picture, {"thickness": 4.0})
    assert twin.counterfactual(picture, {"intensity": 0.5}).pictures.shape == picture.shape
    found = twin.explain(picture, permutations=2, values=3)
    assert set(found.refused) == {"thickness"}
    assert "thickness" not in [strip.concept for strip in found.strips]
    assert found.flipped.change[0, 0] == 0


def test_marks_taken_after_remembering_reach_what_is_explained(twin):
    assert dict(twin.reference.effectiveness) == {}
    marks = twin.assess(bars(60, 2, 0.5).pictures)
    assert dict(twin.reference.effectiveness) == marks.effectiveness


def test_setting_a_context_to_what_it_is_leaves_the_picture_as_it_is(twin):
    picture = bars(1, 3, 0.5).pictures
    values = twin.context_values(twin.encode(picture).context)[0].tolist()
    found = twin.counterfactual(picture, dict(zip(twin.context_names, values, strict=True)))
    torch.testing.assert_close(found.pictures, picture, rtol=0, atol=2e-4)
    torch.testing.assert_close(found.after, found.before, rtol=0, atol=1e-3)
    assert float(found.maps.max()) < 2e-4


def test_only_where_effects_should_respond_does_the_effect_of_what_is_set_move(twin):
    twin.world = world_of(Edge("thickness", "intensity", "tail", "arrow"))
    picture = bars(1, 3, 0.5).pictures
    before = twin.encode(picture).concepts()
    alone = twin.counterfactual(picture, {"thickness": 6.5}).codes.concepts()
    responding = twin.counterfactual(picture, {"thickness": 6.5}, propagate=True).codes.concepts()
    assert float(alone[0, 0]) == pytest.approx(float(responding[0, 0]), abs=1e-5)
    assert float(alone[0, 0]) != pytest.approx(float(before[0, 0]), abs=0.1)
    assert torch.equal(alone[:, 1:], before[:, 1:])
    assert float(responding[0, 1]) != pytest.approx(float(before[0, 1]), abs=1e-4)
    torch.testing.assert_close(responding[:, 2:], before[:, 2:], rtol=0, atol=1e-6)


def test_an_effect_is_not_propagated_along_an_open_direction(twin):
    twin.world = world_of(Edge("thickness", "intensity"))
    with pytest.raises(PellucidError, match="leaves orientations open"):
        twin.counterfactual(bars(1, 3, 0.5).pictures, {"thickness": 5.0}, propagate=True)


def test_an_open_direction_that_does_not_matter_is_no_hindrance(twin):
    twin.world = world_of(Edge("thickness", "intensity"))
    picture = bars(1, 3, 0.5).pictures
    both = twin.counterfactual(picture, {"thickness": 5.0, "intensity": 0.5}, propagate=True)
    alone = twin.counterfactual(picture, {"thickness": 5.0, "intensity": 0.5})
    torch.testing.assert_close(both.pictures, alone.pictures)


def test_a_tier_gives_the_perceived_graph_its_direction_and_unknown_names_are_refused(twin):
    pytest.importorskip("causallearn")
    data = bars(120, 4, 0.9)
    options = DiscoveryOptions(bootstraps=2)
    values = data.context.values.float()
    with pytest.raises(PellucidError, match=r"\['thicknes'\], which are no concepts"):
        twin.discover(data.pictures, values, knowledge=Knowledge({"thicknes": 0}), options=options)
    told = twin.discover(
        data.pictures, values, knowledge=Knowledge({"thickness": 0, "intensity": 1}), options=options, intervened=20
    )
    assert told.data.edge("thickness", "intensity").directed
    assert twin.graph is told.perceived


def test_what_the_twin_knows_of_real_pictures_comes_back_from_its_folder(twin, tmp_path):
    with_control(twin, thickness=0.2)
    twin.world = world_of(Edge("thickness", "intensity", "tail", "arrow", confidence=0.9))
    twin.save(tmp_path)
    again = load(tmp_path, classifier=classifier_of(small_cnn()))
    assert again.assessment == twin.assessment
    assert again.world.to_json() == twin.world.to_json()
    assert torch.equal(again.reference.codes.joined(), twin.reference.codes.joined())
    assert torch.equal(again.reference.classes, twin.reference.classes)
    with pytest.raises(RefusedError):
        again.counterfactual(bars(1, 3, 0.5).pictures, {"thickness": 4.0})


def test_what_is_not_known_yet_is_said(run):
    fresh = load(run, classifier=classifier_of(small_cnn()))
    picture = bars(1, 3, 0.5).pictures
    with pytest.raises(PellucidError, match=r"call remember\(pictures\) first"):
        fresh.explain(picture)
    with pytest.raises(PellucidError, match="there is no graph yet"):
        _ = fresh.graph
    with pytest.raises(PellucidError, match="49 pictures are too few"):
        fresh.remember(bars(49, 0, 0.5).pictures)


def test_unknown_contexts_classes_and_the_factual_class_as_goal_are_refused(twin):
    picture = bars(1, 3, 0.5).pictures
    with pytest.raises(PellucidError, match=r"no context \['hue'\]; there are \['thickness', 'intensity'\]"):
        twin.counterfactual(picture, {"hue": 1.0})
    with pytest.raises(TargetError):
        twin.explain(picture, "zebra")
    with pytest.raises(PellucidError, match="2 targets were given for 1 pictures"):
        twin.flip(picture, [0, 1])
    with pytest.raises(PellucidError, match="other than the one the classifier says"):
        twin.flip(picture, int(twin.logits(picture).argmax()))


def test_a_single_logit_has_two_sides_with_names(tmp_path):
    torch.manual_seed(3)
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1)
    ).eval()
    classifier = Classifier(network, input_size=(1, 16, 16), class_names=["smile"])
    data = bars(64, 0, 0.5)
    twin = train(classifier, data.pictures, data.context, TINY, tmp_path / "run", report=None)
    assert twin.class_names == ("not smile", "smile")
    assert (twin.class_index("smile"), twin.class_index("not smile"), twin.class_index(0)) == (1, 0, 0)
    with pytest.raises(TargetError, match="not smile and smile"):
        twin.class_index("frown")


def test_necessity_is_asked_of_pictures_of_a_class_and_of_others(twin):
    drawn = bars(20, 4, 0.5).pictures
    pictures = torch.cat([drawn, -drawn, 5 * drawn, 5 * torch.randn(drawn.shape, generator=torch.manual_seed(0))])
    classes = twin.paint(pictures).classes
    first = int(classes[0])
    assert not bool((classes == first).all())
    found = twin.necessity(pictures, first, transferred=True)
    assert [each.concept for each in found] == [*twin.context_names, *twin.latent_names]
    assert {each.necessity.trials for each in found} == {int((classes == first).sum())}
    assert {each.sufficiency.trials for each in found} == {int((classes != first).sum())}
    with pytest.raises(PellucidError, match="one of the two is empty"):
        twin.necessity(pictures[classes == first], first, transferred=True)


def test_what_a_classifier_with_random_weights_tells_is_known_beside_what_the_classifier_tells(twin, tmp_path):
    pytest.importorskip("causallearn")
    classifier = classifier_of(small_cnn())
    forgotten = initialised_anew(classifier.module, seed=TINY.seed)
    data = bars(64, 0, 0.5)
    unlearnt = train(
        with_network(classifier, forgotten), data.pictures, data.context, TINY, tmp_path / "run", report=None
    )
    assert twin.quality.blind == unlearnt.quality.perceived != twin.quality.perceived
    twin.quality = replace(twin.quality, perceived=(0.95, 0.9), blind=(0.85, 0.89))
    options = DiscoveryOptions(bootstraps=0)
    notes = twin.discover(bars(80, 4, 0.5).pictures, options=options, intervened=20).notes
    assert any(
        note.startswith("intensity: the classifier with random weights tells it nearly as well") for note in notes
    )
    assert not any(note.startswith("thickness: the classifier with random weights") for note in notes)
    assert not any("when they are redrawn" in note for note in notes)
    twin.assess(bars(60, 2, 0.5).pictures)
    twin.assessment = replace(twin.assessment, agreement=0.8)
    for transferred in (False, True):
        world = twin.discover(bars(80, 4, 0.5).pictures, options=options, intervened=20, transferred=transferred)
        assert any("only 80.0% of pictures keep their class" in note for note in world.notes) != transferred


def test_a_classifier_without_weights_has_nothing_to_forget(tmp_path):
    class Brightness(nn.Module):
        def forward(self, x):
            grey = torch.nn.functional.avg_pool2d(x, 4)
            return torch.cat([-grey.mean((2, 3)), grey.amax((2, 3))], 1)

    classifier = Classifier(Brightness().eval(), input_size=(1, 16, 16), class_names=["dark", "bright"])
    data = bars(64, 0, 0.5)
    twin = train(classifier, data.pictures, data.context, TINY, tmp_path / "run", layers="logits", report=None)
    assert twin.quality.blind == ()
    assert len(twin.quality.perceived) == 2

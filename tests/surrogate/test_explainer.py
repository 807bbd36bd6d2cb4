"""Questions to a trained surrogate: the gate, composition, what responds, and what is kept in the folder."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.surrogate.support import bars, classifier_of, small_cnn
from tests.surrogate.test_checkpoint import TINY
from torch import Tensor, nn

from pellucid import Classifier, PellucidError
from pellucid.classifiers import reinitialize, replace_module
from pellucid.data import ContextTable
from pellucid.errors import TargetError
from pellucid.storage import to_record
from pellucid.surrogate import (
    GlobalOptions,
    LocalOptions,
    SurrogateExplainer,
    digit_surrogate,
    load,
    measure_digits,
    train,
)
from pellucid.surrogate.assess.morphometry import BACKGROUND
from pellucid.surrogate.causal.graph import CausalGraph, Edge
from pellucid.surrogate.causal.search import BackgroundKnowledge, DiscoveryOptions
from pellucid.surrogate.explain.decision_effects import NuisanceNull
from pellucid.surrogate.explain.global_explanation import GlobalExplanation
from pellucid.surrogate.explain.validity import RefusedError
from pellucid.synthetic import draw_digits


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("answers") / "run"
    data = bars(64, 0, 0.5)
    torch.set_num_threads(1)
    train(classifier_of(small_cnn()), data.images, data.context, TINY, out, on_progress=None)
    return out


@pytest.fixture
def explainer(run: Path) -> SurrogateExplainer:
    loaded = load(run, classifier=classifier_of(small_cnn()))
    loaded.set_reference(bars(80, 1, 0.5).images)
    return loaded


def explanation_of(edge: Edge) -> GlobalExplanation:
    return GlobalExplanation(
        data=None,
        perceived=CausalGraph(("thickness", "intensity"), (edge,)),
        unmodeled_concepts=(),
        probe_r2={},
        decision_effects=(),
        null=NuisanceNull(0.0, (), 0.0),
        necessity=(),
        target=None,
        residual_transfer=False,
        notes=(),
    )


def with_control(explainer: SurrogateExplainer, **correlations: float) -> None:
    assessment = explainer.assess(bars(60, 2, 0.5).images)
    controls = tuple(replace(each, correlation=correlations.get(each.concept, 0.9)) for each in assessment.controls)
    explainer.assessment = replace(assessment, controls=controls)
    explainer.set_reference(bars(80, 1, 0.5).images)


def test_a_context_that_the_surrogate_does_not_control_cannot_be_set(explainer: SurrogateExplainer) -> None:
    with_control(explainer, thickness=0.56)
    image = bars(1, 3, 0.5).images
    with pytest.raises(RefusedError, match=r"'thickness' are refused: .* 0\.56"):
        explainer.counterfactual(image, {"thickness": 4.0})
    assert explainer.counterfactual(image, {"intensity": 0.5}).images.shape == image.shape
    result = explainer.explain(image, options=LocalOptions(permutations=2, levels=3))
    assert set(result.refused) == {"thickness"}
    assert "thickness" not in [traversal.concept for traversal in result.traversals]
    assert result.minimal_counterfactual.change[0, 0] == 0


def test_the_counterfactual_is_what_is_generated_and_the_input_image_is_changed_only_where_that_was_measured_to_follow(
    explainer: SurrogateExplainer,
) -> None:
    image, surrogate = bars(1, 3, 0.5).images, explainer.surrogate
    unknown = explainer.counterfactual(image, {"thickness": 6.0})
    assert unknown.transferred is None
    assert "was not measured" in unknown.transfer_refused["thickness"]
    assert any("never assessed" in note for note in unknown.notes)
    with_control(explainer)
    assessment = explainer.assessment
    assert assessment is not None
    for correlation in (0.4, 0.9):
        beside = tuple(
            replace(each, correlation=correlation, measurable_share=1.0) for each in assessment.transferred_controls
        )
        explainer.assessment = replace(assessment, transferred_controls=beside)
        result = explainer.counterfactual(image, {"thickness": 6.0})
        decoded = surrogate.decode(result.codes)
        torch.testing.assert_close(result.images, decoded)
        torch.testing.assert_close(result.after, explainer.logits(decoded).softmax(1))
        torch.testing.assert_close(result.maps, (decoded - explainer.reconstruct(image)).abs())
        torch.testing.assert_close(
            result.predicted, explainer.context_values(surrogate.encode(decoded).context), rtol=1e-4, atol=1e-4
        )
        assert result.notes == ()
        if correlation < 0.7:
            assert result.transferred is None
            assert "correlate only 0.40" in result.transfer_refused["thickness"]
        else:
            assert result.transferred is not None
            moved = surrogate.clip(image + decoded - explainer.reconstruct(image))
            torch.testing.assert_close(result.transferred, moved)
            assert result.transfer_refused == {}


def test_digits_asked_to_be_four_pixels_thick_measure_so_on_the_images_returned() -> None:
    digits = digit_surrogate()
    thin = draw_digits(torch.arange(20) % 10, thickness=2.0, size=32, jitter=0.5, seed=1)[:, None] / 127.5 - 1
    batch = digits.encode_batch(thin)
    result = digits.counterfactual(thin, {"thickness": 4.0})

    def thickness(images: torch.Tensor) -> float:
        displayed = digits.surrogate.space.to_display(images)
        return float(measure_digits(displayed, ["thickness"], BACKGROUND).median())

    assert thickness(thin) < 2.5
    assert thickness(result.images) == pytest.approx(4.0, abs=0.3)
    assert thickness(batch.apply_residual(result.images)) < 3  # the old stroke stays beside the new one ...
    assert result.transferred is None  # ... so that its own assessment refuses it
    assert "thickness" in result.transfer_refused


def test_between_the_values_of_a_discrete_context_there_is_nothing_to_ask_for(tmp_path: Path) -> None:
    data = bars(64, 0, 0.5)
    thick = (data.context.column("thickness") > data.context.column("thickness").median()).double()
    context = ContextTable(("thick",), thick[:, None])
    train(classifier_of(small_cnn()), data.images, context, TINY, tmp_path / "run", on_progress=None)
    explainer = load(tmp_path / "run", classifier=classifier_of(small_cnn()))
    explainer.set_reference(bars(60, 1, 0.5).images)
    assert explainer.surrogate.context_levels == {"thick": (0.0, 1.0)}
    assert explainer.counterfactual(data.images[:1], {"thick": 1.0}).images.shape == (1, 1, 16, 16)
    with pytest.raises(PellucidError, match=r"thick = 0.5 does not exist: its values are 0, 1"):
        explainer.counterfactual(data.images[:1], {"thick": 0.5})


def test_scores_taken_after_the_reference_was_set_reach_what_is_explained(explainer: SurrogateExplainer) -> None:
    assert explainer.effectiveness == {}
    assessment = explainer.assess(bars(60, 2, 0.5).images)
    assert explainer.effectiveness == assessment.effectiveness


def test_setting_a_context_to_what_it_is_leaves_the_image_as_it_is(explainer: SurrogateExplainer) -> None:
    image = bars(1, 3, 0.5).images
    values = explainer.context_values(explainer.encode(image).context)[0].tolist()
    result = explainer.counterfactual(image, dict(zip(explainer.context_names, values, strict=True)))
    torch.testing.assert_close(result.images, explainer.reconstruct(image), rtol=0, atol=2e-4)
    torch.testing.assert_close(result.after, result.reconstructed, rtol=0, atol=1e-3)
    assert float(result.maps.max()) < 2e-4


def test_only_where_effects_should_respond_does_the_effect_of_what_is_set_move(explainer: SurrogateExplainer) -> None:
    explainer.global_explanation = explanation_of(Edge("thickness", "intensity", "tail", "arrow"))
    image = bars(1, 3, 0.5).images
    before = explainer.encode(image).concept_coordinates()
    alone = explainer.counterfactual(image, {"thickness": 6.5}).codes.concept_coordinates()
    responding = explainer.counterfactual(image, {"thickness": 6.5}, propagate=True).codes.concept_coordinates()
    assert float(alone[0, 0]) == pytest.approx(float(responding[0, 0]), abs=1e-5)
    assert float(alone[0, 0]) != pytest.approx(float(before[0, 0]), abs=0.1)
    assert torch.equal(alone[:, 1:], before[:, 1:])
    assert float(responding[0, 1]) != pytest.approx(float(before[0, 1]), abs=1e-4)
    torch.testing.assert_close(responding[:, 2:], before[:, 2:], rtol=0, atol=1e-6)


def test_an_effect_is_not_propagated_along_an_open_direction(explainer: SurrogateExplainer) -> None:
    explainer.global_explanation = explanation_of(Edge("thickness", "intensity"))
    with pytest.raises(PellucidError, match="leaves orientations open"):
        explainer.counterfactual(bars(1, 3, 0.5).images, {"thickness": 5.0}, propagate=True)


def test_an_open_direction_that_does_not_matter_does_not_prevent_propagation(explainer: SurrogateExplainer) -> None:
    explainer.global_explanation = explanation_of(Edge("thickness", "intensity"))
    image = bars(1, 3, 0.5).images
    both = explainer.counterfactual(image, {"thickness": 5.0, "intensity": 0.5}, propagate=True)
    alone = explainer.counterfactual(image, {"thickness": 5.0, "intensity": 0.5})
    torch.testing.assert_close(both.images, alone.images)


def test_a_tier_gives_the_perceived_graph_its_direction_and_unknown_names_are_refused(
    explainer: SurrogateExplainer,
) -> None:
    pytest.importorskip("causallearn")
    data = bars(120, 4, 0.9)
    options = DiscoveryOptions(bootstraps=2)
    values = data.context.values.float()
    with pytest.raises(PellucidError, match=r"\['thicknes'\], which are not concepts"):
        explainer.discover(data.images, values, options=GlobalOptions(BackgroundKnowledge({"thicknes": 0}), options))
    knowledge = BackgroundKnowledge({"thickness": 0, "intensity": 1})
    explanation = explainer.discover(
        data.images, values, options=GlobalOptions(knowledge, options, max_interventions=20)
    )
    assert explanation.data.edge("thickness", "intensity").directed
    assert explainer.graph is explanation.perceived


def test_what_the_surrogate_knows_of_real_images_comes_back_from_its_folder(
    explainer: SurrogateExplainer, tmp_path: Path
) -> None:
    with_control(explainer, thickness=0.2)
    explainer.global_explanation = explanation_of(Edge("thickness", "intensity", "tail", "arrow", confidence=0.9))
    explainer.save(tmp_path)
    again = load(tmp_path, classifier=classifier_of(small_cnn()))
    assert again.assessment == explainer.assessment
    assert to_record(again.global_explanation) == to_record(explainer.global_explanation)
    assert torch.equal(again.reference.codes.to_vector(), explainer.reference.codes.to_vector())
    assert torch.equal(again.reference.classes, explainer.reference.classes)
    with pytest.raises(RefusedError):
        again.counterfactual(bars(1, 3, 0.5).images, {"thickness": 4.0})


def test_what_is_missing_is_named(run: Path) -> None:
    fresh = load(run, classifier=classifier_of(small_cnn()))
    image = bars(1, 3, 0.5).images
    with pytest.raises(PellucidError, match=r"call set_reference\(images\) first"):
        fresh.explain(image)
    with pytest.raises(PellucidError, match="there is no graph yet"):
        _ = fresh.graph
    with pytest.raises(PellucidError, match="49 images are too few"):
        fresh.set_reference(bars(49, 0, 0.5).images)


def test_unknown_contexts_classes_and_the_factual_class_as_goal_are_refused(explainer: SurrogateExplainer) -> None:
    image = bars(1, 3, 0.5).images
    with pytest.raises(PellucidError, match=r"no context \['hue'\]; there are \['thickness', 'intensity'\]"):
        explainer.counterfactual(image, {"hue": 1.0})
    with pytest.raises(TargetError):
        explainer.explain(image, "zebra")
    with pytest.raises(PellucidError, match="2 targets were given for 1 images"):
        explainer.flip(image, [0, 1])
    with pytest.raises(PellucidError, match="other than the one that the classifier decides on"):
        explainer.flip(image, int(explainer.logits(image).argmax()))


def test_a_single_logit_has_two_sides_with_names(tmp_path: Path) -> None:
    torch.manual_seed(3)
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1)
    ).eval()
    classifier = Classifier(network, input_size=(1, 16, 16), class_names=["smile"])
    data = bars(64, 0, 0.5)
    explainer = train(classifier, data.images, data.context, TINY, tmp_path / "run", on_progress=None)
    assert explainer.class_names == ("not smile", "smile")
    assert (explainer.class_index("smile"), explainer.class_index("not smile"), explainer.class_index(0)) == (1, 0, 0)
    with pytest.raises(TargetError, match="not smile and smile"):
        explainer.class_index("frown")


def test_necessity_needs_images_of_a_class_and_of_others(explainer: SurrogateExplainer) -> None:
    drawn = bars(20, 4, 0.5).images
    images = torch.cat([drawn, -drawn, 5 * drawn, 5 * torch.randn(drawn.shape, generator=torch.manual_seed(0))])
    classes = explainer.encode_batch(images).classes
    first = int(classes[0])
    assert not bool((classes == first).all())
    result = explainer.necessity(images, first, residual_transfer=True)
    assert [each.concept for each in result] == [*explainer.context_names, *explainer.latent_names]
    assert {each.necessity.trials for each in result} == {int((classes == first).sum())}
    assert {each.sufficiency.trials for each in result} == {int((classes != first).sum())}
    with pytest.raises(PellucidError, match="images of the class and images of others"):
        explainer.necessity(images[classes == first], first, residual_transfer=True)


def test_what_a_classifier_with_random_weights_tells_is_known_beside_what_the_classifier_tells(
    explainer: SurrogateExplainer, tmp_path: Path
) -> None:
    pytest.importorskip("causallearn")
    classifier = classifier_of(small_cnn())
    forgotten = reinitialize(classifier.module, seed=TINY.seed)
    data = bars(64, 0, 0.5)
    unlearnt = train(
        replace_module(classifier, forgotten), data.images, data.context, TINY, tmp_path / "run", on_progress=None
    )
    assert explainer.surrogate.quality.untrained_baseline == unlearnt.surrogate.quality.probe_r2
    assert explainer.surrogate.quality.untrained_baseline != explainer.surrogate.quality.probe_r2
    explainer.surrogate.quality = replace(
        explainer.surrogate.quality, probe_r2=(0.95, 0.9), untrained_baseline=(0.85, 0.89)
    )
    options = GlobalOptions(discovery=DiscoveryOptions(bootstraps=0), max_interventions=20)
    notes = explainer.discover(bars(80, 4, 0.5).images, options=options).notes
    assert any(note.startswith("intensity: with random weights the classifier's features predict") for note in notes)
    assert not any(note.startswith("thickness: with random weights") for note in notes)
    assert not any("keep their class on the reconstruction" in note for note in notes)
    explainer.assess(bars(60, 2, 0.5).images)
    explainer.assessment = replace(explainer.assessment, agreement=0.8)
    for residual_transfer in (False, True):
        notes = explainer.discover(
            bars(80, 4, 0.5).images, options=replace(options, residual_transfer=residual_transfer)
        ).notes
        assert any("only 80.0% of images keep their class" in note for note in notes) != residual_transfer


def test_a_classifier_without_weights_has_nothing_to_forget(tmp_path: Path) -> None:
    class Brightness(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            gray = torch.nn.functional.avg_pool2d(x, 4)
            return torch.cat([-gray.mean((2, 3)), gray.amax((2, 3))], 1)

    classifier = Classifier(Brightness().eval(), input_size=(1, 16, 16), class_names=["dark", "bright"])
    data = bars(64, 0, 0.5)
    explainer = train(classifier, data.images, data.context, TINY, tmp_path / "run", layers="logits", on_progress=None)
    assert explainer.surrogate.quality.untrained_baseline == ()
    assert len(explainer.surrogate.quality.probe_r2) == 2

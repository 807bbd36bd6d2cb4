import json
from dataclasses import replace

import pytest
import torch
from tests.surrogate.linear_twin import LinearTwin, painted, some_codes

from pellucid.errors import PellucidError
from pellucid.storage import from_record, to_record
from pellucid.surrogate.causal.graph import CausalGraph, Edge
from pellucid.surrogate.causal.search import BackgroundKnowledge, DiscoveryOptions
from pellucid.surrogate.explain.attfind import attfind
from pellucid.surrogate.explain.decision_effects import measure_decision_effects
from pellucid.surrogate.explain.encoded_batch import EncodedBatch, margin
from pellucid.surrogate.explain.global_explanation import GlobalExplanation, explain_globally
from pellucid.surrogate.explain.local_explanation import explain_locally, fit_structural_models
from pellucid.surrogate.explain.reference_set import ReferenceSet
from pellucid.surrogate.model.codes import Codes

NAMES = ("width", "grey", "u0")


def through_json(explanation):
    text = json.dumps(to_record(explanation), allow_nan=False)
    return from_record(GlobalExplanation, json.loads(text), source="file")


def tied_codes(count: int, seed: int = 0) -> Codes:
    """Grey follows width."""
    drawn = some_codes(count, seed)
    context = torch.stack([drawn.context[:, 0], 0.9 * drawn.context[:, 0] + 0.436 * drawn.context[:, 1]], 1)
    return replace(drawn, context=context)


def reference(surrogate: LinearTwin, effectiveness: dict[str, float] | None = None) -> ReferenceSet:
    codes = tied_codes(600, 3)
    return ReferenceSet(codes, (codes.concept_coordinates() @ surrogate.weights > 0).long(), effectiveness or {})


def painted_codes(surrogate: LinearTwin, codes: Codes) -> EncodedBatch:
    return EncodedBatch.of(surrogate, (codes.to_vector() @ surrogate.basis).view(-1, 1, 4, 4))


def test_a_local_explanation_names_what_counts_and_what_would_flip_it() -> None:
    surrogate = LinearTwin((2.0, 0.0, 1.0))
    batch = painted(surrogate, 1)
    found = explain_locally(batch, reference(surrogate), permutations=8)
    assert found.fidelity.reliable.all()
    assert found.refused == {}
    assert [effect.concept for effect in found.effects] == list(NAMES)
    assert found.effects[1].direct == pytest.approx(0, abs=1e-4)
    assert found.flipped is not None
    assert found.flipped.valid.all()
    assert any("It would be class" in sentence for sentence in found.sentences)
    assert found.maps["width"].shape == (1, 1, 4, 4)
    assert found.maps["width"].sum() > 0


def test_along_a_directed_edge_the_total_effect_adds_what_the_effect_of_the_concept_does() -> None:
    surrogate = LinearTwin((1.0, 2.0, 0.0))
    batch = painted_codes(surrogate, tied_codes(1, 8))
    graph = CausalGraph(("width", "grey"), (Edge("width", "grey", "tail", "arrow"),))
    found = explain_locally(batch, reference(surrogate), graph, target=1, permutations=4)
    width, gray = found.effects[:2]
    assert width.direct == pytest.approx(1, rel=0.1)
    assert width.paths["width", "grey"] == pytest.approx(0.9 * 2, rel=0.15)
    assert width.total[0] == pytest.approx(1 + 0.9 * 2, rel=0.15)
    assert gray.total[0] == pytest.approx(gray.direct, abs=1e-4)


def test_an_open_orientation_gives_a_range_and_no_paths() -> None:
    surrogate = LinearTwin((1.0, 2.0, 0.0))
    batch = painted_codes(surrogate, tied_codes(1, 8))
    graph = CausalGraph(("width", "grey"), (Edge("width", "grey"),))
    width = explain_locally(batch, reference(surrogate), graph, target=1, permutations=4).effects[0]
    assert width.total[0] == pytest.approx(1, rel=0.1)
    assert width.total[1] == pytest.approx(2.8, rel=0.15)
    assert width.paths == {}


def test_concepts_that_the_twin_does_not_control_are_refused_and_do_not_move() -> None:
    surrogate = LinearTwin((2.0, 0.0, 1.0))
    found = explain_locally(painted(surrogate, 1), reference(surrogate, {"width": 0.4, "grey": 0.95}), permutations=4)
    assert set(found.refused) == {"width"}
    assert {one.concept for one in found.traversals} == {"grey", "u0"}
    assert found.flipped.change[0, 0] == 0
    assert any("refused" in sentence for sentence in found.sentences)


def test_a_image_that_the_twin_redraws_wrongly_comes_with_a_warning_first() -> None:
    surrogate = LinearTwin((3.0, 0.0, 0.0), blind=True)
    batch = painted(surrogate, 12)
    row = int(batch.classes.argmax())
    found = explain_locally(batch[row : row + 1], reference(surrogate), permutations=4)
    assert found.sentences[0].startswith("Do not rely on what follows")


def test_the_perceived_graph_joins_what_is_tied_and_points_to_the_decision_what_is_read() -> None:
    pytest.importorskip("causallearn")
    surrogate = LinearTwin((2.0, 0.0, 1.0))
    codes = tied_codes(400)
    batch = painted_codes(surrogate, codes)
    options = DiscoveryOptions(bootstraps=5)
    knowledge = BackgroundKnowledge({"width": 0, "grey": 1})
    stages = []
    found = explain_globally(
        batch,
        codes.context,
        knowledge=knowledge,
        options=options,
        on_progress=lambda stage, done, total: stages.append(stage),
    )
    assert found.perceived.edge("width", "grey").directed
    assert found.perceived.parents("decision") == ("width", "u0")
    assert found.perceives["width"] == pytest.approx(1, abs=1e-4)
    assert found.difference.only_first == ()
    assert set(stages) == {"perceived graph", "data graph", "interventions"}
    again = through_json(found)
    assert to_record(again.perceived) == to_record(found.perceived)
    assert again.decisions == found.decisions
    with pytest.raises(PellucidError, match="lacks fields data, decisions"):
        from_record(GlobalExplanation, {}, source="file")


class Crowded(LinearTwin):
    """Its classifier saturates, and also reads what the twin cannot draw."""

    def logits(self, images):
        outside = (images.flatten(1) - images.flatten(1) @ self.basis.T @ self.basis).sum(1)
        return torch.tanh(self.read(images) + 2 * outside)[:, None] * torch.tensor([0.0, 1.0])


@pytest.fixture
def crowded():
    pytest.importorskip("causallearn")
    return painted(Crowded((2.0, 0.0, 1.0)), 80)


def world_of(batch, **wanted):
    return explain_globally(batch, None, options=DiscoveryOptions(bootstraps=0), **wanted)


def test_effects_are_those_of_the_twins_own_drawings_unless_asked_otherwise(crowded) -> None:
    ones = torch.ones(80, dtype=torch.long)
    own, laid = world_of(crowded), world_of(crowded, transferred=True)
    assert own.decisions == measure_decision_effects(crowded.reconstructed(), crowded.codes, classes=ones)[0]
    assert laid.decisions == measure_decision_effects(crowded, crowded.codes, classes=ones)[0]
    assert (own.transferred, laid.transferred) == (False, True)
    assert own.decisions[0].strength > 1.1 * laid.decisions[0].strength
    one = crowded[:1]
    drawn, over = (explain_locally(one, reference(one.surrogate), permutations=4, transferred=t) for t in (False, True))
    torch.testing.assert_close(drawn.importance.margin, margin(one.reconstructed().logits, one.classes))
    torch.testing.assert_close(over.importance.margin, margin(one.logits, one.classes))
    outcome = one.reconstructed().outcome(one.classes)
    more = one.codes.concept_coordinates() + torch.tensor([[1.0, 0, 0]]) * reference(
        one.surrogate
    ).codes.concept_coordinates().std(0)
    assert drawn.effects[0].direct == pytest.approx(
        float(outcome(more) - outcome(one.codes.concept_coordinates())), abs=1e-5
    )


def test_of_two_classes_doses_follow_the_second_and_do_not_cancel() -> None:
    pytest.importorskip("causallearn")
    batch = painted(LinearTwin((2.0, 0.0, -1.0)), 80)
    (width, _, latent), own = world_of(batch).decisions, measure_decision_effects(batch.reconstructed(), batch.codes)[0]
    assert (width.sign, width.agreement, latent.sign, latent.agreement) == (1, 1, -1, 1)
    assert sorted(width.dose) == list(width.dose)
    assert own[0].agreement < 0.7  # of each image's own class
    assert width.flips == own[0].flips > 0
    flipped = world_of(batch, target=0)
    assert flipped.decisions[0].sign == -1
    assert flipped.target == 0


def test_for_one_class_necessity_is_counted_and_a_refused_concept_gets_a_tentative_edge() -> None:
    pytest.importorskip("causallearn")
    batch = painted(LinearTwin((2.0, 0.0, 1.0)), 80)
    found = world_of(batch, target=1, refused=["width"])
    width, gray, latent = found.necessity
    assert gray.necessity.estimate == gray.sufficiency.estimate == 0
    assert width.necessity.estimate > latent.necessity.estimate > 0
    assert width.necessity.trials == int((batch.classes == 1).sum())
    assert found.perceived.edge("width", "decision").tentative
    assert not found.perceived.edge("u0", "decision").tentative
    assert any(note.startswith("width: the twin does not control it") for note in found.notes)
    assert through_json(found) == found
    some = batch[batch.classes == 1]
    assert world_of(some, target=1).necessity == ()


def test_a_context_that_the_classifier_does_not_perceive_is_no_node_and_says_so() -> None:
    pytest.importorskip("causallearn")

    class Deaf(LinearTwin):
        def perceived_context(self, images):
            return super().perceived_context(images) * torch.tensor([1.0, 0.0])

    codes = tied_codes(300)
    found = explain_globally(
        painted_codes(Deaf((2.0, 0.0, 1.0)), codes), codes.context, options=DiscoveryOptions(bootstraps=3)
    )
    assert "grey" not in found.perceived.nodes
    assert any(note.startswith("grey: not perceived") for note in found.notes)


def test_contexts_that_are_perceived_as_one_are_one_node() -> None:
    pytest.importorskip("causallearn")

    class Blurred(LinearTwin):
        def perceived_context(self, images):
            return super().perceived_context(images)[:, :1] * torch.tensor([1.0, -0.9])

    batch = painted_codes(Blurred((2.0, 0.0, 1.0)), tied_codes(300))
    found = explain_globally(batch, None, options=DiscoveryOptions(bootstraps=2), max_interventions=20)
    assert "grey" not in found.perceived.nodes
    assert "grey: perceived as the same as width, left out" in found.notes


def test_attfind_finds_the_coordinate_that_the_classifier_reads() -> None:
    surrogate = LinearTwin((3.0, 0.0, 0.5))
    codes = some_codes(200)
    batch = painted_codes(surrogate, codes)
    zeros = batch[batch.classes == 0]
    joined = zeros.codes.to_vector()

    def draw(coordinates, rows):
        return (coordinates @ surrogate.basis).view(-1, 1, 4, 4)

    found = attfind(draw, surrogate.logits, joined, joined.amin(0) - 2, joined.amax(0) + 2, 1, top=1, max_batch=33)
    first = found.attributes[0]
    assert (first.coordinate, first.up) == (0, True)
    assert found.flipped.float().mean() > 0.9
    concepts = zeros.codes.concept_coordinates()
    moved = concepts.clone()
    moved[:, 0] = joined[:, 0].max() + 2
    true = torch.sigmoid(moved @ surrogate.weights) - torch.sigmoid(
        zeros.codes.concept_coordinates() @ surrogate.weights
    )
    torch.testing.assert_close(found.effects[:, 0, 1], true, rtol=1e-3, atol=1e-4)
    assert found.passes == len(joined) * (2 * 6 + 2)
    assert margin(zeros.logits, torch.zeros(len(zeros), dtype=torch.long)).min() >= 0


def test_edges_between_latents_carry_nothing_and_too_many_undecided_others_are_named_and_left_out() -> None:
    contexts, latents = ("a", "b", "c", "d"), ("latent 1", "latent 2", "latent 3")
    table = torch.randn(200, 7, generator=torch.Generator().manual_seed(0))
    tied = CausalGraph(
        (*contexts, *latents),
        (Edge("a", "b", "tail", "arrow"), Edge(*latents[:2]), Edge(*latents[1:], "tail", "arrow")),
    )
    models, left_out = fit_structural_models(tied, contexts, latents, table)
    assert [[str(edge) for edge in model.graph.edges] for model in models] == [["a → b"]]
    assert left_out == ()
    pairs = (("a", "c"), ("a", "d"), ("b", "c"), ("b", "d"), ("c", "d"))
    open_graph = replace(tied, edges=tied.edges + tuple(Edge(*pair) for pair in pairs))
    models, left_out = fit_structural_models(open_graph, contexts, latents, table)
    assert len(models) == 1
    assert {edge.pair for edge in left_out} == set(map(frozenset, pairs))


def test_edges_in_a_circle_are_left_out_and_named() -> None:
    table = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    circle = CausalGraph(
        NAMES, tuple(Edge(*pair, "tail", "arrow") for pair in (("width", "grey"), ("grey", "u0"), ("u0", "width")))
    )
    models, left_out = fit_structural_models(circle, ("width", "grey"), ("u0",), table)
    assert [model.graph.edges for model in models] == [()]
    assert left_out == circle.edges
    found = explain_locally(painted(LinearTwin(), 1), reference(LinearTwin()), circle, permutations=2)
    assert any("they form a circle" in sentence for sentence in found.sentences)


def test_images_that_come_class_by_class_are_thinned_evenly_for_interventions() -> None:
    pytest.importorskip("causallearn")
    batch = painted(LinearTwin((2.0, 0.0, 1.0)), 120)
    sorted_ = batch[batch.classes.argsort()]
    found = world_of(sorted_, max_interventions=30)
    trials = found.necessity[0].necessity.trials, found.necessity[0].sufficiency.trials
    assert sum(trials) == 30
    assert min(trials) > 5


def test_a_context_that_only_decides_is_drawn_and_stays_unread_after_reloading() -> None:
    pytest.importorskip("causallearn")

    class Deaf(LinearTwin):
        def perceived_context(self, images):
            return super().perceived_context(images) * torch.tensor([0.0, 1.0])

    codes = tied_codes(300)
    batch = painted_codes(Deaf((2.0, 0.0, 1.0)), codes)
    found = explain_globally(batch, codes.context, options=DiscoveryOptions(bootstraps=2))
    assert found.unread == ("width",)
    assert found.perceived.edge("width", "decision").orientation_source == "intervention"
    again = through_json(found)
    assert again.difference == found.difference
    assert not any("width" in edge.pair for edge in again.difference.only_first)


def test_without_nuisance_no_edge_to_the_decision_is_claimed() -> None:
    pytest.importorskip("causallearn")

    class Bare(LinearTwin):
        def encode(self, images):
            found = super().encode(images)
            return Codes(found.context, found.latent, found.nuisance[:, :0])

        def decode(self, codes):
            return super().decode(Codes(codes.context, codes.latent, torch.zeros(len(codes), 3)))

    found = world_of(painted(Bare((2.0, 0.0, 1.0)), 60))
    assert not any(edge.significant for edge in found.decisions)
    assert any("no nuisance to compare with" in note for note in found.notes)


def test_one_image_at_a_time_is_explained() -> None:
    with pytest.raises(PellucidError, match="one image; 2 were given"):
        explain_locally(painted(LinearTwin(), 2), reference(LinearTwin()))

import json
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from tests.surrogate.linear_surrogate import LinearSurrogate, encode_codes, encoded, random_codes
from torch import Tensor

from pellucid.errors import PellucidError
from pellucid.storage import from_record, to_record
from pellucid.surrogate import EncodedBatch
from pellucid.surrogate.causal.graph import CausalGraph, Edge
from pellucid.surrogate.causal.search import BackgroundKnowledge, DiscoveryOptions
from pellucid.surrogate.explain.concept_effects import fit_structural_models
from pellucid.surrogate.explain.decision_effects import measure_decision_effects
from pellucid.surrogate.explain.encoded_batch import margin
from pellucid.surrogate.explain.global_explanation import GlobalExplanation, GlobalOptions, compute_global_explanation
from pellucid.surrogate.explain.local_explanation import LocalOptions, compute_local_explanation
from pellucid.surrogate.explain.reference_set import ReferenceSet
from pellucid.surrogate.explain.validity import ControlGate
from pellucid.surrogate.model.codes import Codes

NAMES = ("width", "gray", "u0")


def tied_codes(count: int, seed: int = 0) -> Codes:
    """Grey follows width."""
    drawn = random_codes(count, seed)
    context = torch.stack([drawn.context[:, 0], 0.9 * drawn.context[:, 0] + 0.436 * drawn.context[:, 1]], 1)
    return replace(drawn, context=context)


def reference(surrogate: LinearSurrogate) -> ReferenceSet:
    codes = tied_codes(600, 3)
    return ReferenceSet(codes, (codes.concept_coordinates() @ surrogate.weights > 0).long())


def through_json(explanation: GlobalExplanation) -> GlobalExplanation:
    text = json.dumps(to_record(explanation), allow_nan=False)
    return from_record(GlobalExplanation, json.loads(text), source="file")


def test_a_local_explanation_names_what_counts_and_what_would_flip_it() -> None:
    surrogate = LinearSurrogate((2.0, 0.0, 1.0))
    batch = encode_codes(surrogate, random_codes(1))
    result = compute_local_explanation(batch, reference(surrogate), options=LocalOptions(permutations=8))
    assert result.fidelity.reliable.all()
    assert result.refused == {}
    assert any("never assessed" in note for note in result.notes)
    assert any("never assessed" in sentence for sentence in result.sentences)
    assert [effect.concept for effect in result.effects] == list(NAMES)
    assert result.effects[1].direct == pytest.approx(0, abs=1e-4)
    assert result.minimal_counterfactual is not None
    assert result.minimal_counterfactual.valid.all()
    assert any("It would be class" in sentence for sentence in result.sentences)
    assert result.maps["width"].shape == (1, 1, 4, 4)
    assert result.maps["width"].sum() > 0


def test_along_a_directed_edge_the_total_effect_adds_what_the_effect_of_the_concept_does() -> None:
    surrogate = LinearSurrogate((1.0, 2.0, 0.0))
    batch = encode_codes(surrogate, tied_codes(1, 8))
    graph = CausalGraph(("width", "gray"), (Edge("width", "gray", "tail", "arrow"),))
    result = compute_local_explanation(
        batch, reference(surrogate), graph, target=1, options=LocalOptions(permutations=4)
    )
    width, gray = result.effects[:2]
    assert width.direct == pytest.approx(1, rel=0.1)
    assert {path.nodes: path.effect for path in width.paths}["width", "gray"] == pytest.approx(0.9 * 2, rel=0.15)
    assert width.total[0] == pytest.approx(1 + 0.9 * 2, rel=0.15)
    assert gray.total[0] == pytest.approx(gray.direct, abs=1e-4)


def test_an_open_orientation_gives_a_range_and_no_paths() -> None:
    surrogate = LinearSurrogate((1.0, 2.0, 0.0))
    batch = encode_codes(surrogate, tied_codes(1, 8))
    graph = CausalGraph(("width", "gray"), (Edge("width", "gray"),))
    width = compute_local_explanation(
        batch, reference(surrogate), graph, target=1, options=LocalOptions(permutations=4)
    ).effects[0]
    assert width.total[0] == pytest.approx(1, rel=0.1)
    assert width.total[1] == pytest.approx(2.8, rel=0.15)
    assert width.paths == ()


def test_concepts_that_the_surrogate_does_not_control_are_refused_and_do_not_move() -> None:
    surrogate = LinearSurrogate((2.0, 0.0, 1.0))
    result = compute_local_explanation(
        encoded(surrogate, 1),
        reference(surrogate),
        gate=ControlGate(NAMES[:2], {"width": 0.4, "gray": 0.95}, {"gray": 0.3}),
        options=LocalOptions(permutations=4),
    )
    assert set(result.refused) == {"width"}
    assert {one.concept for one in result.traversals} == {"gray", "u0"}
    assert result.minimal_counterfactual.change[0, 0] == 0
    assert [one.transferred is None for one in result.traversals] == [True, False]
    assert result.control_notes == ()
    assert any("refused" in sentence for sentence in result.sentences)


def test_an_image_that_is_reconstructed_poorly_comes_with_a_warning_first() -> None:
    surrogate = LinearSurrogate((3.0, 0.0, 0.0), blind=True)
    batch = encoded(surrogate, 12)
    row = int(batch.classes.argmax())
    result = compute_local_explanation(batch[row : row + 1], reference(surrogate), options=LocalOptions(permutations=4))
    assert result.sentences[0].startswith("Do not rely on what follows")


def test_the_perceived_graph_joins_what_is_tied_and_points_to_the_decision_what_is_read() -> None:
    pytest.importorskip("causallearn")
    surrogate = LinearSurrogate((2.0, 0.0, 1.0))
    codes = tied_codes(400)
    batch = encode_codes(surrogate, codes)
    options = DiscoveryOptions(bootstraps=5)
    knowledge = BackgroundKnowledge({"width": 0, "gray": 1})
    stages = []
    result = compute_global_explanation(
        batch,
        codes.context,
        GlobalOptions(knowledge, options),
        on_progress=lambda stage, done, total: stages.append(stage),
    )
    assert result.perceived.edge("width", "gray").directed
    assert result.perceived.parents("decision") == ("width", "u0")
    assert result.probe_r2["width"] == pytest.approx(1, abs=1e-4)
    assert result.difference.only_first == ()
    assert set(stages) == {"perceived graph", "data graph", "interventions"}
    again = through_json(result)
    assert to_record(again.perceived) == to_record(result.perceived)
    assert again.decision_effects == result.decision_effects
    with pytest.raises(PellucidError, match="lacks fields data"):
        from_record(GlobalExplanation, {}, source="file")


class Crowded(LinearSurrogate):
    """Its classifier saturates, and also reads what the surrogate cannot draw."""

    def logits(self, images: Tensor) -> Tensor:
        outside = (images.flatten(1) - images.flatten(1) @ self.basis.T @ self.basis).sum(1)
        return torch.tanh(self.read(images) + 2 * outside)[:, None] * torch.tensor([0.0, 1.0])


@pytest.fixture
def crowded() -> EncodedBatch:
    pytest.importorskip("causallearn")
    return encoded(Crowded((2.0, 0.0, 1.0)), 80)


def explain_globally(
    batch: EncodedBatch, *, target: int | None = None, refused: Sequence[str] = (), **options: bool | int
) -> GlobalExplanation:
    options = GlobalOptions(discovery=DiscoveryOptions(bootstraps=0), **options)
    return compute_global_explanation(batch, None, options, target=target, refused=refused)


def test_effects_are_measured_on_reconstructions_unless_the_residual_is_transferred(crowded: EncodedBatch) -> None:
    ones = torch.ones(80, dtype=torch.long)
    own, laid = explain_globally(crowded), explain_globally(crowded, residual_transfer=True)
    assert own.decision_effects == measure_decision_effects(crowded.reconstructed(), crowded.codes, classes=ones)[0]
    assert laid.decision_effects == measure_decision_effects(crowded, crowded.codes, classes=ones)[0]
    assert (own.residual_transfer, laid.residual_transfer) == (False, True)
    assert own.decision_effects[0].strength > 1.1 * laid.decision_effects[0].strength
    one = crowded[:1]
    drawn, over = (
        compute_local_explanation(
            one, reference(one.surrogate), options=LocalOptions(permutations=4, residual_transfer=t)
        )
        for t in (False, True)
    )
    torch.testing.assert_close(drawn.importance.margin, margin(one.reconstructed().logits, one.classes))
    torch.testing.assert_close(over.importance.margin, margin(one.logits, one.classes))
    outcome = one.reconstructed().outcome(one.classes)
    more = one.codes.concept_coordinates() + torch.tensor([[1.0, 0, 0]]) * reference(
        one.surrogate
    ).codes.concept_coordinates().std(0)
    assert drawn.effects[0].direct == pytest.approx(
        float(outcome(more) - outcome(one.codes.concept_coordinates())), abs=1e-5
    )


def test_of_two_classes_dose_responses_follow_the_second_and_do_not_cancel() -> None:
    pytest.importorskip("causallearn")
    batch = encoded(LinearSurrogate((2.0, 0.0, -1.0)), 80)
    (width, _, latent), own = (
        explain_globally(batch).decision_effects,
        measure_decision_effects(batch.reconstructed(), batch.codes)[0],
    )
    assert (width.sign, width.sign_agreement, latent.sign, latent.sign_agreement) == (1, 1, -1, 1)
    assert sorted(width.dose_response) == list(width.dose_response)
    assert own[0].sign_agreement < 0.7  # of each image's own class
    assert width.flip_rate == own[0].flip_rate > 0
    flipped = explain_globally(batch, target=0)
    assert flipped.decision_effects[0].sign == -1
    assert flipped.target == 0


def test_for_one_class_necessity_is_counted_and_a_refused_concept_gets_a_tentative_edge() -> None:
    pytest.importorskip("causallearn")
    batch = encoded(LinearSurrogate((2.0, 0.0, 1.0)), 80)
    result = explain_globally(batch, target=1, refused=["width"])
    width, gray, latent = result.necessity
    assert gray.necessity.estimate == gray.sufficiency.estimate == 0
    assert width.necessity.estimate > latent.necessity.estimate > 0
    assert width.necessity.trials == int((batch.classes == 1).sum())
    assert result.perceived.edge("width", "decision").tentative
    assert not result.perceived.edge("u0", "decision").tentative
    assert any(note.startswith("width: the surrogate does not control this concept") for note in result.notes)
    assert through_json(result) == result
    some = batch[batch.classes == 1]
    assert explain_globally(some, target=1).necessity == ()


def test_a_context_that_the_classifier_does_not_perceive_is_not_a_node_and_is_noted() -> None:
    pytest.importorskip("causallearn")

    class Deaf(LinearSurrogate):
        def perceived_context(self, images: Tensor) -> Tensor:
            return super().perceived_context(images) * torch.tensor([1.0, 0.0])

    codes = tied_codes(300)
    result = compute_global_explanation(
        encode_codes(Deaf((2.0, 0.0, 1.0)), codes),
        codes.context,
        GlobalOptions(discovery=DiscoveryOptions(bootstraps=3)),
    )
    assert "gray" not in result.perceived.nodes
    assert any(note.startswith("gray: not perceived") for note in result.notes)


def test_contexts_that_are_perceived_as_one_are_one_node() -> None:
    pytest.importorskip("causallearn")

    class Blurred(LinearSurrogate):
        def perceived_context(self, images: Tensor) -> Tensor:
            return super().perceived_context(images)[:, :1] * torch.tensor([1.0, -0.9])

    batch = encode_codes(Blurred((2.0, 0.0, 1.0)), tied_codes(300))
    result = compute_global_explanation(
        batch, None, GlobalOptions(discovery=DiscoveryOptions(bootstraps=2), max_interventions=20)
    )
    assert "gray" not in result.perceived.nodes
    assert "gray: perceived as the same as width, left out" in result.notes


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
        NAMES, tuple(Edge(*pair, "tail", "arrow") for pair in (("width", "gray"), ("gray", "u0"), ("u0", "width")))
    )
    models, left_out = fit_structural_models(circle, ("width", "gray"), ("u0",), table)
    assert [model.graph.edges for model in models] == [()]
    assert left_out == circle.edges
    result = compute_local_explanation(
        encoded(LinearSurrogate(), 1), reference(LinearSurrogate()), circle, options=LocalOptions(permutations=2)
    )
    assert any("they form a circle" in sentence for sentence in result.sentences)


def test_images_that_come_class_by_class_are_thinned_evenly_for_interventions() -> None:
    pytest.importorskip("causallearn")
    batch = encoded(LinearSurrogate((2.0, 0.0, 1.0)), 120)
    sorted_ = batch[batch.classes.argsort()]
    result = explain_globally(sorted_, max_interventions=30)
    trials = result.necessity[0].necessity.trials, result.necessity[0].sufficiency.trials
    assert sum(trials) == 30
    assert min(trials) > 5


def test_a_context_that_only_decides_is_drawn_and_stays_unmodeled_after_reloading() -> None:
    pytest.importorskip("causallearn")

    class Deaf(LinearSurrogate):
        def perceived_context(self, images: Tensor) -> Tensor:
            return super().perceived_context(images) * torch.tensor([0.0, 1.0])

    codes = tied_codes(300)
    batch = encode_codes(Deaf((2.0, 0.0, 1.0)), codes)
    result = compute_global_explanation(batch, codes.context, GlobalOptions(discovery=DiscoveryOptions(bootstraps=2)))
    assert result.unmodeled_concepts == ("width",)
    assert result.perceived.edge("width", "decision").orientation_source == "intervention"
    again = through_json(result)
    assert again.difference == result.difference
    assert not any("width" in edge.pair for edge in again.difference.only_first)


def test_without_nuisance_no_edge_to_the_decision_is_claimed() -> None:
    pytest.importorskip("causallearn")

    class Bare(LinearSurrogate):
        def encode(self, images: Tensor) -> Codes:
            result = super().encode(images)
            return Codes(result.context, result.latent, result.nuisance[:, :0])

        def decode(self, codes: Codes) -> Tensor:
            return super().decode(Codes(codes.context, codes.latent, torch.zeros(len(codes), 3)))

    result = explain_globally(encoded(Bare((2.0, 0.0, 1.0)), 60))
    assert [edge.matters for edge in result.decision_effects] == [True, False, True]
    assert any("no nuisance to compare with" in note for note in result.notes)


def test_one_image_at_a_time_is_explained() -> None:
    with pytest.raises(PellucidError, match="one image; 2 were given"):
        compute_local_explanation(encoded(LinearSurrogate(), 2), reference(LinearSurrogate()))

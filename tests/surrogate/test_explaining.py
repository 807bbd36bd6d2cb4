import math

import pytest
import torch
from tests.surrogate.linear_twin import LinearTwin, painted, some_codes

from pellucid.errors import PellucidError
from pellucid.surrogate.causal.graph import CausalGraph, Edge
from pellucid.surrogate.explain.decision_effects import decision_edges, with_decisions
from pellucid.surrogate.explain.encoded_batch import margin, probabilities
from pellucid.surrogate.explain.minimal_counterfactual import flip
from pellucid.surrogate.explain.necessity import necessity, wilson
from pellucid.surrogate.explain.shapley import importance
from pellucid.surrogate.explain.traversal import difference_map, strip
from pellucid.surrogate.explain.validity import (
    RefusedError,
    Support,
    check_effective,
    fidelity,
)
from pellucid.surrogate.model.codes import Codes


def signed(painting):
    """+1 where the margin of the factual class grows with the classifier's reading, -1 where it falls."""
    return painting.classes * 2 - 1


def test_a_picture_whose_codes_do_not_change_stays_itself_to_the_last_bit():
    painting = painted(LinearTwin(), 20)
    assert torch.equal(painting.transferred(painting.drawn(painting.codes)), painting.pictures)
    assert torch.equal(painting.changed_logits(painting.codes), painting.logits)


def test_bare_pictures_change_by_what_is_drawn_alone():
    painting = painted(LinearTwin(), 20)
    asked = painting.codes.with_concepts(some_codes(20, 5).concepts())
    bare = painting.bare()
    drawn = painting.twin.decode(asked)
    torch.testing.assert_close(bare.transferred(drawn), drawn)
    assert not torch.allclose(painting.transferred(drawn), drawn)
    torch.testing.assert_close(bare.changed_logits(asked), painting.twin.logits(drawn))


def test_the_margin_is_ahead_of_the_best_other_class_and_signed_for_one_logit():
    logits = torch.tensor([[1.0, 4.0, 2.5], [3.0, 0.0, 1.0]])
    assert margin(logits, torch.tensor([1, 2])).tolist() == [1.5, -2.0]
    assert margin(torch.tensor([[2.0], [2.0]]), torch.tensor([1, 0])).tolist() == [2, -2]
    torch.testing.assert_close(probabilities(torch.tensor([[0.3]])).sum(1), torch.ones(1))


def test_only_concepts_that_the_classifier_reads_get_a_decision_edge():
    twin = LinearTwin((2.0, 0.0, 1.0))
    painting = painted(twin, 60)
    edges, null = decision_edges(painting, some_codes(500, 3))
    width, grey, latent = edges
    assert (width.significant, grey.significant, latent.significant) == (True, False, True)
    assert width.strength == pytest.approx(2 * latent.strength, rel=0.5)
    assert grey.strength == pytest.approx(0, abs=1e-5)
    assert null.block == pytest.approx(0, abs=1e-5)
    graph = with_decisions(CausalGraph(("width", "grey"), (Edge("width", "grey"),)), edges)
    assert graph.parents("decision") == ("width", "u0")
    assert {edge.ground for edge in graph.edges if edge.target == "decision"} == {"intervention"}


class Leaky(LinearTwin):
    """Its classifier also reads the first nuisance a little, and the second not at all."""

    def decode(self, codes: Codes):
        latent = codes.latent + 0.3 * codes.nuisance[:, :1]
        return super().decode(Codes(codes.context, latent, codes.nuisance))


def test_a_concept_must_move_the_decision_more_than_the_strongest_nuisance_does():
    twin = Leaky((2.0, 0.1, 1.0))
    (width, grey, latent), null = decision_edges(painted(twin, 100), some_codes(500, 3))
    assert null.strongest == pytest.approx(max(null.single)) == pytest.approx(null.single[0])
    assert 0.1 * width.strength < null.strongest < latent.strength
    assert (width.significant, grey.significant, latent.significant) == (True, False, True)


def test_the_dose_of_a_linear_concept_is_its_weight_times_its_quantiles():
    twin = LinearTwin((1.0, 0.0, 0.0))
    painting = painted(twin, 40)
    reference = some_codes(400, 3)
    edge = decision_edges(painting, reference)[0][0]
    levels = torch.quantile(reference.context[:, 0], torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95]))
    before = margin(painting.logits, painting.classes)
    true = ((levels[:, None] - painting.codes.context[:, 0]) * signed(painting)).mean(1) / before.std()
    torch.testing.assert_close(torch.tensor(edge.dose), true, rtol=1e-4, atol=1e-4)


def test_shapley_values_sum_to_the_margin_and_are_exact_for_a_linear_classifier():
    twin = LinearTwin((2.0, 0.0, -1.0))
    painting = painted(twin, 5)
    reference = some_codes(1, 9)
    found = importance(painting, reference, permutations=6)
    torch.testing.assert_close(found.values.sum(1), found.margin - found.baseline, rtol=0, atol=1e-4)
    true = (painting.codes.concepts() - reference.concepts()) * twin.weights * signed(painting)[:, None]
    torch.testing.assert_close(found.values, true, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found.errors, torch.zeros_like(found.errors), rtol=0, atol=1e-4)


def test_against_other_classes_baselines_are_drawn_from_them_alone():
    twin = LinearTwin((1.0, 0.0, 0.0))
    painting = painted(twin, 1)
    reference = some_codes(50, 2)
    classes = (reference.context[:, 0] > 0).long()
    found = importance(painting, reference, reference_classes=classes, against="other", permutations=40)
    assert float(found.baseline) < 0  # with another picture's width the factual class always loses
    with pytest.raises(PellucidError, match="reference_classes"):
        importance(painting, reference, against="other")
    with pytest.raises(PellucidError, match="no reference picture is of another class"):
        importance(painting, reference, reference_classes=painting.classes.repeat(50), against="other")
    with pytest.raises(PellucidError, match="even number"):
        importance(painting, reference, permutations=3)


def test_the_smallest_flip_moves_the_one_concept_that_counts_most_and_no_further_than_it_must():
    twin = LinearTwin((2.0, 0.0, 0.5))
    painting = painted(twin, 12)
    reference = some_codes(600, 3)
    flipped = flip(painting, 1 - painting.classes, reference)
    assert flipped.valid.all()
    assert (flipped.change[:, 1:] == 0).all()
    scale = reference.concepts().std(0)[0]
    needed = margin(painting.logits, painting.classes) / (2 * scale)
    sizes = flipped.change[:, 0].abs()
    assert (sizes >= needed - 1e-4).all()
    assert (sizes <= needed * 1.1 + 0.1).all()
    assert not torch.equal(flipped.raw, flipped.pictures)


def test_a_flip_keeps_off_concepts_that_may_not_change():
    twin = LinearTwin((2.0, 0.0, 1.0))
    painting = painted(twin, 6)
    flipped = flip(painting, 1 - painting.classes, some_codes(300, 3), allowed=torch.tensor([False, True, True]))
    assert (flipped.change[:, 0] == 0).all()
    with pytest.raises(PellucidError, match="no concept may change"):
        flip(painting, 1 - painting.classes, some_codes(300, 3), allowed=torch.zeros(3, dtype=torch.bool))
    with pytest.raises(PellucidError, match="other than the one"):
        flip(painting, painting.classes, some_codes(300, 3))


def test_a_decision_that_nothing_moves_is_not_called_flipped():
    painting = painted(LinearTwin((0.0, 0.0, 0.0)), 4)
    flipped = flip(painting, 1 - painting.classes, some_codes(100, 3))
    assert not flipped.valid.any()


def test_a_concept_that_alone_decides_is_necessary_and_sufficient_and_an_unread_one_is_neither():
    painting = painted(LinearTwin((1.0, 0.0, 0.0)), 80)
    ones, zeros = painting[painting.classes == 1], painting[painting.classes == 0]
    width, grey, _ = necessity(ones, zeros)
    assert width.necessity.estimate == width.sufficiency.estimate == 1
    assert grey.necessity.estimate == grey.sufficiency.estimate == 0
    assert 0.8 < width.necessity.low < 1
    with pytest.raises(PellucidError, match="decided as one class"):
        necessity(painting, zeros)


def test_wilsons_interval_is_the_published_one():
    share = wilson(81, 263)  # Newcombe (1998), table I
    assert (round(share.low, 4), round(share.high, 4)) == (0.2553, 0.3662)


def test_a_strip_sets_what_it_says_and_shows_what_the_classifier_makes_of_it():
    twin = LinearTwin((3.0, 0.0, 0.0))
    painting = painted(twin, 1)
    shown = strip(painting, "width", some_codes(300, 3), values=5)
    torch.testing.assert_close(shown.judged, shown.levels, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(shown.probabilities[:, 1], torch.sigmoid(3 * shown.levels), rtol=1e-4, atol=1e-4)
    where = difference_map(painting.repeat(5), shown.pictures)
    assert where.shape == (5, 1, 4, 4)
    direction = twin.basis[0].abs().view(4, 4)
    moved = (shown.levels[0] - painting.codes.context[0, 0]).abs()
    torch.testing.assert_close(where[0, 0], direction * moved, rtol=1e-3, atol=1e-4)
    with pytest.raises(PellucidError, match="no concept 'height'"):
        strip(painting, "height", some_codes(300, 3))


def test_fidelity_is_perfect_for_a_perfect_twin_and_says_why_a_blind_one_is_not_believed():
    good = fidelity(painted(LinearTwin(), 10))
    assert good.reliable.all()
    assert float(good.kl.max()) < 1e-6
    assert good.reason(0) is None
    painting = painted(LinearTwin(blind=True), 30)
    bad = fidelity(painting)
    row = int(painting.classes.argmax())
    assert not bad.reliable[row]
    assert "decides otherwise" in bad.reason(row)
    said = torch.sigmoid(painting.logits[:, 1])
    true = math.log(2) + said * said.log() + (1 - said) * (1 - said).log()
    torch.testing.assert_close(bad.kl, true, rtol=1e-3, atol=1e-5)


def test_support_holds_real_pictures_and_not_what_lies_far_off():
    reference = some_codes(800)
    support = Support(reference)
    assert support.holds(some_codes(300, 5).concepts()).float().mean() > 0.95
    assert not support.holds(torch.full((3, 3), 8.0)).any()
    with pytest.raises(PellucidError, match="too few"):
        Support(some_codes(5))


def test_a_concept_without_control_is_refused_and_an_unmeasured_one_is_not():
    check_effective({"width": 0.9, "grey": float("nan")}, "grey")
    with pytest.raises(RefusedError, match=r"'width' are refused.* only 0.40"):
        check_effective({"width": 0.4}, "width")


def test_a_constant_classifier_and_too_few_pictures_are_refused():
    with pytest.raises(PellucidError, match="the same margin to every picture"):
        decision_edges(painted(LinearTwin((0.0, 0.0, 0.0)), 30), some_codes(100))
    with pytest.raises(PellucidError, match="10 pictures are too few"):
        decision_edges(painted(LinearTwin(), 10), some_codes(100))


class Smudged(LinearTwin):
    """Its classifier also reads what the twin cannot draw, as it reads the width."""

    def read(self, pictures):
        outside = pictures.flatten(1) - pictures.flatten(1) @ self.basis.T @ self.basis
        return super().read(pictures) + 3 * outside.sum(1)


def test_a_flip_turns_the_picture_and_the_twins_own_drawing_of_it():
    painting = painted(Smudged((2.0, 0.0, 0.5)), 12)
    assert not torch.equal(painting.classes, painting.bare().classes)
    flipped = flip(painting, 1 - painting.classes, some_codes(600, 3))
    assert flipped.valid.all()
    assert flipped.raw_valid.all()
    assert torch.equal(painting.twin.logits(flipped.pictures).argmax(1), flipped.targets)
    assert torch.equal(painting.twin.logits(flipped.raw).argmax(1), flipped.targets)

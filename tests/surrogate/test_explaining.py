import math
from dataclasses import replace

import pytest
import torch
from tests.surrogate.linear_surrogate import LinearSurrogate, encode_codes, encoded, random_codes, reference_of
from torch import Tensor

from pellucid.errors import PellucidError
from pellucid.surrogate import EncodedBatch
from pellucid.surrogate.causal.graph import CausalGraph, Edge
from pellucid.surrogate.explain.decision_effects import (
    DecisionEffect,
    _derangement,
    add_decision_edges,
    measure_decision_effects,
    strength_interval,
)
from pellucid.surrogate.explain.encoded_batch import margin, probabilities
from pellucid.surrogate.explain.minimal_counterfactual import FlipOptions, find_minimal_counterfactual
from pellucid.surrogate.explain.necessity import estimate_necessity, estimate_proportion
from pellucid.surrogate.explain.reference_set import ReferenceSet
from pellucid.surrogate.explain.shapley import shapley_importance
from pellucid.surrogate.explain.traversal import difference_map, traverse_latent
from pellucid.surrogate.explain.validity import (
    ControlGate,
    DataSupport,
    RefusedError,
    check_control,
    measure_fidelity,
)
from pellucid.surrogate.model.codes import Codes


def signed(batch: EncodedBatch) -> Tensor:
    """+1 where the margin of the factual class grows with the classifier's reading, -1 where it falls."""
    return batch.classes * 2 - 1


def test_an_image_whose_codes_do_not_change_stays_itself_to_the_last_bit() -> None:
    batch = encoded(LinearSurrogate(), 20)
    assert torch.equal(batch.apply_residual(batch.decode(batch.codes)), batch.images)
    assert torch.equal(batch.counterfactual_logits(batch.codes), batch.logits)


def test_reconstructed_images_change_by_what_is_decoded_alone() -> None:
    batch = encoded(LinearSurrogate(), 20)
    requested = batch.codes.replace_concepts(random_codes(20, 5).concept_coordinates())
    reconstructed = batch.reconstructed()
    drawn = batch.surrogate.decode(requested)
    torch.testing.assert_close(reconstructed.apply_residual(drawn), drawn)
    assert not torch.allclose(batch.apply_residual(drawn), drawn)
    torch.testing.assert_close(reconstructed.counterfactual_logits(requested), batch.surrogate.logits(drawn))


def test_the_margin_is_ahead_of_the_best_other_class_and_signed_for_one_logit() -> None:
    logits = torch.tensor([[1.0, 4.0, 2.5], [3.0, 0.0, 1.0]])
    assert margin(logits, torch.tensor([1, 2])).tolist() == [1.5, -2.0]
    assert margin(torch.tensor([[2.0], [2.0]]), torch.tensor([1, 0])).tolist() == [2, -2]
    torch.testing.assert_close(probabilities(torch.tensor([[0.3]])).sum(1), torch.ones(1))


def test_only_concepts_that_the_classifier_reads_get_a_decision_edge() -> None:
    surrogate = LinearSurrogate((2.0, 0.0, 1.0))
    batch = encoded(surrogate, 60)
    edges, null = measure_decision_effects(batch, random_codes(500, 3))
    width, gray, latent = edges
    assert (width.matters, gray.matters, latent.matters) == (True, False, True)
    assert width.strength == pytest.approx(2 * latent.strength, rel=0.5)
    assert width.low < width.strength < width.high
    assert gray.strength == pytest.approx(0, abs=1e-5)
    assert gray.negligible
    assert null.block == pytest.approx(0, abs=1e-5)
    graph = add_decision_edges(CausalGraph(("width", "gray"), (Edge("width", "gray"),)), edges)
    assert graph.parents("decision") == ("width", "u0")
    assert {edge.orientation_source for edge in graph.edges if edge.target == "decision"} == {"intervention"}


class Leaky(LinearSurrogate):
    """Its classifier also reads the first nuisance a little, and the second not at all."""

    def decode(self, codes: Codes) -> Tensor:
        latent = codes.latent + 0.3 * codes.nuisance[:, :1]
        return super().decode(Codes(codes.context, latent, codes.nuisance))


def test_a_concept_must_move_the_decision_more_than_the_whole_nuisance_does() -> None:
    surrogate = Leaky((2.0, 0.1, 1.0))
    (width, gray, latent), null = measure_decision_effects(encoded(surrogate, 100), random_codes(500, 3))
    assert null.strongest == pytest.approx(max(null.single)) == pytest.approx(null.single[0])
    assert 0.1 * width.strength < null.strongest < latent.strength
    assert (width.matters, gray.matters, latent.matters) == (True, False, True)


def test_the_interval_of_a_strength_covers_the_truth_though_neighbors_share_an_image() -> None:
    # The mean absolute difference of two standard normal values is 2 / sqrt(pi).
    generator, truth, covered = torch.Generator().manual_seed(0), 2 / torch.pi**0.5, 0
    for count in (20, 60, 200):
        for repeat in range(200):
            values, donors = torch.randn(count, generator=generator), _derangement(count, repeat)
            found = strength_interval((values[donors] - values).abs(), donors)
            covered += found.low <= truth <= found.high
    assert 0.92 <= covered / 600 <= 0.98


def test_an_effect_is_open_where_its_interval_holds_the_bound() -> None:
    effect = DecisionEffect("width", 0.12, 0.0, (0.0,) * 5, 0.5, low=0.08, high=0.16)
    assert (effect.matters, effect.negligible) == (False, False)
    assert replace(effect, low=0.11).matters
    assert replace(effect, high=0.1).negligible
    assert replace(effect, low=float("nan"), high=float("nan")).matters


def test_the_dose_response_of_a_linear_concept_is_its_weight_times_its_quantiles() -> None:
    surrogate = LinearSurrogate((1.0, 0.0, 0.0))
    batch = encoded(surrogate, 40)
    reference = random_codes(400, 3)
    edge = measure_decision_effects(batch, reference)[0][0]
    levels = torch.quantile(reference.context[:, 0], torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95]))
    before = margin(batch.logits, batch.classes)
    true = ((levels[:, None] - batch.codes.context[:, 0]) * signed(batch)).mean(1) / before.std()
    torch.testing.assert_close(torch.tensor(edge.dose_response), true, rtol=1e-4, atol=1e-4)


def test_shapley_values_sum_to_the_margin_and_are_exact_for_a_linear_classifier() -> None:
    surrogate = LinearSurrogate((2.0, 0.0, -1.0))
    batch = encoded(surrogate, 5)
    reference = random_codes(1, 9)
    result = shapley_importance(batch, ReferenceSet(reference, torch.zeros(1)), against="all", permutations=6)
    torch.testing.assert_close(result.values.sum(1), result.margin - result.baseline, rtol=0, atol=1e-4)
    true = (
        (batch.codes.concept_coordinates() - reference.concept_coordinates())
        * surrogate.weights
        * signed(batch)[:, None]
    )
    torch.testing.assert_close(result.values, true, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(result.errors, torch.zeros_like(result.errors), rtol=0, atol=1e-4)


def test_shapley_errors_are_those_of_pairs_and_one_pair_has_none() -> None:
    surrogate = LinearSurrogate((2.0, 0.0, -1.0))
    batch, pool = encoded(surrogate, 2), ReferenceSet(random_codes(50, 9), torch.zeros(50))
    alone, few, many = (shapley_importance(batch, pool, against="all", permutations=count) for count in (2, 8, 400))
    assert torch.isnan(alone.errors).all()
    assert torch.isfinite(few.errors).all()
    assert torch.isnan(torch.cat([alone.half_widths, few.half_widths])).all()
    # Linear: the value of a pair is the weight times the distance to one of the reference images.
    spread = pool.codes.concept_coordinates().std(0) * surrogate.weights.abs()
    torch.testing.assert_close(many.errors, (spread / 200**0.5).expand(2, -1), rtol=0.2, atol=1e-4)
    torch.testing.assert_close(many.half_widths, 1.972 * many.errors, rtol=1e-3, atol=1e-6)  # t, 199 degrees


def test_against_other_classes_baselines_are_drawn_from_them_alone() -> None:
    surrogate = LinearSurrogate((1.0, 0.0, 0.0))
    batch = encoded(surrogate, 1)
    reference = random_codes(50, 2)
    classes = (reference.context[:, 0] > 0).long()
    result = shapley_importance(batch, ReferenceSet(reference, classes), against="other", permutations=40)
    assert float(result.baseline) < 0  # with another image's width the factual class always loses
    with pytest.raises(PellucidError, match="choose 'class', 'all' or 'other'"):
        shapley_importance(batch, ReferenceSet(reference, classes), against="none")
    with pytest.raises(PellucidError, match="no reference image is of another class"):
        shapley_importance(batch, ReferenceSet(reference, batch.classes.repeat(50)), against="other")
    with pytest.raises(PellucidError, match="even number"):
        shapley_importance(batch, ReferenceSet(reference, classes), permutations=3)


def test_the_smallest_flip_moves_the_one_concept_that_counts_most_and_no_further_than_it_must() -> None:
    surrogate = LinearSurrogate((2.0, 0.0, 0.5))
    batch = encoded(surrogate, 12)
    reference = random_codes(600, 3)
    flipped = find_minimal_counterfactual(batch, 1 - batch.classes, reference_of(reference, surrogate))
    assert flipped.valid.all()
    assert (flipped.change[:, 1:] == 0).all()
    scale = reference.concept_coordinates().std(0)[0]
    needed = margin(batch.logits, batch.classes) / (2 * scale)
    sizes = flipped.change[:, 0].abs()
    assert (sizes >= needed - 1e-4).all()
    assert (sizes <= needed * 1.1 + 0.1).all()
    torch.testing.assert_close(flipped.images, surrogate.decode(flipped.codes))
    torch.testing.assert_close(flipped.pixel_change, (flipped.images - batch.reconstructions).abs().flatten(1).mean(1))
    assert flipped.transferred is None  # nobody measured whether width follows there
    assert any("never assessed" in note and "width" in note for note in flipped.notes)


def test_a_flip_keeps_off_concepts_that_may_not_change() -> None:
    surrogate = LinearSurrogate((2.0, 0.0, 1.0))
    batch = encoded(surrogate, 6)
    flipped = find_minimal_counterfactual(
        batch,
        1 - batch.classes,
        reference_of(random_codes(300, 3), batch.surrogate),
        allowed=torch.tensor([False, True, True]),
    )
    assert (flipped.change[:, 0] == 0).all()
    with pytest.raises(PellucidError, match="no concept may change"):
        find_minimal_counterfactual(
            batch,
            1 - batch.classes,
            reference_of(random_codes(300, 3), batch.surrogate),
            allowed=torch.zeros(3, dtype=torch.bool),
        )
    with pytest.raises(PellucidError, match="other than the one"):
        find_minimal_counterfactual(batch, batch.classes, reference_of(random_codes(300, 3)))


def test_a_decision_that_nothing_moves_is_not_called_flipped() -> None:
    batch = encoded(LinearSurrogate((0.0, 0.0, 0.0)), 4)
    flipped = find_minimal_counterfactual(batch, 1 - batch.classes, reference_of(random_codes(100, 3), batch.surrogate))
    assert not flipped.valid.any()


def test_a_concept_that_alone_decides_is_necessary_and_sufficient_and_one_without_effect_is_neither() -> None:
    batch = encoded(LinearSurrogate((1.0, 0.0, 0.0)), 80)
    width, gray, _ = estimate_necessity(batch, 1)
    assert width.necessity.estimate == width.sufficiency.estimate == 1
    assert gray.necessity.estimate == gray.sufficiency.estimate == 0
    assert 0.8 < width.necessity.low < 1
    with pytest.raises(PellucidError, match="images of the class and images of others"):
        estimate_necessity(batch[batch.classes == 1], 1)


def test_the_interval_of_a_proportion_is_the_published_one() -> None:
    share = estimate_proportion(81, 263)  # Newcombe (1998), table I, method 6: exact, mid-p
    assert (round(share.low, 4), round(share.high, 4)) == (0.2544, 0.3658)


def test_a_latent_traversal_reaches_its_levels_and_shows_the_classifiers_answers() -> None:
    surrogate = LinearSurrogate((3.0, 0.0, 0.0))
    batch = encoded(surrogate, 1)
    shown = traverse_latent(batch, "width", reference_of(random_codes(300, 3), surrogate), levels=5)
    torch.testing.assert_close(shown.predicted, shown.levels, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(shown.probabilities[:, 1], torch.sigmoid(3 * shown.levels), rtol=1e-4, atol=1e-4)
    where = difference_map(batch.repeat(5), shown.images)
    assert where.shape == (5, 1, 4, 4)
    direction = surrogate.basis[0].abs().view(4, 4)
    moved = (shown.levels[0] - batch.codes.context[0, 0]).abs()
    torch.testing.assert_close(where[0, 0], direction * moved, rtol=1e-3, atol=1e-4)
    with pytest.raises(PellucidError, match="no concept 'height'"):
        traverse_latent(batch, "height", reference_of(random_codes(300, 3), surrogate))


def test_fidelity_is_perfect_for_a_perfect_surrogate_and_says_why_a_blind_one_is_unreliable() -> None:
    good = measure_fidelity(encode_codes(LinearSurrogate(), random_codes(10)))
    assert good.reliable.all()
    assert float(good.kl.max()) < 1e-6
    assert good.warning(0) is None
    batch = encoded(LinearSurrogate(blind=True), 30)
    bad = measure_fidelity(batch)
    row = int(batch.classes.argmax())
    assert not bad.reliable[row]
    assert "another class" in bad.warning(row)
    answers = torch.sigmoid(batch.logits[:, 1])
    true = math.log(2) + answers * answers.log() + (1 - answers) * (1 - answers).log()
    torch.testing.assert_close(bad.kl, true, rtol=1e-3, atol=1e-5)


def test_support_holds_real_images_and_not_what_lies_far_off() -> None:
    reference = random_codes(800)
    support, ones = DataSupport(reference_of(reference)), torch.zeros(300, dtype=torch.long)
    assert support.in_distribution(random_codes(300, 5).concept_coordinates(), ones).float().mean() > 0.95
    assert not support.in_distribution(torch.full((3, 3), 8.0), ones[:3]).any()


def test_support_is_that_of_the_class_and_of_a_class_that_is_hardly_known_there_is_none() -> None:
    """Two classes 6 apart in width: as wide as the other class is far outside of its own."""
    codes, classes = random_codes(400), torch.arange(400) % 2
    width = codes.context[:, :1] + 6 * classes[:, None]
    codes = Codes(torch.cat([width, codes.context[:, 1:]], 1), codes.latent, codes.nuisance)
    support = DataSupport(ReferenceSet(codes, classes))
    middle = torch.zeros(1, 3)
    for index in (0, 1):
        for at in (0, 1):
            there = middle + torch.tensor([[6.0 * at, 0, 0]])
            known = support.in_distribution(there, torch.tensor([index]))
            assert bool(known) == (at == index)
    assert float(support.percentile(middle, torch.tensor([0]))) < 0.5
    assert float(support.percentile(middle, torch.tensor([1]))) == 1
    rare = DataSupport(ReferenceSet(codes, (torch.arange(400) < 4).long()))
    assert not bool(rare.in_distribution(codes.concept_coordinates()[:1], torch.tensor([1])))


def test_a_traversal_stays_within_the_class_and_shapley_baselines_are_of_it() -> None:
    surrogate = LinearSurrogate((3.0, 0.0, 0.0))
    batch, reference = encoded(surrogate, 1), reference_of(random_codes(600, 3), surrogate)
    alike = reference.codes.context[reference.classes == batch.classes[0], 0]
    levels = traverse_latent(batch, "width", reference, levels=2).levels
    torch.testing.assert_close(levels, torch.quantile(alike, torch.tensor([0.02, 0.98])))
    result = shapley_importance(batch, reference, permutations=400)
    sign = float(signed(batch)[0])
    # The classifier is linear: the mean margin of the baselines is the weight times the mean width of the class.
    assert float(result.baseline) == pytest.approx(3 * sign * float(alike.mean()), rel=0.1)
    assert float(result.supported) > 0.9
    everywhere = shapley_importance(batch, reference, against="all", permutations=400)
    assert float(everywhere.baseline) == pytest.approx(0, abs=0.6)
    assert float(everywhere.supported) < float(result.supported) - 0.02
    with pytest.raises(PellucidError, match="no reference image is of class"):
        shapley_importance(batch, ReferenceSet(reference.codes, 1 - batch.classes.repeat(600)))


def test_a_flip_reaches_its_confidence_and_carries_fidelity_support_and_a_second_vote() -> None:
    surrogate = LinearSurrogate((2.0, 0.0, 0.5))
    batch, reference = encoded(surrogate, 8), reference_of(random_codes(600, 3), surrogate)
    targets = 1 - batch.classes

    def stubborn(images: Tensor) -> Tensor:
        return torch.tensor([1.0, 0.0]).expand(len(images), 2)

    plain, sure = (
        find_minimal_counterfactual(
            batch, targets, reference, options=FlipOptions(confidence=confidence, steps=120), second=stubborn
        )
        for confidence in (0.0, 0.9)
    )
    assert plain.valid.all()
    assert sure.valid.all()
    torch.testing.assert_close(plain.probability, torch.sigmoid(surrogate.read(plain.images) * (targets * 2 - 1)))
    assert (plain.probability < 0.9).all()
    assert (sure.probability >= 0.9).all()
    assert (sure.change.abs().sum(1) > plain.change.abs().sum(1)).all()
    assert torch.equal(sure.second_vote, targets == 0)
    support = DataSupport(reference)
    concepts = sure.codes.concept_coordinates()
    assert torch.equal(sure.plausibility, support.percentile(concepts, targets))
    assert torch.equal(sure.in_distribution, sure.plausibility <= 0.99)
    torch.testing.assert_close(sure.fidelity.kl, measure_fidelity(batch).kl)
    with pytest.raises(PellucidError, match="confidence is a probability"):
        FlipOptions(confidence=1.0)


class Rings(LinearSurrogate):
    """Draws each class alike, whatever the image: the classifier is content, and no image is resembled."""

    def decode(self, codes: Codes) -> Tensor:
        side = (codes.concept_coordinates() @ self.weights).sign()[:, None]
        return (side * self.weights / self.weights.norm() @ self.basis[:3] * 2).view(-1, 1, 4, 4)


def test_a_reconstruction_that_only_has_the_class_in_common_with_the_image_is_not_reliable() -> None:
    batch = encoded(Rings((4.0, 0.0, 0.0)), 200)
    fidelity = measure_fidelity(batch)
    pairs = zip(batch.images.flatten(1), batch.reconstructions.flatten(1), strict=True)
    expected = torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in pairs])
    torch.testing.assert_close(fidelity.resemblance, expected, rtol=1e-4, atol=1e-5)
    assert fidelity.same_class.all()
    assert float(fidelity.reliable.float().mean()) < 0.2
    row = int((fidelity.kl < 0.1).float().argmax())
    assert "does not resemble the image" in fidelity.warning(row)
    flat = replace(batch, images=torch.ones_like(batch.images))
    assert not measure_fidelity(flat).reliable.any()
    assert "flat" in str(replace(measure_fidelity(flat), kl=fidelity.kl * 0, same_class=fidelity.same_class).warning(0))


def test_a_concept_without_control_is_refused_and_an_unmeasured_one_is_not() -> None:
    check_control({"width": 0.9, "gray": float("nan")}, "gray")
    gate = ControlGate(("width", "gray"), decoded={"width": 0.9, "gray": float("nan")}, transferred={"width": 0.8})
    assert gate.refused == {}
    (note,) = gate.notes()
    assert "nothing could measure gray" in note
    assert "was not measured" in gate.transfer_refused["gray"]
    assert gate.allows_transfer(["width", "latent 1"])
    assert not gate.allows_transfer(["width", "gray"])
    assert gate.notes(["width"]) == ()
    (note,) = ControlGate(("width", "gray")).notes()
    assert "never assessed" in note
    assert "width, gray" in note
    with pytest.raises(RefusedError, match=r"'width' are refused.* only 0.40"):
        check_control({"width": 0.4}, "width")


def test_a_constant_classifier_and_too_few_images_are_refused() -> None:
    with pytest.raises(PellucidError, match="the same margin to every image"):
        measure_decision_effects(encoded(LinearSurrogate((0.0, 0.0, 0.0)), 30), random_codes(100))
    with pytest.raises(PellucidError, match="10 images are too few"):
        measure_decision_effects(encoded(LinearSurrogate(), 10), random_codes(100))


class Smudged(LinearSurrogate):
    """Its classifier also reads what the surrogate cannot draw, as it reads the width."""

    def read(self, images: Tensor) -> Tensor:
        outside = images.flatten(1) - images.flatten(1) @ self.basis.T @ self.basis
        return super().read(images) + 3 * outside.sum(1)


def test_a_minimal_counterfactual_flips_the_image_and_its_reconstruction() -> None:
    batch = encoded(Smudged((2.0, 0.0, 0.5)), 12)
    assert not torch.equal(batch.classes, batch.reconstructed().classes)
    flipped = find_minimal_counterfactual(batch, 1 - batch.classes, reference_of(random_codes(600, 3), batch.surrogate))
    assert flipped.valid.all()
    assert flipped.transferred_valid.all()
    assert torch.equal(batch.surrogate.logits(flipped.images).argmax(1), flipped.targets)
    transferred = batch.apply_residual(flipped.images)
    assert torch.equal(batch.surrogate.logits(transferred).argmax(1), flipped.targets)

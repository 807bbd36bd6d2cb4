import json
from collections.abc import Callable

import pytest
import torch
from tests.surrogate.linear_surrogate import LinearSurrogate, encoded
from torch import Tensor

from pellucid.errors import PellucidError
from pellucid.storage import from_record, to_record
from pellucid.surrogate import EncodedBatch
from pellucid.surrogate.assess.assessment import Assessment, assess
from pellucid.surrogate.assess.leakage import ContextMeasurement
from pellucid.surrogate.model.codes import Codes

SPAN = torch.tensor([[-2.0, -2.0], [2.0, 2.0]])


class Tied(LinearSurrogate):
    """Whatever width is asked for, it draws half of it, and as much grey."""

    def decode(self, codes: Codes) -> Tensor:
        context = torch.stack([codes.context[:, 0] / 2, codes.context[:, 1] + codes.context[:, 0] / 2], 1)
        return super().decode(Codes(context, codes.latent, codes.nuisance))


def assessed(surrogate: LinearSurrogate, seed: int = 0) -> Assessment:
    return assess(
        encoded(surrogate, 200),
        lambda codes: (codes.concept_coordinates() @ surrogate.weights)[:, None] * torch.tensor([0.0, 1.0]),
        lambda images: surrogate.encode(images).concept_coordinates(),
        SPAN,
        ContextMeasurement(lambda images: surrogate.encode(images).context, "its own encoder"),
        seed=seed,
    )


def test_a_perfect_surrogate_gets_perfect_scores() -> None:
    assessment = assessed(LinearSurrogate())
    assert (assessment.agreement, assessment.head_agreement, assessment.nuisance_flip_rate) == (1, 1, 0)
    assert assessment.kl == pytest.approx(0, abs=1e-6)
    assert assessment.logit_r2 == pytest.approx(1)
    assert assessment.realism.cosine == pytest.approx(1)
    assert assessment.realism.frechet == pytest.approx(0, abs=1e-5)
    assert assessment.realism.floor > 0
    for control in (*assessment.controls, *assessment.transferred_controls):
        assert control.correlation == pytest.approx(1, abs=1e-5)
        assert control.slope == pytest.approx(1, abs=1e-4)
        assert max(control.leakage.values()) == pytest.approx(0, abs=1e-5)
        assert control.effective


def test_half_a_slope_and_a_leak_are_measured_as_such() -> None:
    assessment = assessed(Tied())
    width = assessment.controls[0]
    assert width.slope == pytest.approx(0.5, abs=1e-4)
    asked_minus_factual = 0.5 * (2 * torch.rand(20000) * 2 - 2 - torch.randn(20000)).abs().mean()
    assert width.leakage["gray"] == pytest.approx(float(asked_minus_factual), rel=0.15)


def test_a_surrogate_that_ignores_requested_values_is_not_effective() -> None:
    assessment = assessed(LinearSurrogate(blind=True))
    assert not any(control.effective for control in assessment.controls)
    assert assessment.agreement < 1


def test_with_residual_transfer_leakage_is_measured_against_the_image_and_not_its_reconstruction() -> None:
    surrogate = LinearSurrogate()
    images = encoded(surrogate, 60)

    def measure(seen: Tensor) -> Tensor:
        flat = seen.flatten(1)
        missed = (flat - flat @ surrogate.basis.T @ surrogate.basis).norm(dim=1, keepdim=True)
        return surrogate.encode(seen).context + missed

    def head(codes: Codes) -> Tensor:
        return torch.zeros(len(codes), 2)

    assessment = assess(images, head, lambda x: x.flatten(1), SPAN, ContextMeasurement(measure, "code"))
    for controls in (assessment.controls, assessment.transferred_controls):
        assert controls[0].leakage["gray"] == pytest.approx(0, abs=1e-4)


def test_control_is_assessed_apart_for_generated_images_and_for_those_with_the_residual_transferred() -> None:
    surrogate = LinearSurrogate()
    images = encoded(surrogate, 2000)
    flat = images.images.flatten(1)
    aside = torch.linalg.svd((flat - flat @ surrogate.basis.T @ surrogate.basis)[:200])[2][0]  # not of the basis
    disturbance = (flat @ aside) * 2.5 / (flat @ aside).std()

    def measure(seen: Tensor) -> Tensor:
        outside = seen.flatten(1) @ aside * 2.5 / (flat @ aside).std()
        return surrogate.encode(seen).context + outside[:, None]

    assessment = assess(
        images, lambda codes: torch.zeros(len(codes), 2), lambda x: x.flatten(1), SPAN, ContextMeasurement(measure, "")
    )
    # What is asked for is even on [-2, 2]; what the surrogate misses is added to what is measured on the input image.
    spread = 4 / 12**0.5
    expected = spread / (spread**2 + float(disturbance.var())) ** 0.5
    assert expected < 0.5
    for generated, transferred in zip(assessment.controls, assessment.transferred_controls, strict=True):
        assert generated.correlation == pytest.approx(1, abs=1e-4)
        assert transferred.correlation == pytest.approx(expected, abs=0.06)
        assert (generated.effective, transferred.effective) == (True, False)
    assert assessment.transferred_effectiveness["width"] == assessment.transferred_controls[0].effectiveness


def test_images_that_cannot_be_measured_are_left_out_and_counted() -> None:
    surrogate = LinearSurrogate()

    def measure(images: Tensor) -> Tensor:
        result = surrogate.encode(images).context
        result[::2] = float("nan")
        return result

    def head(codes: Codes) -> Tensor:
        return torch.zeros(len(codes), 2)

    def seen(images: Tensor) -> Tensor:
        return images.flatten(1)

    assessment = assess(encoded(surrogate, 40), head, seen, SPAN, ContextMeasurement(measure, "half of the time"))
    assert {control.num_images for control in assessment.controls} == {20}
    nothing = assess(
        encoded(surrogate, 5),
        head,
        seen,
        SPAN,
        ContextMeasurement(lambda x: torch.full((len(x), 2), torch.nan), "never"),
    )
    assert not nothing.controls[0].effective


def test_scores_survive_json() -> None:
    assessment = assessed(LinearSurrogate(), seed=3)
    assert from_record(Assessment, json.loads(json.dumps(to_record(assessment))), source="file") == assessment
    with pytest.raises(PellucidError, match="not an object with the fields of Assessment"):
        from_record(Assessment, [], source="file")


def test_generated_images_that_cannot_be_measured_count_against_control() -> None:
    surrogate = LinearSurrogate()
    images = encoded(surrogate, 100)

    def measure(seen: Tensor) -> Tensor:
        result = surrogate.encode(seen).context
        result[result[:, 0] > 1.2] = torch.nan  # asked to be wide, it is no bar at all
        return result

    def head(codes: Codes) -> Tensor:
        return torch.zeros(len(codes), 2)

    assessment = assess(images, head, lambda x: x.flatten(1), SPAN, ContextMeasurement(measure, "code"))
    width, gray = assessment.controls
    assert width.correlation > 0.99
    assert 0.6 < width.measurable_share < 0.95
    assert width.effectiveness == pytest.approx(width.correlation * width.measurable_share)
    assert gray.measurable_share == 1
    lost = assess(
        images, head, lambda x: x.flatten(1), SPAN, ContextMeasurement(_measures_reconstructions_only(images), "code")
    )
    assert not lost.controls[0].effective
    assert lost.effectiveness["width"] == 0


def _measures_reconstructions_only(images: EncodedBatch) -> Callable[[Tensor], Tensor]:
    def measure(seen: Tensor) -> Tensor:
        if torch.equal(seen, images.reconstructions):
            return torch.zeros(len(seen), 2)
        return torch.full((len(seen), 2), torch.nan)

    return measure

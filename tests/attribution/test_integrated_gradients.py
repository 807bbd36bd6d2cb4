"""Integrated Gradients against Captum, closed forms, and the completeness that it promises."""

import pytest
import torch
from tests.attribution.support import (
    CountingView,
    GeneralView,
    classifier,
    gap_net,
    halves,
    images,
    lite0,
    plain_net,
    relative_error,
)
from torch import Tensor, nn

import pellucid as pl
from pellucid.attribution import InputXGradient, IntegratedGradients, Target
from pellucid.attribution.integrated_gradients import quadrature_nodes
from pellucid.errors import PellucidError

RULES = {
    "gauss_legendre": "gausslegendre",
    "left": "riemann_left",
    "right": "riemann_right",
    "midpoint": "riemann_middle",
}


@pytest.mark.parametrize("rule", RULES)
def test_integrated_gradients_at_the_input_are_captums(rule: str) -> None:
    captum = pytest.importorskip("captum.attr")
    module, x = plain_net(), images(2)
    found = IntegratedGradients(steps=12, quadrature=rule)(classifier(module).at("input"), x, 1)  # type: ignore[arg-type]
    wanted, gap = captum.IntegratedGradients(module).attribute(
        x, target=1, n_steps=12, method=RULES[rule], return_convergence_delta=True
    )
    assert relative_error(found.values, wanted.sum(1, keepdim=True)) < 1e-5
    assert found.gap is not None
    assert torch.allclose(found.gap, gap.float(), atol=1e-5)


def test_captums_trapezoid_takes_its_steps_as_nodes() -> None:
    captum = pytest.importorskip("captum.attr")
    module, x = plain_net(), images(1)
    found = IntegratedGradients(steps=11, quadrature="trapezoid")(classifier(module).at("input"), x, 1)
    wanted = captum.IntegratedGradients(module).attribute(x, target=1, n_steps=12, method="riemann_trapezoid")
    # Captum weighs the m nodes of m - 1 intervals by 1 / m, halved at the ends.
    assert relative_error(found.values * 11 / 12, wanted.sum(1, keepdim=True)) < 1e-5


@pytest.mark.parametrize("layer", ["1", "2", "4"])
def test_layer_integrated_gradients_are_captums(layer: str) -> None:
    captum = pytest.importorskip("captum.attr")
    module, x = plain_net(), images(2)
    view = classifier(module).at(layer)
    # Captum starts from the activation of the baseline image, not from no activation.
    start = view.activation(torch.zeros_like(x[:1]))
    found = IntegratedGradients(steps=15, baseline=start)(view, x, 3)
    wanted = captum.LayerIntegratedGradients(module, module[int(layer)]).attribute(x, target=3, n_steps=15)
    assert relative_error(found.values, wanted.sum(1, keepdim=True)) < 1e-5


@pytest.mark.parametrize("layer", ["input", "middle", "final"])
def test_integrated_gradients_of_a_real_network_are_captums(layer: str) -> None:
    captum = pytest.importorskip("captum.attr")
    made, x = lite0()
    view, options = made.at(layer), {"target": 282, "n_steps": 4, "internal_batch_size": 4}
    found = IntegratedGradients(steps=4, baseline=view.activation(torch.zeros_like(x)))(view, x, 282)
    if layer == "input":
        wanted = captum.IntegratedGradients(made._module).attribute(x, **options)
    else:
        module = made._module.get_submodule(view.layer)
        wanted = captum.LayerIntegratedGradients(made._module, module).attribute(x, **options)
    assert relative_error(found.values, wanted.sum(1, keepdim=True)) < 1e-5


@pytest.mark.parametrize("rule", ["gauss_legendre", "trapezoid", "midpoint", "left", "right"])
def test_quadratures_integrate_a_constant_and_converge_on_an_exponential(rule: str) -> None:
    errors = []
    for steps in (1, 4, 32):
        nodes, weights = quadrature_nodes(steps, rule)  # type: ignore[arg-type]
        assert float(weights.sum()) == pytest.approx(1.0)
        assert 0 <= float(nodes.min()) <= float(nodes.max()) <= 1
        errors.append(abs(float((weights * nodes.exp()).sum()) - (torch.e - 1)))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < (1e-12 if rule == "gauss_legendre" else 0.03)


def test_gauss_legendre_is_exact_for_polynomials_of_degree_2m_minus_1() -> None:
    for steps in (1, 2, 5):
        nodes, weights = quadrature_nodes(steps)
        for degree in range(2 * steps):
            assert float((weights * nodes**degree).sum()) == pytest.approx(1 / (degree + 1), rel=1e-12)


class Head(nn.Module):
    """A score computed from the sum of the image."""

    def __init__(self, formula: str) -> None:
        super().__init__()
        self.formula = formula

    def forward(self, x: Tensor) -> Tensor:
        total = x.sum((1, 2, 3))
        score = {"relu(s-1)": (total - 1).relu(), "s^2": total**2, "s^3": total**3}[self.formula]
        return torch.stack([score, -score], dim=1)


TWO = torch.tensor([[1.0, 0.5], [0.25, 0.25]])[None, None]
THREE_AND_A_HALF = torch.tensor([[1.0, 2.0], [0.5, 0.0]])[None, None]


@pytest.mark.parametrize(
    ("formula", "x", "steps", "total"),
    [
        *(("relu(s-1)", TWO, m, total) for m, total in ((10, 0.90), (50, 0.98), (100, 0.99), (1000, 0.999))),
        *(("s^2", THREE_AND_A_HALF, m, 12.25) for m in (1, 2, 10, 50)),
        *(
            ("s^3", THREE_AND_A_HALF, m, total)
            for m, total in ((1, 64.3125), (2, 48.234375), (10, 43.089375), (50, 42.883575))
        ),
    ],
)
def test_the_trapezoid_gives_the_values_worked_out_by_hand(formula: str, x: Tensor, steps: int, total: float) -> None:
    made = classifier_of(formula)
    found = IntegratedGradients(steps=steps, quadrature="trapezoid", max_batch=64)(made.at("input"), x, 0)
    exact = {"relu(s-1)": 1.0, "s^2": 12.25, "s^3": 42.875}[formula]
    assert found.values.sum().item() == pytest.approx(total, rel=2e-5)
    assert found.delta is not None
    assert found.gap is not None
    assert found.delta.item() == pytest.approx(exact, rel=1e-6)
    assert found.gap.item() == pytest.approx(total - exact, abs=2e-5 * exact)
    assert torch.allclose(found.values[0, 0], x[0, 0] / x.sum() * found.values.sum(), rtol=1e-5)


def classifier_of(formula: str) -> pl.Classifier:
    return pl.Classifier(Head(formula).eval(), input_size=(1, 2, 2))


def test_a_linear_head_makes_integrated_gradients_input_x_gradient_for_any_steps() -> None:
    view, x = classifier(gap_net()).at("final"), images(3)
    wanted = InputXGradient()(view, x, [0, 3]).values
    assert torch.equal(IntegratedGradients(steps=1)(view, x, [0, 3]).values, wanted)
    general = IntegratedGradients(steps=5)(GeneralView(view), x, [0, 3])
    assert relative_error(general.values, wanted) < 1e-6
    assert general.gap is not None
    assert float(general.gap.abs().max()) < 1e-5


@pytest.mark.parametrize("target", [Target(1), Target(1, minus=2), Target([0, 4], "margin"), Target(2, "centered")])
@pytest.mark.parametrize("baseline", [0.0, 0.7])
def test_the_affine_path_equals_the_general_one(target: Target, baseline: float) -> None:
    view, x = classifier(gap_net()).at("final"), images(3)
    fast = IntegratedGradients(baseline=baseline)(view, x, target)
    general = IntegratedGradients(baseline=baseline, steps=3)(GeneralView(view), x, target)
    assert relative_error(fast.values, general.values) < 1e-5
    assert fast.delta is not None
    assert general.delta is not None
    assert torch.allclose(fast.delta, general.delta, atol=1e-6)
    assert fast.passes.suffix_backward < general.passes.suffix_backward


def test_a_probability_is_not_taken_for_affine() -> None:
    view, x = classifier(gap_net()).at("final"), images(2)
    target = Target(1, "probability")
    found = IntegratedGradients(steps=30)(view, x, target)
    assert relative_error(found.values, IntegratedGradients(steps=30)(GeneralView(view), x, target).values) < 1e-6
    assert found.relative_gap is not None
    assert float(found.relative_gap.max()) < 1e-3


def test_refinement_goes_on_until_each_images_gap_is_below_the_tolerance() -> None:
    view, x = classifier(plain_net()).at("input"), images(4)
    rough = IntegratedGradients(steps=2)(view, x, [0, 1])
    fine = IntegratedGradients(steps=2, tolerance=0.01, max_steps=2048)(view, x, [0, 1])
    assert rough.relative_gap is not None
    assert fine.relative_gap is not None
    assert float(rough.relative_gap.max()) > 0.01
    assert float(fine.relative_gap.max()) <= 0.01
    assert fine.notes == ((),) * 4


def test_only_images_that_miss_the_tolerance_are_integrated_again() -> None:
    view, x = classifier(plain_net()).at("input"), images(4)
    once = IntegratedGradients(steps=8)(view, x, 1)
    assert once.relative_gap is not None
    gaps = once.relative_gap.tolist()
    counting = CountingView(view)
    found = IntegratedGradients(steps=8, max_steps=16, tolerance=sorted(gaps)[2] * 1.001)(counting, x, 1)
    assert counting.counts["suffix_backward"] == 4 * 8 + 1 * 16 == found.passes.suffix_backward
    missed = gaps.index(max(gaps))
    kept = [index for index in range(4) if index != missed]
    assert torch.allclose(found.values[kept], once.values[kept], atol=1e-6)
    assert torch.allclose(found.values[missed], IntegratedGradients(steps=16)(view, x, 1).values[missed], atol=1e-6)


def test_a_tolerance_that_is_not_met_is_noted_with_the_gap_that_is_left() -> None:
    view = classifier_of("relu(s-1)").at("input")
    x = torch.cat([TWO, 0.1 * TWO])
    found = IntegratedGradients(steps=10, quadrature="trapezoid", tolerance=0.01, max_steps=30)(view, x, 0)
    assert found.notes[0] == ("completeness gap 0.05 of the score's change after 20 steps, above the tolerance 0.01",)
    assert found.notes[1] == ("the map is zero everywhere: at this layer the method finds no evidence for the target",)
    assert found.relative_gap is not None
    assert found.relative_gap.tolist() == pytest.approx([0.05, 0.0], abs=1e-6)


def test_baselines_may_be_numbers_maps_or_one_for_each_image() -> None:
    module, x = plain_net(), images(3)
    view = classifier(module).at("1")
    _, after = halves(module, "1")
    activation = view.activation(x)
    starts = activation.flip(0) * 0.5
    found = IntegratedGradients(baseline=starts, steps=64)(view, x, 1)
    singly = [IntegratedGradients(baseline=starts[i], steps=64)(view, x[i : i + 1], 1).values for i in range(3)]
    assert relative_error(found.values, torch.cat(singly)) < 1e-6
    assert found.delta is not None
    assert torch.allclose(found.delta[:, 0], (after(activation) - after(starts))[:, 1].detach(), atol=1e-5)
    chunked = IntegratedGradients(baseline=starts, steps=64, max_batch=2)(view, x, 1)
    assert relative_error(chunked.values, found.values) < 1e-6
    channels = torch.linspace(0, 1, 6)[:, None, None]
    by_channel = IntegratedGradients(baseline=channels)(view, x, 1)
    assert torch.equal(by_channel.values, IntegratedGradients(baseline=channels.expand(6, 12, 12))(view, x, 1).values)


@pytest.mark.parametrize(
    ("baseline", "message"),
    [
        (torch.zeros(4, 12, 12), r"\(4, 12, 12\) does not fit"),
        (torch.zeros(2, 6, 12, 12), "for 2 images .* 3 images"),
    ],
)
def test_a_baseline_that_does_not_fit_is_refused_with_its_shape(baseline: Tensor, message: str) -> None:
    with pytest.raises(PellucidError, match=message):
        IntegratedGradients(baseline=baseline)(classifier(plain_net()).at("1"), images(3), 1)


def test_methods_with_different_baselines_are_different_and_options_describe_them() -> None:
    zero, one = IntegratedGradients(), IntegratedGradients(baseline=1.0)
    assert zero == IntegratedGradients()
    assert zero != one
    assert len({zero, one, IntegratedGradients(baseline=torch.ones(3, 1, 1))}) == 3
    assert one.options()["baseline"] == 1.0
    assert IntegratedGradients(baseline=torch.ones(3, 1, 1)).options()["baseline"] == "tensor (3, 1, 1), mean 1"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "at least one step"),
        ({"quadrature": "simpson"}, "unknown quadrature 'simpson'"),
        ({"tolerance": 0.0}, "tolerance is 0.0"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(PellucidError, match=message):
        IntegratedGradients(**options)  # type: ignore[arg-type]

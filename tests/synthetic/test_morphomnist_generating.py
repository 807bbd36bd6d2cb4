"""Known causal models: their moments, graphs, interventions and counterfactuals against closed forms."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from pellucid.data import ContextTable
from pellucid.errors import PellucidError
from pellucid.synthetic import CausalModel, Mechanism
from pellucid.synthetic.morphomnist import (
    CAUSAL_MODELS,
    intensity_to_thickness,
    thickness_slant_width_to_intensity,
    thickness_to_intensity,
    thickness_to_slant,
)

MANY = 100_000


def _sigmoid(value: torch.Tensor | float) -> torch.Tensor:
    return torch.sigmoid(torch.as_tensor(value, dtype=torch.float64))


def test_graphs_are_those_stated() -> None:
    edges = {name: set(model.edges) for name, model in CAUSAL_MODELS.items()}
    assert edges == {
        "TI": {("thickness", "intensity")},
        "IT": {("intensity", "thickness")},
        "TS": {("thickness", "slant")},
        "TSWI": {(c, "intensity") for c in ("thickness", "slant", "width")} | {("thickness", "width")},
    }


@pytest.mark.parametrize(("name", "shift"), [("TI", 0.5), ("TS", 0.0), ("TSWI", 0.5)])
def test_thickness_is_a_shifted_gamma(name: str, shift: float) -> None:
    thickness = CAUSAL_MODELS[name].sample(MANY).column("thickness").numpy()
    assert stats.kstest(thickness - shift, stats.gamma(10, scale=0.2).cdf).pvalue > 1e-3


def test_intensity_given_thickness_is_a_logistic_normal() -> None:
    table = CAUSAL_MODELS["TI"].sample(MANY, seed=1)
    logit = torch.logit((table.column("intensity") - 64) / 191)
    noise = (logit - 2 * (table.column("thickness") - 2.5)) / 0.5
    assert stats.kstest(noise.numpy(), "norm").pvalue > 1e-3
    assert abs(np.corrcoef(noise.numpy(), table.column("thickness").numpy())[0, 1]) < 0.01


def test_slant_given_thickness_is_normal_in_degrees() -> None:
    table = CAUSAL_MODELS["TS"].sample(MANY, seed=1)
    noise = table.column("slant") * 180 / math.pi - 20 * (table.column("thickness") - 2.5)
    assert stats.kstest(noise.numpy(), "norm").pvalue > 1e-3


def test_both_directions_tie_thickness_and_intensity_alike() -> None:
    tables = [CAUSAL_MODELS[name].sample(MANY).select(["thickness", "intensity"]) for name in ("TI", "IT")]
    means = torch.stack([table.values.mean(0) for table in tables])
    sds = torch.stack([table.values.std(0) for table in tables])
    ties = [float(torch.corrcoef(table.values.T)[0, 1]) for table in tables]
    assert torch.allclose(means[0], means[1], rtol=0.05)
    assert torch.allclose(sds[0], sds[1], rtol=0.1)
    assert ties == pytest.approx([0.91, 0.91], abs=0.04)


@pytest.mark.parametrize("model", CAUSAL_MODELS.values(), ids=CAUSAL_MODELS.keys())
def test_abduction_finds_the_noises_again(model: CausalModel) -> None:
    random = np.random.default_rng(0)
    noises = torch.from_numpy(np.stack([mechanism.draw(random, 500) for mechanism in model.mechanisms], axis=1))
    assert torch.allclose(model.noises(model.solve(noises)), noises, atol=1e-6)


@pytest.mark.parametrize("model", CAUSAL_MODELS.values(), ids=CAUSAL_MODELS.keys())
def test_counterfactuals_are_the_same_noises_under_the_intervention(model: CausalModel) -> None:
    observed = model.sample(300, seed=4)
    for name in model.names:
        do = {name: float(observed.column(name).median())}
        expected = model.sample(300, seed=4, do=do)
        assert torch.allclose(model.counterfactual(observed, do).values, expected.values, atol=1e-5)
    assert torch.allclose(model.counterfactual(observed, {}).values, observed.values, atol=1e-5)


def test_intervening_on_a_cause_moves_its_effect_as_the_equation_says() -> None:
    model = thickness_to_intensity()
    noise = torch.special.ndtri((torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000)
    for level in (1.5, 2.5, 4.0):
        done = model.sample(MANY, do={"thickness": level}).column("intensity")
        exact = (64 + 191 * _sigmoid(2 * (level - 2.5) + 0.5 * noise)).mean()
        assert done.mean() == pytest.approx(float(exact), abs=0.3)
        assert done.median() == pytest.approx(float(64 + 191 * _sigmoid(2 * (level - 2.5))), abs=0.5)


@pytest.mark.parametrize(
    ("name", "cause", "effect"), [("TI", "thickness", "intensity"), ("IT", "intensity", "thickness")]
)
def test_intervening_on_an_effect_leaves_its_cause_alone(name: str, cause: str, effect: str) -> None:
    model = CAUSAL_MODELS[name]
    free, done = model.sample(1000, seed=2), model.sample(1000, seed=2, do={effect: 3.0})
    assert torch.equal(free.column(cause), done.column(cause))
    assert bool((done.column(effect) == 3).all())


def test_an_intervention_in_the_middle_cuts_the_arrow_into_it() -> None:
    model = thickness_slant_width_to_intensity()
    free, done = model.sample(MANY, seed=2), model.sample(MANY, seed=2, do={"width": 12.0})
    assert torch.equal(free.column("thickness"), done.column("thickness"))
    t, s = done.column("thickness"), done.column("slant")
    drive = torch.logit((done.column("intensity") - 64) / 191)
    residual = drive - 1.2 * (t - 2.5) - 3 * s + 0.24
    assert residual.mean() == pytest.approx(0, abs=0.01)
    assert residual.std() == pytest.approx(0.5, abs=0.01)


def test_thickness_has_a_total_effect_through_width() -> None:
    model = thickness_slant_width_to_intensity()
    observed = model.sample(2000, seed=5)
    changed = model.counterfactual(observed, {"thickness": observed.column("thickness") + 0.5})
    drive, new = (torch.logit((t.column("intensity") - 64) / 191) for t in (observed, changed))
    mediated = 0.12 * (changed.column("width") - observed.column("width"))
    assert bool((changed.column("width") > observed.column("width")).all())
    assert torch.allclose(new - drive, 1.2 * 0.5 + mediated, atol=1e-5)


def test_all_causes_show_in_the_partial_correlations() -> None:
    table = thickness_slant_width_to_intensity().sample(MANY)
    drive = torch.logit((table.column("intensity") - 64) / 191)
    values = torch.stack([*table.select(["thickness", "slant", "width"]).values.unbind(1), drive])
    precision = torch.linalg.inv(torch.corrcoef(values))
    partial = -precision / (precision.diag()[:, None] * precision.diag()).sqrt()
    assert bool((partial[3, :3] > 0.3).all())


def test_parameters_change_the_equations() -> None:
    inverted = thickness_to_intensity(slope=-2.0, center=2.0).sample(1000)
    assert torch.corrcoef(inverted.values.T)[0, 1] < -0.8
    loose = intensity_to_thickness(noise=0.6).sample(MANY)
    assert torch.corrcoef(loose.values.T)[0, 1] < torch.corrcoef(CAUSAL_MODELS["IT"].sample(MANY).values.T)[0, 1]
    steep = thickness_to_slant(slope=0.0, noise=3.0).sample(MANY).column("slant")
    assert steep.std() == pytest.approx(math.radians(3), rel=0.02)


def test_values_outside_the_models_range_are_explained_as_if_just_inside() -> None:
    observed = ContextTable.from_columns({"thickness": [2.5, 2.5], "intensity": [255.0, 60.0]})
    changed = CAUSAL_MODELS["TI"].counterfactual(observed, {"thickness": 2.6})
    assert changed.column("intensity").tolist() == pytest.approx([255, 64], abs=0.01)


def test_samples_are_repeatable_and_variables_have_their_own_streams() -> None:
    model = CAUSAL_MODELS["TSWI"]
    assert torch.equal(model.sample(10, seed=3).values, model.sample(10, seed=3).values)
    assert not torch.equal(model.sample(10, seed=3).values, model.sample(10, seed=4).values)
    fewer = CausalModel("TS part", model.mechanisms[:2])
    assert torch.equal(fewer.sample(10, seed=3).values, model.sample(10, seed=3).values[:, :2])


def test_impossible_questions_are_refused() -> None:
    model = CAUSAL_MODELS["TI"]
    with pytest.raises(PellucidError, match="no variable 'age' to set; it has thickness, intensity"):
        model.sample(3, do={"age": 1.0})
    with pytest.raises(PellucidError, match="0 rows of TI"):
        model.sample(0)
    orphan = Mechanism("b", ("a",), lambda values, noise: noise, lambda values, value: value)
    with pytest.raises(PellucidError, match=r"'b' has parents \['a'\]"):
        CausalModel("wrong order", (orphan,))


@pytest.mark.parametrize("given", [[], [1], [3], [1, 3]])
def test_thickness_and_width_are_tied_whatever_else_is_given_so_that_their_edge_can_be_found(given: list[int]) -> None:
    table = thickness_slant_width_to_intensity().sample(MANY)
    drive = torch.logit((table.column("intensity") - 64) / 191)
    values = torch.stack([*table.select(["thickness", "slant", "width"]).values.unbind(1), drive])
    precision = torch.linalg.inv(torch.corrcoef(values[[0, 2, *given]]))
    assert abs(precision[0, 1] / (precision[0, 0] * precision[1, 1]).sqrt()) > 0.1

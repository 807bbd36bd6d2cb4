import numpy as np
import pytest
import torch

from pellucid.errors import PellucidError
from pellucid.surrogate.causal.effects import interaction, path_effects
from pellucid.surrogate.causal.graph import CausalGraph, Edge
from pellucid.surrogate.causal.mechanisms import FittedStructuralModel, hsic_p_value

NODES = ("a", "b", "c")
GRAPH = CausalGraph(NODES, tuple(Edge(*pair, "tail", "arrow") for pair in ("ab", "bc", "ac")))


def linear(rows: int = 4000) -> np.ndarray:
    a, b, c = np.random.default_rng(0).standard_normal((3, rows))
    b = 0.8 * a + 0.6 * b
    return np.c_[a, b, 0.5 * b - 0.4 * a + 0.5 * c]


@pytest.fixture(scope="module")
def model() -> FittedStructuralModel:
    return FittedStructuralModel.fit(linear(), GRAPH)


def test_effects_of_a_linear_gaussian_model_are_the_closed_forms(model: FittedStructuralModel) -> None:
    concepts = torch.from_numpy(linear())[:500]
    weights = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    result = path_effects(model, lambda w: w @ weights, concepts, "a", concepts[:, 0] + 1)
    paths = {("a", "b"): 0.8 * 2, ("a", "c"): -0.4 * 3, ("a", "b", "c"): 0.8 * 0.5 * 3}
    assert result.direct.mean() == pytest.approx(1, abs=1e-6)
    assert result.total.mean() == pytest.approx(1 + sum(paths.values()), rel=0.05)
    for path, true in paths.items():
        assert result.paths[path].mean() == pytest.approx(true, rel=0.06)
    assert result.mediated("c").mean() == pytest.approx(-1.2 + 1.2, abs=0.06)
    assert result.remainder.abs().mean() < 0.1


def test_total_is_always_direct_and_paths_and_remainder(model: FittedStructuralModel) -> None:
    concepts = torch.from_numpy(linear())[:50]
    result = path_effects(model, lambda w: (w[:, 0] * w[:, 2]).tanh() + w[:, 1] ** 2, concepts, "a", 2.0)
    torch.testing.assert_close(result.total, result.direct + sum(result.paths.values()) + result.remainder)


def test_setting_a_node_to_what_it_is_changes_nothing_to_the_last_bit(model: FittedStructuralModel) -> None:
    values = linear()[:100]
    assert np.array_equal(model.counterfactual(values, {"a": values[:, 0]}), values)


def test_causes_keep_their_values_when_an_effect_is_set(model: FittedStructuralModel) -> None:
    values = linear()[:100]
    changed = model.counterfactual(values, {"c": 5.0})
    assert np.array_equal(changed[:, :2], values[:, :2])
    assert (changed[:, 2] == 5).all()


def test_a_counterfactual_intensity_follows_the_true_equation_through_its_own_noise() -> None:
    random = np.random.default_rng(0)
    noise = random.standard_normal(4000)
    thickness = 0.5 + random.gamma(10, 1 / 5, 4000)

    def intensity(t: np.ndarray) -> np.ndarray:
        return 64 + 191 / (1 + np.exp(-(0.5 * noise + 2 * (t - 2.5))))

    graph = CausalGraph(("t", "i"), (Edge("t", "i", "tail", "arrow"),))
    model = FittedStructuralModel.fit(np.c_[thickness, intensity(thickness)], graph)
    for shift in (-0.5, 0.5):
        changed = model.counterfactual(np.c_[thickness, intensity(thickness)], {"t": thickness + shift})
        assert np.abs(changed[:, 1] - intensity(thickness + shift)).mean() < 0.05 * 191


def test_the_diagnosis_knows_a_good_mechanism_from_one_that_misses_a_variance(model: FittedStructuralModel) -> None:
    good = model.diagnosis["b"]
    assert good.r2 == pytest.approx(0.64, abs=0.03)
    assert good.coverage == pytest.approx(0.9, abs=0.03)
    assert good.hsic_p > 0.05
    random = np.random.default_rng(0)
    cause = random.standard_normal(2000)
    data = np.c_[cause, cause + np.exp(1.2 * cause) * random.standard_normal(2000)]
    bad = FittedStructuralModel.fit(data, CausalGraph(("x", "y"), (Edge("x", "y", "tail", "arrow"),)))
    assert bad.diagnosis["y"].hsic_p < 0.01


def test_independence_is_tested_with_the_right_level_and_power() -> None:
    random = np.random.default_rng(0)
    first = random.standard_normal((150, 1))
    level = [hsic_p_value(first, random.standard_normal(150), permutations=50, seed=k) for k in range(40)]
    assert sum(p <= 0.1 for p in level) <= 10
    assert hsic_p_value(first, first**2, permutations=50) < 0.05


def test_what_two_changes_do_together_is_the_second_difference() -> None:
    concepts = torch.randn(5, 3)
    result = interaction(lambda w: 3 * w[:, 0] * w[:, 1] + w[:, 2], concepts, (0, 2.0), (1, -1.0))
    torch.testing.assert_close(result, 3 * (2 - concepts[:, 0]) * (-1 - concepts[:, 1]))


def test_undecided_edges_and_unknown_nodes_are_refused_with_the_mend(model: FittedStructuralModel) -> None:
    with pytest.raises(PellucidError, match=r"\['a - b'\] is not identified: orient"):
        FittedStructuralModel.fit(linear()[:, :2], CausalGraph(("a", "b"), (Edge("a", "b"),)))
    with pytest.raises(PellucidError, match=r"\['z'\] are no nodes"):
        model.counterfactual(linear()[:3], {"z": 1.0})
    with pytest.raises(PellucidError, match="is constant"):
        FittedStructuralModel.fit(np.c_[np.ones(50), np.arange(50.0)], CausalGraph(("a", "b"), ()))

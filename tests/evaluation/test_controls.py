import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pellucid.classifiers import randomizable_layers, randomize_cascading, randomize_independent, reinitialize
from pellucid.errors import ModelError, PellucidError
from pellucid.evaluation import attainable_score, localization_score
from pellucid.evaluation.metrics import input_magnitude, oracle_mask, random_map, sobel_edges, uniform_map


def network() -> nn.Sequential:
    made = nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 50),
    )
    made[1].running_mean.uniform_()
    made[1].running_var.uniform_()
    made[1].weight.data.uniform_()
    made[1].bias.data.uniform_()
    return made.eval()


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


@pytest.mark.parametrize("control", [uniform_map, random_map, sobel_edges, input_magnitude, oracle_mask])
def test_controls_are_maps_of_what_the_layer_sees(control: Callable[[Tensor], Tensor]) -> None:
    for shape in ((2, 3, 8, 12), (2, 16, 4, 4)):
        found = control(torch.randn(shape))
        assert found.shape == (2, 1, *shape[2:])
        assert float(found.min()) >= 0


def test_the_uniform_map_scores_chance_and_the_oracle_what_can_be_attained() -> None:
    images = torch.randn(2, 3, 12, 18)
    chance = localization_score(uniform_map(images), (2, 3), 4, (48, 72))
    torch.testing.assert_close(chance, torch.full((2,), 1 / 6, dtype=torch.float64))
    oracle = localization_score(oracle_mask(images, (2, 3), 4), (2, 3), 4, (48, 72))
    assert oracle.tolist() == pytest.approx([attainable_score((12, 18), (2, 3), 4, (48, 72))] * 2)


def test_random_maps_score_near_chance_and_do_not_depend_on_the_batch() -> None:
    images = torch.zeros(3, 3, 64, 64)
    maps = random_map(images, seed=5)
    assert torch.equal(maps[2:], random_map(images[2:], seed=7))
    assert not torch.equal(maps[0], maps[1])
    assert localization_score(maps, 2, 0).tolist() == pytest.approx([0.25] * 3, abs=0.02)


def test_sobel_edges_are_those_of_a_loop() -> None:
    image = torch.randn(1, 2, 5, 6, dtype=torch.float64)
    kernel = [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]
    wanted = torch.zeros(5, 6, dtype=torch.float64)
    for channel, y, x in itertools.product(range(2), range(5), range(6)):
        across = down = 0.0
        for i, j in itertools.product(range(3), range(3)):
            pixel = float(image[0, channel, min(max(y + i - 1, 0), 4), min(max(x + j - 1, 0), 5)])
            across, down = across + kernel[i][j] * pixel, down + kernel[j][i] * pixel
        wanted[y, x] += (across**2 + down**2) ** 0.5
    torch.testing.assert_close(sobel_edges(image)[0, 0], wanted)


def test_edges_of_a_flat_image_are_zero() -> None:
    assert float(sobel_edges(torch.full((1, 3, 6, 6), 4.0)).abs().max()) == 0


def test_the_magnitude_is_summed_over_channels() -> None:
    assert float(input_magnitude(torch.tensor([-1.0, 2.0, -3.0]).view(1, 3, 1, 1))) == 6


def test_the_cascade_goes_from_the_top_and_keeps_what_is_below() -> None:
    model = network()
    before = state(model)
    steps = list(randomize_cascading(model, seed=1))
    assert [step.layer for step in steps] == ["5", "1", "0"] == list(randomizable_layers(model))
    assert [step.layers for step in steps] == [("5",), ("5", "1"), ("5", "1", "0")]
    for step in steps:
        for name, value in step.network.state_dict().items():
            if name.endswith("num_batches_tracked"):
                continue
            assert torch.equal(value, before[name]) == (name.split(".")[0] not in step.layers), name


def test_the_users_network_is_as_it_was() -> None:
    model = network()
    before, random_state = state(model), torch.get_rng_state()
    for step in (*randomize_cascading(model), *randomize_independent(model)):
        step.network.weight = None
        assert not step.network.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_weights_are_drawn_as_the_rule_of_their_kind_says() -> None:
    conv, norm, linear = nn.Conv2d(32, 64, 3), nn.BatchNorm2d(64), nn.Linear(64, 200)
    norm.running_mean.fill_(3)
    norm.running_var.fill_(9)
    *_, last = randomize_cascading(nn.Sequential(conv, norm, linear))
    conv, norm, linear = last.network.requires_grad_(False)
    assert float(conv.weight.std()) == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)
    assert float(linear.weight.std()) == pytest.approx(0.01, rel=0.02)
    assert float(conv.bias.abs().max()) == float(linear.bias.abs().max()) == 0
    assert [float(x.mean()) for x in (norm.weight, norm.bias, norm.running_mean, norm.running_var)] == [1, 0, 0, 1]
    assert float(norm.weight.std()) == 0


def test_one_layer_at_a_time_leaves_all_others() -> None:
    model = network()
    before = state(model)
    steps = list(randomize_independent(model, seed=1))
    cascade = {step.layer: step for step in randomize_cascading(model, seed=1)}
    for step in steps:
        changed = {
            name.split(".")[0] for name, v in step.network.state_dict().items() if not torch.equal(v, before[name])
        }
        assert changed == {step.layer} == set(step.layers)
        own = step.network.get_submodule(step.layer).weight
        assert torch.equal(own, cascade[step.layer].network.get_submodule(step.layer).weight)


def test_the_seed_decides_the_weights() -> None:
    first, again, other = (next(randomize_cascading(network(), seed=seed)).network[5].weight for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_stage_named_as_a_whole_is_one_step() -> None:
    model = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)), nn.Linear(4, 2))
    steps = list(randomize_cascading(model, layers=["1", "0"]))
    assert len(steps) == 2
    assert not any(torch.equal(new.weight, old.weight) for new, old in zip(steps[1].network[0], model[0], strict=True))


def test_parameters_outside_any_known_kind_are_set_back_too() -> None:
    model = nn.MultiheadAttention(8, 2)
    *_, last = randomize_cascading(model)
    assert float(last.network.requires_grad_(False).in_proj_weight.std()) == pytest.approx(0.01, rel=0.3)


def test_layers_that_cannot_be_randomized_are_refused() -> None:
    with pytest.raises(ModelError, match=r"no layer 'head'.*5, 1, 0"):
        next(randomize_cascading(network(), layers=["head"]))
    with pytest.raises(ModelError, match="'2' has no parameters"):
        next(randomize_cascading(network(), layers=["2"]))
    with pytest.raises(ModelError, match="no parameters"):
        next(randomize_independent(nn.ReLU()))
    with pytest.raises(PellucidError, match="named twice"):
        next(randomize_cascading(network(), layers=["0", "0"]))


def test_a_network_initialized_anew_is_as_it_was_made_and_leaves_all_else_alone() -> None:
    def made() -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))

    trained = made().eval()
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.fill_(3.0)
        trained[1].running_mean.fill_(2.0)
    state = torch.random.get_rng_state()
    fresh, again = reinitialize(trained, seed=4), reinitialize(trained, seed=4)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(4)
    for (name, found), (_, same), (_, wanted) in zip(
        fresh.state_dict().items(), again.state_dict().items(), made().state_dict().items(), strict=True
    ):
        assert torch.equal(found, same), name
        assert torch.equal(found, wanted), name
    assert all(bool((parameter == 3).all()) for parameter in trained.parameters())
    assert not fresh.training

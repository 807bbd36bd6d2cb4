"""LRP as a method: where relevance starts, which rule acts where, what is conserved, and what a reader is told."""

import copy
from typing import Any

import pytest
import torch
from tests.attribution.support import WiredNet, images, lite0, relative_error, seeded
from torch import Tensor, nn

import pellucid as pl
from pellucid.attribution import (
    LRP,
    Explanation,
    InputXGradient,
    Target,
)
from pellucid.attribution.lrp import (
    Epsilon,
    Flat,
    ZBox,
    ZPlus,
)
from pellucid.attribution.lrp.composites import (
    COMPOSITES,
    Layer,
    RuleMap,
    make_composites,
)
from pellucid.attribution.lrp.propagation import Propagation
from pellucid.data import Preprocess
from pellucid.errors import LayerError, PellucidError, TargetError

SIZE = 12
BOX = {"low": -4.0, "high": 4.0}
CLASSES = 5


def conv_net(bias: bool) -> nn.Sequential:
    return seeded(
        lambda: nn.Sequential(
            nn.Conv2d(3, 16, 3, bias=bias),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 24, 3, padding=1, bias=bias),
            nn.ReLU(),
            nn.Conv2d(24, 24, 3, bias=bias),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(24, 24, bias=bias),
            nn.ReLU(),
            nn.Linear(24, CLASSES, bias=bias),
        )
    )


def classifier(net: nn.Module, **options: Any) -> pl.Classifier:
    return pl.Classifier(net.double(), input_size=SIZE, **options)


def explain(net: nn.Module, layer: str = "input", target: Any = 0, **options: Any) -> Explanation:
    return LRP(**(BOX | options))(classifier(net).at(layer), images(size=SIZE).double(), target)


@pytest.mark.parametrize("layer", ["input", "1", "4", "6"])
def test_epsilon_to_zero_is_input_x_gradient_on_a_relu_network_without_biases(layer: str) -> None:
    view = classifier(conv_net(bias=False)).at(layer)
    x = images(size=SIZE).double()
    found = LRP(composite="epsilon", epsilon=1e-12, stabilizer=1e-12)(view, x, [0, 3])
    assert relative_error(found.values, InputXGradient()(view, x, [0, 3]).values) < 1e-6
    assert float(found.relative_gap.max()) < 1e-6


@pytest.mark.parametrize("layer", ["input", "3"])
@pytest.mark.parametrize("composite", COMPOSITES)
def test_without_biases_all_relevance_arrives(composite: str, layer: str) -> None:
    found = explain(conv_net(bias=False), layer=layer, composite=composite, epsilon=1e-9, stabilizer=1e-9)
    assert float(found.relative_gap.max()) < 1e-5
    torch.testing.assert_close(found.delta, found.scores)


@pytest.mark.parametrize("composite", ["epsilon_plus_box", "epsilon_alpha2_beta1_flat", "epsilon_gamma_box", "epsilon"])
def test_biases_keep_a_part_that_is_told_unless_they_may_not(composite: str) -> None:
    net = conv_net(bias=True)
    found = explain(net, composite=composite, epsilon=1e-9, stabilizer=1e-9)
    lost = float(-found.gap[0] / found.delta[0, 0])
    assert abs(lost) > 0.02
    assert f"class 0: {lost:.0%} of the relevance was lost to biases" in found.notes[0][0]
    whole = explain(net, composite=composite, epsilon=1e-9, stabilizer=1e-9, absorb_bias=False)
    assert float(whole.relative_gap.max()) < 1e-4
    assert whole.notes == ((), ())


def test_every_bit_of_relevance_is_accounted_for() -> None:
    view = classifier(seeded(lambda: WiredNet("module"))).at("left")
    activation = view.activation(images(1, size=SIZE).double())
    inputs = view.suffix_inputs(activation, activation.side_inputs)
    chosen = make_composites(0.1, 0.25, 1e-6)["epsilon_plus"]
    start = torch.randn(3, 1, CLASSES, dtype=torch.float64)
    relevance = Propagation(view.suffix, inputs, RuleMap(chosen))(start)
    assert float(relevance.to_side_inputs.abs().max()) > 0
    assert float(relevance.absorbed["narrow"].abs().max()) > 0
    found = relevance.values.flatten(2).sum(2) + relevance.to_side_inputs + sum(relevance.absorbed.values())
    torch.testing.assert_close(found, start.sum(2))
    assert set(relevance.absorbed) == {"head", "mean", "narrow", "add", "bn"}


# Where relevance starts


def test_relevance_starts_at_the_logit() -> None:
    net = conv_net(bias=False)
    logits = net.double()(images(size=SIZE).double()).float()
    found = explain(net, target=[2, 4])
    torch.testing.assert_close(found.delta, logits[:, [2, 4]])


@pytest.mark.parametrize(
    ("target", "weights"),
    [
        (Target(1, output="centered"), torch.tensor([-0.2, 0.8, -0.2, -0.2, -0.2])),
        (Target(1, minus=3), torch.tensor([0.0, 1.0, 0.0, -1.0, 0.0])),
    ],
    ids=["centered", "contrast"],
)
def test_a_difference_of_logits_is_a_last_layer_without_stabiliser(target: Target, weights: Tensor) -> None:
    net = conv_net(bias=False)
    last = nn.Linear(CLASSES, 1, bias=False).eval()
    last.weight.data = weights[None]
    longer = nn.Sequential(*copy.deepcopy(net), last).eval()
    found, wanted = explain(net, target=target), explain(longer, rules={"12": Epsilon(0.0)})
    assert relative_error(found.values, wanted.values) < 1e-6


def test_a_margin_starts_at_the_class_and_at_the_runner_up() -> None:
    net = conv_net(bias=False)
    logits = net.double()(images(size=SIZE).double())
    logits[:, 1] = -torch.inf
    contrasts = [explain(net, target=Target(1, minus=int(other))).values for other in logits.argmax(1)]
    found = explain(net, target=Target(1, output="margin"))
    assert torch.equal(found.values, torch.stack([contrasts[0][0], contrasts[1][1]]))


@pytest.mark.parametrize("output", ["probability", "log_probability"])
def test_probabilities_have_no_relevance_to_start_from(output: Any) -> None:
    with pytest.raises(TargetError, match="LRP starts from logits"):
        explain(conv_net(bias=False), target=Target(0, output=output))


def test_without_rules_the_map_is_the_gradient_times_the_logit() -> None:
    net = conv_net(bias=True).double()
    x = images(size=SIZE).double().requires_grad_()
    logits = net(x)[:, 1]
    (gradient,) = torch.autograd.grad(logits.sum(), x)
    found = explain(net, target=1, composite="gradient")
    wanted = (gradient * logits[:, None, None, None]).sum(1, keepdim=True)
    assert relative_error(found.values, wanted.float()) < 1e-6
    assert found.delta is None


# Which rule acts where


def rules_of(layers: str, composite: str = "epsilon_plus_box", **options: Any) -> list[str]:
    """Names of the rules of layers written as `name kind`, those applied to the images with a star."""
    described = [Layer(name, kind.strip("*"), kind.endswith("*")) for name, kind in map(str.split, layers.split(","))]
    rules = RuleMap(make_composites(1e-6, 0.25, 1e-6)[composite], **options).assign(described)
    return [type(rule).__name__ for rule in rules]


VGG = "f.0 convolution*,f.1 convolution,f.2 convolution,classifier.0 convolution,classifier.1 linear"


@pytest.mark.parametrize(
    ("composite", "wanted"),
    [
        ("epsilon_plus_box", "ZBox ZPlus ZPlus ZPlus Epsilon"),
        ("epsilon025_plus_box", "ZBox ZPlus ZPlus ZPlus Epsilon"),
        ("epsilon_gamma_box", "ZBox Gamma Gamma Gamma Epsilon"),
        ("epsilon_plus", "ZPlus ZPlus ZPlus ZPlus Epsilon"),
        ("epsilon_plus_flat", "Flat ZPlus ZPlus ZPlus Epsilon"),
        ("epsilon_alpha2_beta1", "AlphaBeta AlphaBeta AlphaBeta AlphaBeta Epsilon"),
        ("epsilon_alpha2_beta1_flat", "Flat AlphaBeta AlphaBeta AlphaBeta Epsilon"),
        ("excitation_backprop", "ZPlus ZPlus ZPlus ZPlus ZPlus"),
        ("epsilon", "Epsilon Epsilon Epsilon Epsilon Epsilon"),
    ],
)
def test_a_composite_maps_kinds_of_layers_to_rules(composite: str, wanted: str) -> None:
    assert " ".join(rules_of(VGG, composite)) == wanted


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"head": ["classifier"]}, "ZBox ZPlus ZPlus Epsilon Epsilon"),
        ({"head": ["classifier.0"]}, "ZBox ZPlus ZPlus Epsilon Epsilon"),
        ({"head": ["class"]}, "ZBox ZPlus ZPlus ZPlus Epsilon"),
        ({"last_convolutions": 1}, "ZBox ZPlus ZPlus Epsilon Epsilon"),
        ({"last_convolutions": 1, "head": ["classifier"]}, "ZBox ZPlus Epsilon Epsilon Epsilon"),
        ({"last_convolutions": 9}, "ZBox Epsilon Epsilon Epsilon Epsilon"),
        ({"rules": {"f.0": ZPlus(), "f.*": Flat()}}, "ZPlus Flat Flat ZPlus Epsilon"),
        ({"rules": {"*.1": Flat()}, "head": ["classifier"]}, "ZBox Flat ZPlus Epsilon Flat"),
    ],
)
def test_names_come_before_kinds(options: dict[str, Any], wanted: str) -> None:
    assert " ".join(rules_of(VGG, **options)) == wanted


def test_batch_norms_that_stay_pass_or_are_convolutions() -> None:
    layers = "a convolution*,bn batch_norm,ln normalization,add shift,fc linear*"
    assert rules_of(layers, "epsilon_plus_flat") == ["Flat", "IdentityRule", "Epsilon", "IdentityRule", "Flat"]
    assert rules_of(layers, merge_batch_norm=False)[1] == "ZPlus"
    assert rules_of(layers, "epsilon") == ["Epsilon"] * 5


def test_a_convolutional_head_is_told_by_name_and_then_equals_the_linear_one() -> None:
    features = [nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 4, stride=2), nn.ReLU()]
    linear = seeded(lambda: nn.Sequential(*features, nn.Flatten(), nn.Linear(6 * 16, 8), nn.ReLU(), nn.Linear(8, 5)))
    first, last = nn.Conv2d(6, 8, 4), nn.Conv2d(8, 5, 1)
    first.weight.data, first.bias.data = linear[5].weight.data.view(8, 6, 4, 4), linear[5].bias.data
    last.weight.data, last.bias.data = linear[7].weight.data.view(5, 8, 1, 1), linear[7].bias.data
    head = nn.Sequential(first, nn.ReLU(), last, nn.Flatten())
    convolutional = nn.Sequential(nn.Sequential(*copy.deepcopy(list(linear[:4]))), head).eval()
    wanted = explain(linear).values
    assert relative_error(explain(convolutional, head=["1"]).values, wanted) < 1e-6
    assert relative_error(explain(convolutional).values, wanted) > 0.05


def test_only_the_images_have_a_box() -> None:
    net = conv_net(bias=False)
    boxed, plus = (explain(net, layer="3", composite=name).values for name in ("epsilon_plus_box", "epsilon_plus"))
    assert torch.equal(boxed, plus)
    with pytest.raises(LayerError, match=r"'5': the rule ZBox needs"):
        explain(net, layer="3", rules={"5": ZBox()})


def test_the_box_is_black_and_white_in_the_classifiers_input_space() -> None:
    preprocess = Preprocess(input_size=(SIZE, SIZE), mean=(0.2, 0.4, 0.5), std=(0.1, 0.2, 0.25))
    view = classifier(conv_net(bias=True), preprocess=preprocess).at("input")
    x = images(size=SIZE).double().clamp(-2, 2)
    found = LRP()(view, x, 0).values
    assert torch.equal(found, LRP(low=(-2, -2, -2), high=(8, 3, 2))(view, x, 0).values)
    widened = LRP(widen_box=0.1)(view, x, 0).values
    assert relative_error(widened, LRP(low=(-3, -2.5, -2.4), high=(9, 3.5, 2.4))(view, x, 0).values) < 1e-5
    assert relative_error(found, widened) > 1e-3


def test_the_mean_and_deviation_may_be_a_step_of_the_preprocessing() -> None:
    class Steps:
        transforms = (object(), Preprocess((SIZE, SIZE), mean=(0.2, 0.4, 0.5), std=(0.1, 0.2, 0.25)))

    view = classifier(conv_net(bias=True), preprocess=Steps()).at("input")
    x = images(size=SIZE).double()
    assert torch.equal(LRP()(view, x, 0).values, LRP(low=(-2, -2, -2), high=(8, 3, 2))(view, x, 0).values)


def test_a_box_goes_through_what_the_network_does_to_the_images_first() -> None:
    class Normalizing(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner
            self.register_buffer("scale", torch.tensor([-2.0, 0.5, 1.0])[:, None, None])

        def forward(self, x: Tensor) -> Tensor:
            return self.inner((x.flip(1) - 0.3) / self.scale)

    net = conv_net(bias=True).double()
    x = images(size=SIZE).double().clamp(-4, 4)
    moved = (x.flip(1) - 0.3) / torch.tensor([-2.0, 0.5, 1.0])[:, None, None]
    found = LRP(**BOX)(classifier(Normalizing(net).eval()).at("input"), x, 0)
    box = {"low": (-1.85, -8.6, -4.3), "high": (2.15, 7.4, 3.7)}
    wanted = LRP(**box)(classifier(net).at("input"), moved, 0)
    assert relative_error(found.values, wanted.values) < 1e-6


def test_a_box_that_is_not_known_is_an_error_that_names_the_layer_and_the_options() -> None:
    view = classifier(conv_net(bias=True)).at("input")
    with pytest.raises(LayerError, match=r"'0': .*give low= and high="):
        LRP()(view, images(size=SIZE).double(), 0)


def test_images_beyond_the_box_are_told() -> None:
    net = conv_net(bias=True)
    notes = " ".join(explain(net, low=-1.0, high=1.0).notes[0])
    assert "the image reaches beyond the box" in notes
    assert "beyond the box" not in " ".join(explain(net, low=-9.0, high=9.0).notes[0])


def test_names_that_fit_nothing_are_told() -> None:
    notes = " ".join(explain(conv_net(bias=False), head=["11", "clasifier"], rules={"0": Flat()}).notes[0])
    assert "no layer that relevance reaches is named 'clasifier'" in notes
    assert "'11'" not in notes


# Cancelling weights: a head that reads one cell of two, written so that the other cell's features cancel


def test_cancelling_weights_leave_the_connected_cell_alone_under_epsilon_but_not_under_z_plus() -> None:
    own = torch.tensor([0.7, 0.2, 0.9, 0.4])
    weights = torch.tensor([1.0, -0.5, 2.0, 0.5])
    other = torch.tensor([0.6, 0.3, 0.8, 0.1])
    hidden, output = nn.Linear(8, 6, bias=False), nn.Linear(6, 1, bias=False)
    hidden.weight.data = torch.zeros(6, 8)
    hidden.weight.data[:4, :4] = torch.eye(4)
    hidden.weight.data[4, 4:], hidden.weight.data[5, 4:] = 1.0, -1.0
    output.weight.data = torch.cat([weights, torch.ones(2)])[None]
    net = nn.Sequential(nn.Flatten(), hidden, output).eval()
    view = pl.Classifier(net.double(), input_size=(1, 2, 4)).at("input")
    x = torch.stack([own, other])[None, None].double()
    logit = float((own * weights).sum())
    assert float(net(x).detach()) == pytest.approx(logit)

    under_epsilon = LRP(composite="epsilon")(view, x, 0)
    under_plus = LRP(composite="epsilon", rules={"*": ZPlus()})(view, x, 0)
    for found in (under_epsilon, under_plus):
        assert float(found.values.sum()) == pytest.approx(logit, rel=1e-4)
    positive = (own * weights).clamp(min=0).sum()
    share = float(positive / (positive + other.sum()))
    assert positive_share(under_epsilon) == pytest.approx(1.0)
    assert positive_share(under_plus) == pytest.approx(share, rel=1e-4)
    assert share < 0.65


def positive_share(found: Explanation) -> float:
    positive = found.values[0, 0].clamp(min=0)
    return float(positive[0].sum() / positive.sum())


# What every method promises


def test_several_targets_and_images_together_are_each_alone() -> None:
    view = classifier(seeded(lambda: WiredNet("reused"))).at("stem")
    x = images(5, size=SIZE).double()
    together = LRP()(view, x, [4, 0, 2])
    assert together.values.shape == (5, 3, SIZE, SIZE)
    for options in ({"max_batch": 1}, {"max_batch": 7}, {"max_bytes": 400_000}):
        assert relative_error(LRP(**options)(view, x, [4, 0, 2]).values, together.values) < 1e-6
    for column, target in enumerate([4, 0, 2]):
        alone = torch.cat([LRP()(view, x[row : row + 1], target).values for row in range(5)])
        assert relative_error(alone, together.values[:, column : column + 1]) < 1e-6


def test_the_network_is_left_as_it_was() -> None:
    net = seeded(lambda: WiredNet("in place"))
    before = copy.deepcopy(net.state_dict())
    view = pl.Classifier(net, input_size=SIZE).at("input")
    random = torch.random.get_rng_state()
    LRP(**BOX)(view, images(size=SIZE), 0)
    with pytest.raises(LayerError):
        LRP(rules={"left": ZBox()})(view, images(size=SIZE), 0)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in net.parameters())
    assert all(part.inplace for part in net.modules() if isinstance(part, nn.ReLU))
    assert not any(part._forward_hooks or part._backward_hooks for part in net.modules())
    assert torch.equal(torch.random.get_rng_state(), random)


def test_rules_are_written_into_the_receipt() -> None:
    options = explain(conv_net(bias=False), layer="6", rules={"9": Epsilon(0.25)}).options
    assert options["rules"] == {"9": "Epsilon(epsilon=0.25)"}
    assert options["composite"] == "epsilon_plus_box"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"composite": "epsilon_plus_bow"}, "unknown composite 'epsilon_plus_bow'; choose one of epsilon_plus_box"),
        ({"head": "classifier"}, "head is a list of layer names"),
        ({"rules": {"fc": "epsilon"}}, "give one such as"),
        ({"low": 0.0}, "low and high are given together"),
        ({"epsilon": -1.0}, "epsilon of the rule Epsilon is -1.0"),
        ({"num_conv_epsilon": -1}, "at least 0"),
        ({"stabilizer": -1.0}, "stabilizer"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PellucidError, match=message):
        LRP(**options)


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), ((0.0, 1.0), 2.0), ((0.0, 3.0, 0.0), 2.0)])
def test_a_box_must_fit_the_images(low: Any, high: Any) -> None:
    with pytest.raises(PellucidError, match=r"the box is empty|2 numbers were given for images of 3 channels"):
        explain(conv_net(bias=True), low=low, high=high)


def test_half_precision_is_refused_with_the_mend() -> None:
    view = pl.Classifier(conv_net(bias=True).to(torch.bfloat16), input_size=SIZE).at("input")
    with pytest.raises(PellucidError, match=r"make the classifier of module.float\(\)"):
        LRP(**BOX)(view, images(size=SIZE), 0)


# A real classifier


@pytest.mark.parametrize(
    ("layer", "composite"), [("input", "epsilon_plus_box"), ("middle", "epsilon_gamma_box"), ("final", "epsilon")]
)
def test_real_weights_give_finite_relevance_whose_loss_is_accounted_for(layer: str, composite: str) -> None:
    network, x = lite0()
    view = network.at(layer)
    found = LRP(composite=composite)(view, x)
    assert bool(found.values.isfinite().all())
    assert bool(found.values.any())
    activation = view.activation(x)
    logits = view.logits(activation).detach()
    start = torch.where(logits == logits.max(), logits, 0.0)[None]
    rule_map = LRP(composite=composite)._rule_map()
    box = tuple(torch.tensor(value).reshape(1, 1, 1, 1) for value in (-127 / 128, 128 / 128))
    inputs = view.suffix_inputs(activation, activation.side_inputs)
    relevance = Propagation(view.suffix, inputs, rule_map, at_images=layer == "input", box=box)(start)
    lost = sum(relevance.absorbed.values())
    torch.testing.assert_close(found.values.sum() + lost.sum(), found.scores.sum(), rtol=1e-3, atol=0)
    if layer == "final":
        assert float(found.relative_gap) < 0.01

import pytest
import torch
from scipy.stats import spearmanr
from tests.attribution.support import gap_net, seeded
from tests.evaluation.settings_support import classifier, grids, vgg_net
from torch import Tensor, nn

from pellucid import Classifier
from pellucid.attribution import (
    Explanation,
    GradCAM,
    Gradient,
    InputXGradient,
    Method,
    TargetLike,
    View,
)
from pellucid.classifiers import randomize_cascading, randomize_independent, replace_module
from pellucid.errors import ModelError, PellucidError, TargetError
from pellucid.evaluation import DiFull, GridPG
from pellucid.evaluation.metrics import (
    ControlMap,
    map_similarity,
    parameter_randomization_test,
    random_logit_test,
    target_sensitivity,
)

IMAGES = torch.randn(3, 3, 12, 12, generator=torch.Generator().manual_seed(4))
TARGETS = torch.tensor([0, 4, 2])
EDGES = ControlMap(control="SobelEdges", grid=(1, 1), cells=(0,))


def maps(seed: int, height: int = 20, width: int = 17) -> Tensor:
    return torch.randn(3, 1, height, width, generator=torch.Generator().manual_seed(seed))


# --- Similarity of maps


@pytest.mark.parametrize("size", [(20, 17), (11, 30), (6, 9), (1, 4)])
def test_structural_similarity_is_that_of_scikit_image(size: tuple[int, int]) -> None:
    metrics = pytest.importorskip("skimage.metrics")
    first, second = maps(0, *size), maps(1, *size) + maps(0, *size)
    window = min(11, *(side - 1 + side % 2 for side in size))
    found = map_similarity(first, second).ssim
    for index in range(3):
        a, b = ((m - m.min()) / (m.max() - m.min()) for m in (first[index, 0].double(), second[index, 0].double()))
        if window == 11:
            options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
            wanted = metrics.structural_similarity(a.numpy(), b.numpy(), data_range=1, **options)
        else:
            wanted = slow_ssim(a, b, window)
        assert float(found[index]) == pytest.approx(wanted, abs=1e-10)


def slow_ssim(a: Tensor, b: Tensor, window: int) -> float:
    """Window by window, in the words of the paper."""
    place = torch.arange(window).double() - window // 2
    weights = torch.exp(-(place[:, None] ** 2 + place[None] ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    found = []
    for y in range(a.shape[0] - window + 1):
        for x in range(a.shape[1] - window + 1):
            p, q = (m[y : y + window, x : x + window] for m in (a, b))
            mean_p, mean_q = (weights * p).sum(), (weights * q).sum()
            var_p, var_q = (weights * (p - mean_p) ** 2).sum(), (weights * (q - mean_q) ** 2).sum()
            both = (weights * (p - mean_p) * (q - mean_q)).sum()
            c1, c2 = 0.01**2, 0.03**2
            found.append(
                (2 * mean_p * mean_q + c1) * (2 * both + c2) / ((mean_p**2 + mean_q**2 + c1) * (var_p + var_q + c2))
            )
    return float(torch.stack(found).mean())


def test_rank_correlations_are_those_of_scipy() -> None:
    first, second = maps(0).round(), maps(1).round() + maps(0).round()  # with ties
    found = map_similarity(first, second)
    for index in range(3):
        a, b = first[index].flatten().numpy(), second[index].flatten().numpy()
        assert float(found.spearman[index]) == pytest.approx(spearmanr(a, b).statistic)
        assert float(found.spearman_absolute[index]) == pytest.approx(spearmanr(abs(a), abs(b)).statistic)


def test_a_map_is_like_itself_at_any_scale_and_unlike_its_negative() -> None:
    same, turned = map_similarity(maps(0), 7 * maps(0)), map_similarity(maps(0), -maps(0))
    for measure in (same.ssim, same.spearman, same.spearman_absolute, turned.spearman_absolute, -turned.spearman):
        torch.testing.assert_close(measure, torch.ones(3, dtype=torch.float64))
    assert (turned.ssim < 0).all()


def test_maps_that_are_flat_or_not_finite_have_no_similarity() -> None:
    first = maps(0)
    first[0], first[1, 0, 0, 0] = 0, torch.nan
    for found in (map_similarity(first, maps(1)), map_similarity(maps(1), first)):
        for measure in (found.ssim, found.spearman, found.spearman_absolute):
            assert measure.isnan().tolist() == [True, True, False]
    flat = map_similarity(torch.ones(1, 5, 5), maps(0, 5, 5)[:1])
    assert bool(torch.stack([flat.ssim, flat.spearman, flat.spearman_absolute]).isnan().all())
    with pytest.raises(PellucidError, match="of one shape"):
        map_similarity(maps(0), maps(0, 5, 5))


# --- Random logits


class OneVoice(nn.Module):
    """Every class has the same weights; only the biases differ."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.fc = nn.Linear(4, 5)
        self.fc.weight.data[:] = self.fc.weight.data[:1]

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x))


def test_the_map_of_a_class_that_has_its_own_weights_differs_from_another_s() -> None:
    logits_agree, apart = (
        random_logit_test(Gradient(), classifier(net).at("input"), IMAGES, TARGETS)
        for net in (seeded(OneVoice), gap_net())
    )
    torch.testing.assert_close(logits_agree.ssim, torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(logits_agree.spearman, torch.ones(3, dtype=torch.float64))
    assert (apart.spearman < 0.99).all()


def test_both_maps_are_those_of_the_method_alone_and_come_from_one_pass() -> None:
    asked: list[Tensor] = []

    class Watched(InputXGradient):
        def __call__(self, view: View, images: Tensor, target: TargetLike | None = None) -> Explanation:
            asked.append(target)
            return super().__call__(view, images, target)

    view = classifier(gap_net()).at("1")
    found = random_logit_test(Watched(), view, IMAGES, TARGETS, seed=2)
    (both,) = asked
    assert torch.equal(both[:, 0], TARGETS)
    assert (both[:, 1] != TARGETS).all()
    own, other = (InputXGradient()(view, IMAGES, column).values for column in both.unbind(1))
    wanted = map_similarity(own, other)
    torch.testing.assert_close(found.ssim, wanted.ssim)
    torch.testing.assert_close(found.spearman, wanted.spearman)


def test_every_other_class_is_drawn_as_often_and_with_the_image_s_own_seed() -> None:
    drawn: list[Tensor] = []

    class Noted(Gradient):
        def __call__(self, view: View, images: Tensor, target: TargetLike | None = None) -> Explanation:
            drawn.append(target[:, 1])
            return super().__call__(view, images, target)

    view, many = classifier(gap_net()).at("final"), IMAGES[:1].expand(400, -1, -1, -1)
    random_logit_test(Noted(), view, many, torch.full((400,), 2), seed=1)
    random_logit_test(Noted(), view, many[:3], torch.full((3,), 2), seed=1 + 7)
    counts = drawn[0].bincount(minlength=5)
    assert int(counts[2]) == 0
    assert all(60 < count < 140 for count in counts[[0, 1, 3, 4]].tolist())
    assert torch.equal(drawn[1], drawn[0][7:10])


def test_without_a_target_the_predicted_class_is_compared() -> None:
    made = classifier(gap_net())
    predicted = made.logits(IMAGES).argmax(1)
    found, wanted = (random_logit_test(InputXGradient(), made.at("input"), IMAGES, t) for t in (None, predicted))
    assert torch.equal(found.ssim, wanted.ssim)


def test_the_other_class_is_of_the_same_head() -> None:
    pairs, view = torch.tensor([[[3, 1]], [[0, 2]]]), DiFull(classifier(vgg_net())).at("input")
    found = random_logit_test(InputXGradient(), view, grids(), pairs)
    assert ((found.ssim > 0) & (found.ssim < 1)).all()  # nothing outside the cell, and another map inside
    single = random_logit_test(
        InputXGradient(), GridPG(classifier(vgg_net())).at("input"), grids(), torch.tensor([1, 2])
    )
    assert single.ssim.isfinite().all()


def test_targets_that_do_not_fit_are_refused() -> None:
    made = classifier(gap_net())
    with pytest.raises(TargetError, match=r"targets \(2,\) for 3 images"):
        random_logit_test(Gradient(), made.at("final"), IMAGES, TARGETS[:2])
    single = Classifier(nn.Sequential(nn.Conv2d(3, 1, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval(), input_size=12)
    with pytest.raises(TargetError, match="at least two classes"):
        random_logit_test(Gradient(), single.at("input"), IMAGES)


# --- Random weights


@pytest.mark.parametrize("cascading", [True, False])
def test_each_step_compares_with_the_network_that_forgot(cascading: bool) -> None:
    made, method = classifier(vgg_net()), InputXGradient()
    steps = list(parameter_randomization_test(method, made, IMAGES, TARGETS, layer="1", cascading=cascading, seed=5))
    randomize = randomize_cascading if cascading else randomize_independent
    wanted = method(made.at("1"), IMAGES, TARGETS).values
    networks = list(randomize(made.module, seed=5))
    assert [step.layers for step in steps] == [network.layers for network in networks]
    for step, network in zip(steps, networks, strict=True):
        found = method(classifier(network.network).at("1"), IMAGES, TARGETS).values
        torch.testing.assert_close(step.similarity.ssim, map_similarity(wanted, found).ssim, equal_nan=True)


def test_a_map_that_asks_the_network_nothing_never_changes_and_a_gradient_does() -> None:
    made = classifier(gap_net())
    edges, gradient = (
        list(parameter_randomization_test(method, made, IMAGES, layer="input")) for method in (EDGES, Gradient())
    )
    assert len(edges) == len(gradient) > 2
    for step in edges:
        torch.testing.assert_close(step.similarity.ssim, torch.ones(3, dtype=torch.float64))
    assert (gradient[-1].similarity.spearman < 0.5).all()


def test_the_target_is_what_the_trained_network_predicts_in_every_step() -> None:
    made = classifier(gap_net())
    predicted = made.logits(IMAGES).argmax(1)
    method: Method = GradCAM(relu=False)
    free, fixed = (list(parameter_randomization_test(method, made, IMAGES, target)) for target in (None, predicted))
    for one, other in zip(free, fixed, strict=True):
        assert torch.equal(one.similarity.spearman, other.similarity.spearman)


def test_only_the_layers_that_are_named_are_forgotten() -> None:
    made = classifier(gap_net())
    (name,) = (name for name, part in made.module.named_modules() if isinstance(part, nn.Linear))
    (step,) = parameter_randomization_test(Gradient(), made, IMAGES, layers=[name])
    assert (step.layer, step.layers) == (name, (name,))
    with pytest.raises(ModelError, match="no layer 'head'"):
        list(parameter_randomization_test(Gradient(), made, IMAGES, layers=["head"]))


def test_a_classifier_of_another_network_keeps_its_layers_names_and_precision() -> None:
    made = Classifier(gap_net(), input_size=12, class_names=list("abcde"), name="mine", aliases={"middle": "1"})
    step = next(randomize_cascading(made.module))
    other = replace_module(made, step.network)
    assert (other.name, other.class_names, other.input_shape) == ("mine", tuple("abcde"), (3, 12, 12))
    assert (other.resolve("middle"), other.resolve("final")) == ("1", made.resolve("final"))
    assert other.fingerprint() != made.fingerprint()
    flat = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(432, 3)).eval(), input_size=12)  # has no final map
    assert replace_module(flat, next(randomize_cascading(flat.module)).network).num_classes == 3


# --- Sensitivity to what of a class is explained


def test_maps_for_a_centred_logit_differ_from_those_for_the_logit_by_what_all_classes_share() -> None:
    plain = Classifier(gap_net(), input_size=(3, 12, 12))
    view = plain.at("input")
    found = target_sensitivity(InputXGradient(), view, IMAGES, TARGETS)
    logit = InputXGradient()(view, IMAGES, TARGETS).values
    every = InputXGradient()(view, IMAGES, list(range(plain.num_classes))).values
    wanted = map_similarity(logit[:, 0], (logit - every.mean(1, keepdim=True))[:, 0])
    torch.testing.assert_close(found["centered"].spearman, wanted.spearman, atol=1e-3, rtol=0)
    torch.testing.assert_close(found["centered"].ssim, wanted.ssim, atol=1e-3, rtol=0)
    assert set(found) == {"centered", "log_probability", "margin"}
    assert float(found["centered"].spearman.max()) < 0.999


def test_a_setting_s_targets_can_be_varied_too() -> None:
    setting = DiFull(classifier(vgg_net()), 2)
    targets = torch.tensor([[[0, 1]], [[3, 2]]])
    found = target_sensitivity(InputXGradient(), setting.at("input"), grids(), targets, outputs=["centered"])
    assert found["centered"].ssim.shape == (2,)

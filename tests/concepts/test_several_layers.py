"""Several layers from one pass: the same numbers as layer by layer, and what each costs."""

from dataclasses import fields

import pytest
import torch
from tests.concepts.support import cav_for
from torch import Tensor, nn

import pellucid as pl
from pellucid.classifiers import LayerView
from pellucid.concepts import (
    ConceptWarning,
    VisualTCAV,
    explain_class,
    explain_layers,
    fit_cavs,
)
from pellucid.concepts import (
    cav_fitting as fitting,
)
from pellucid.errors import PellucidError
from pellucid.statistics import correct

IMAGES = torch.randn(5, 3, 12, 10, generator=torch.Generator().manual_seed(1))


class Branched(nn.Module):
    """A stem, then two branches that are added; the ReLUs work in place."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(inplace=True))
        self.left, self.right = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 1)
        self.joined = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(6, 5, 3), nn.ReLU(inplace=True))
        self.head = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        stem = self.stem(x)
        joined: Tensor = self.joined(self.left(stem) + self.right(stem))
        logits: Tensor = self.head(joined.mean((2, 3)))
        return logits


class Untraceable(Branched):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.sum() > -1e9 else x


@pytest.fixture(scope="module")
def classifier() -> pl.Classifier:
    torch.manual_seed(0)
    return pl.Classifier(Branched().eval(), input_size=(3, 12, 10))


def _explainer(view: LayerView, seed: int, **options: object) -> VisualTCAV:
    channels = view.activation(IMAGES[:1]).shape[1]
    generator = torch.Generator().manual_seed(seed)
    cavs = [cav_for(view, torch.randn(channels, generator=generator), 0.0, 0.5, name=name) for name in ("one", "other")]
    return VisualTCAV(view, cavs, **({"permutations": 19} | options))  # type: ignore[arg-type]


@pytest.mark.parametrize("module", [Branched, Untraceable])
@pytest.mark.parametrize(
    "names", [["stem", "joined"], ["joined.1", "stem.0", "input", "joined"], ["left", "right", "joined"]]
)
def test_activations_are_those_of_a_pass_of_their_own(module: type[nn.Module], names: list[str]) -> None:
    torch.manual_seed(0)
    classifier = pl.Classifier(module().eval(), input_size=(3, 12, 10))
    together = classifier.at_layers(names)
    for view, activation in zip(together.views, together.activations(IMAGES), strict=True):
        expected = view.activation(IMAGES)
        assert torch.equal(activation.as_subclass(Tensor), expected.as_subclass(Tensor))  # to the last bit
        assert activation.side_inputs.names == expected.side_inputs.names
        torch.testing.assert_close(view.logits(activation), classifier.logits(IMAGES))


def test_one_pass_serves_all_layers_of_a_traced_network_and_is_charged_to_the_earliest(
    classifier: pl.Classifier,
) -> None:
    # left and right lie beside each other: at either the other crosses the cut too.
    names = ("joined", "left", "stem", "right")
    untraceable = pl.Classifier(Untraceable().eval(), input_size=(3, 12, 10))
    for network, expected in ((classifier, [0, 0, 5, 0]), (untraceable, [5, 5, 5, 5])):
        results = explain_layers([_explainer(network.at(name), 0, permutations=0) for name in names], IMAGES, [0])
        assert [result.passes.prefix_forward for result in results] == expected


def test_layers_that_follow_on_each_other_cost_one_pass(
    classifier: pl.Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    explainers = [_explainer(classifier.at(name), 0) for name in ("joined", "stem", "joined.0")]
    run: list[int] = []
    forward = nn.Conv2d.forward
    monkeypatch.setattr(nn.Conv2d, "forward", lambda conv, x: run.append(conv.in_channels) or forward(conv, x))
    results = explain_layers(explainers, IMAGES, [0, 2])
    assert run.count(3) == 1  # the first convolution
    assert [each.passes.prefix_forward for each in results] == [0, 5, 0]


def test_explanations_are_those_of_each_layer_alone(classifier: pl.Classifier) -> None:
    explainers = [_explainer(classifier.at(name), seed) for seed, name in enumerate(("joined", "stem"))]
    together = explain_layers(explainers, IMAGES, [0, 2], resample=True)
    for explainer, result in zip(explainers, together, strict=True):
        alone = explainer.explain(IMAGES, [0, 2], resample=True)
        for item in fields(result):
            if isinstance(getattr(result, item.name), Tensor):
                torch.testing.assert_close(getattr(result, item.name), getattr(alone, item.name), msg=item.name)
        assert result.status.tolist() == alone.status.tolist()
        assert result.passes.suffix_backward == alone.passes.suffix_backward


def test_default_classes_are_the_same_at_every_layer(classifier: pl.Classifier) -> None:
    explainers = [_explainer(classifier.at(name), 0) for name in ("stem", "joined")]
    first, second = explain_layers(explainers, IMAGES)
    assert first.targets == second.targets
    order = classifier.logits(IMAGES).argsort(1, descending=True)[:, :3]
    assert first.targets == tuple(tuple(f"class {k}" for k in row) for row in order.tolist())


def test_one_logit_is_explained_on_both_sides_at_every_layer() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    classifier = pl.Classifier(nn.Sequential(*net, nn.Linear(4, 1)).eval(), input_size=(3, 12, 10))
    result = explain_layers([_explainer(classifier.at(name), 0) for name in ("1", "3")], IMAGES)
    assert {each.targets[0] for each in result} == {("class 0", "not class 0")}
    torch.testing.assert_close(result[1].signed[..., 0], -result[1].signed[..., 1])


def test_class_explanations_are_those_of_each_layer_with_p_values_adjusted_over_all(classifier: pl.Classifier) -> None:
    explainers = [_explainer(classifier.at(name), seed) for seed, name in enumerate(("stem", "joined"))]
    counted: list[int] = []
    together = explain_class(explainers, IMAGES.split(2), [1], on_images=counted.append)
    assert counted == [2, 2, 1]
    for explainer, result in zip(explainers, together, strict=True):
        alone = explain_class(explainer, IMAGES, [1])
        torch.testing.assert_close(result.signed.values, alone.signed.values)
        torch.testing.assert_close(result.signed.p_values, alone.signed.p_values)
        torch.testing.assert_close(result.reference.low, alone.reference.low)
    family = torch.cat([result.signed.p_values.flatten() for result in together])  # type: ignore[union-attr]
    adjusted = torch.cat([result.signed.adjusted_p_values.flatten() for result in together])  # type: ignore[union-attr]
    torch.testing.assert_close(adjusted, correct(family, "benjamini_hochberg"))
    assert [result.passes.prefix_forward for result in together] == [5, 0]


def test_nothing_to_explain_is_an_error(classifier: pl.Classifier) -> None:
    with pytest.raises(PellucidError, match="no layers to explain at"):
        explain_layers([], IMAGES)
    with pytest.raises(PellucidError, match="no layers to explain at"):
        explain_class([], IMAGES, 0)
    with pytest.raises(PellucidError, match="no interval of 'joint'"):
        explain_layers([_explainer(classifier.at("stem"), 0)], IMAGES, 0)[0].interval("joint")


def test_local_intervals_come_from_the_spread_over_the_resamples(classifier: pl.Classifier) -> None:
    (result,) = explain_layers([_explainer(classifier.at("stem"), 0)], IMAGES, [0, 1], resample=True)
    assert result.resamples is not None
    interval = result.interval("signed", 0.5)
    assert interval is not None
    for n, d, t in ((0, 0, 0), (4, 1, 1)):
        quartile = 0.7648923  # of t with 3 degrees of freedom
        reach = float(result.resamples.signed[n, d, :, t].std()) * 2**0.5 * quartile
        score = float(result.signed[n, d, t])
        assert interval[:, n, d, t].tolist() == pytest.approx([score - reach, score + reach], rel=1e-4)
    assert result.interval("reference") is None
    assert explain_layers([_explainer(classifier.at("stem"), 0)], IMAGES, 0)[0].interval() is None


@pytest.mark.parametrize("held", [True, False])
def test_cavs_fitted_at_several_layers_together_are_those_of_each_layer_alone(
    classifier: pl.Classifier, held: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = {name: IMAGES + shift for name, shift in (("bright", 1.0), ("dark", -1.0))}
    negatives = torch.randn(9, 3, 12, 10, generator=torch.Generator().manual_seed(7))
    views = [classifier.at(name) for name in ("joined", "stem", "left")]  # `stem` crosses the cut at `left`
    if not held:
        monkeypatch.setattr(fitting, "CONCEPT_CACHE_BYTES", 0)
        monkeypatch.setattr(fitting, "NEGATIVE_CACHE_BYTES", 0)
    with pytest.warns(ConceptWarning):  # so few images
        together = fit_cavs(views, sets, negatives)
    with pytest.warns(ConceptWarning):
        alone = [fit_cavs(view, sets, negatives) for view in views]
    for one, other in zip(alone, together, strict=True):
        for first, second in zip(one, other, strict=True):
            assert first.layer == second.layer
            assert torch.equal(first.direction, second.direction)
            assert torch.equal(first.negative_features, second.negative_features)
            assert first.emblems == second.emblems


def test_a_later_layer_is_fitted_from_the_maps_of_an_earlier_one(
    classifier: pl.Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = []
    activation = LayerView.activation
    monkeypatch.setattr(LayerView, "activation", lambda view, x: run.append(view.layer) or activation(view, x))
    with pytest.warns(ConceptWarning):
        fit_cavs([classifier.at("joined"), classifier.at("stem")], {"bright": IMAGES + 1}, IMAGES)
    assert set(run) == {"stem"}

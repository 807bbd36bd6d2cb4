"""What the classifier sees: the layers found, features as its own views have them, the user's model untouched."""

import pytest
import torch
from tests.surrogate.support import classifier_of, small_cnn
from torch import Tensor, nn

from pellucid import Classifier, PellucidError
from pellucid.surrogate.model.features import LOGITS_ONLY, FeatureExtractor, default_layers


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.block1 = nn.Sequential(nn.Conv2d(4, 8, 3, stride=2, padding=1), nn.ReLU(inplace=True))
        self.block2 = nn.Sequential(nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.ReLU(inplace=True))
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.block2(torch.relu_(self.block1(self.stem(x))))
        return self.fc((y + y.sin()).mean((2, 3)))


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, 8, 4, stride=4)
        self.blocks = nn.Sequential(*(nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8), nn.GELU()) for _ in range(4)))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.embed(x).flatten(2).transpose(1, 2)).mean(1))


def test_by_default_the_last_module_of_each_resolution_is_seen() -> None:
    torch.manual_seed(0)
    classifier = Classifier(Residual().eval(), input_size=(3, 32, 32))
    features = FeatureExtractor(classifier)
    assert features.layers == ("stem", "block1", "block2")
    assert features.head == "fc"
    assert features.length == 4 + 8 + 8 + 8


def test_features_and_logits_are_those_of_the_classifiers_own_views() -> None:
    torch.manual_seed(0)
    classifier = Classifier(Residual().eval(), input_size=(3, 32, 32))
    images = torch.randn(4, 3, 32, 32)
    seen = FeatureExtractor(classifier, ["block1", "block2"])(images)
    for layer, result in zip(("block1", "block2"), seen.maps, strict=True):
        torch.testing.assert_close(result, classifier.at(layer).activation(images).as_subclass(torch.Tensor))
    torch.testing.assert_close(seen.logits, classifier.logits(images))
    torch.testing.assert_close(seen.phi[:, :16], torch.cat([each.mean((2, 3)) for each in seen.maps], dim=1))
    torch.testing.assert_close(
        seen.phi[:, 16:] @ classifier.module.fc.weight.T + classifier.module.fc.bias, seen.logits
    )


def test_what_an_in_place_operation_overwrites_is_seen_as_it_was() -> None:
    classifier = classifier_of(small_cnn())
    images = torch.randn(3, 1, 16, 16)
    (result,) = FeatureExtractor(classifier, ["0"])(images).maps
    torch.testing.assert_close(result, classifier.module[0](images))
    assert float(result.min()) < 0


def test_gradients_reach_the_images_and_nothing_of_the_users_model() -> None:
    network = small_cnn()
    features = FeatureExtractor(classifier_of(network))
    images = torch.randn(2, 1, 16, 16, requires_grad=True)
    seen = features(images)
    (seen.phi.sum() + seen.maps[0].sum() + seen.logits.sum()).backward()
    assert bool(images.grad.any())
    assert all(weight.grad is None and weight.requires_grad for weight in network.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_images_that_the_network_cannot_take_are_refused_and_leave_no_hook_behind() -> None:
    network = small_cnn()
    features = FeatureExtractor(classifier_of(network))
    with pytest.raises(PellucidError):
        features(torch.randn(2, 3, 16, 16))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_a_black_box_is_seen_by_its_logits() -> None:
    classifier = classifier_of(small_cnn())
    features = FeatureExtractor(classifier, LOGITS_ONLY)
    seen = features(torch.randn(2, 1, 16, 16))
    assert (features.layers, features.head, features.length) == ((), None, 3)
    assert seen.maps == ()
    torch.testing.assert_close(seen.phi, seen.logits)


def test_tokens_are_folded_into_maps_and_two_layers_seen() -> None:
    torch.manual_seed(0)
    classifier = Classifier(Tokens().eval(), input_size=(1, 16, 16))
    assert len(default_layers(classifier)) == 2
    seen = FeatureExtractor(classifier)(torch.randn(2, 1, 16, 16))
    assert [tuple(each.shape) for each in seen.maps] == [(2, 8, 4, 4)] * 2


def test_one_of_several_calls_of_a_module_can_be_named() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(1, 1, 3, padding=1), nn.Linear(1, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.conv(self.conv(x)).mean((2, 3)))

    classifier = classifier_of(Twice())
    images = torch.randn(2, 1, 16, 16)
    first, second = FeatureExtractor(classifier, ["conv:0", "conv:1"])(images).maps
    torch.testing.assert_close(second, classifier.module.conv(first))


@pytest.mark.parametrize(("layer", "message"), [("block9", "block2"), ("input", "name a module"), ("fcc", "fc")])
def test_a_layer_that_is_none_is_refused(layer: str, message: str) -> None:
    classifier = Classifier(Residual().eval(), input_size=(3, 32, 32))
    with pytest.raises(PellucidError, match=message):
        FeatureExtractor(classifier, [layer])

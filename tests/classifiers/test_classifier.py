"""The classifier: construction, predictions, images, classes, and errors that name the mend."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.classifiers.oracles import classifier, reference
from tests.networks import CLASSES, NETWORKS, images
from torch import Tensor, nn

import pellucid as pl
from pellucid.data import Preprocess
from pellucid.errors import ModelError, PellucidError, TargetError

NAMES = ["cat", "dog", "Great Dane", "crane", "crane"]


def named() -> pl.Classifier:
    return pl.Classifier(reference("residual"), input_size=32, class_names=NAMES, name="pets")


def returning(make: Callable[[Tensor], object]) -> nn.Module:
    """A network whose forward is `make`."""

    class Network(nn.Module):
        def forward(self, x: Tensor) -> object:
            return make(x)

    return Network().eval()


# --- Construction


def test_a_classifier_knows_its_size_names_and_device() -> None:
    clf = named()
    assert (clf.num_classes, clf.input_shape, clf.device) == (CLASSES, (3, 32, 32), torch.device("cpu"))
    assert clf.class_names == tuple(NAMES)
    assert repr(clf) == "Classifier('pets', 5 classes, input (3, 32, 32), cpu)"
    assert classifier("residual").class_names == tuple(f"class {index}" for index in range(CLASSES))
    assert pl.Classifier(reference("residual"), input_size=32).name == "Residual"


@pytest.mark.parametrize(
    ("size", "shape"), [(16, (3, 16, 16)), ((16, 24), (3, 16, 24)), ((3, 24, 16), (3, 24, 16)), (None, (3, 224, 224))]
)
def test_the_input_size_is_a_side_or_height_and_width_or_all_three(
    size: int | tuple[int, ...] | None, shape: tuple[int, ...]
) -> None:
    clf = pl.Classifier(reference("gap_linear"), input_size=size)
    assert clf.input_shape == shape
    assert clf.layers()[0].shape == shape


def test_a_gray_network_takes_its_channels_from_the_input_size() -> None:
    clf = classifier("gray")
    assert clf.logits(images("gray", 2)).shape == (2, CLASSES)
    with pytest.raises(PellucidError, match=r"gray takes images of shape \(N, 1, H, W\), not \(2, 3, 32, 32\)"):
        clf.logits(torch.randn(2, 3, 32, 32))


@pytest.mark.parametrize("size", [(1, 2, 3, 4), (5,), 0, (16, -1)])
def test_a_senseless_input_size_is_a_clear_error(size: int | tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match=r"input_size .* is neither a side, nor \(H, W\), nor \(C, H, W\)"):
        pl.Classifier(reference("gap_linear"), input_size=size)


def test_an_input_size_that_the_network_cannot_take_is_named() -> None:
    with pytest.raises(ModelError, match=r"shape \(2, 3, 224, 224\): .*; input_size= is \(3, 224, 224\)"):
        pl.Classifier(reference("flatten_head"))


def test_a_network_in_train_mode_is_refused_with_the_name_of_the_part() -> None:
    net = NETWORKS["residual"]()
    net.layer1[0].bn1.train()
    with pytest.raises(ModelError, match=r"'layer1.0.bn1' \(BatchNorm2d\) is in train mode; call module.eval"):
        pl.Classifier(net, input_size=32)
    with pytest.raises(ModelError, match="the Residual is in train mode"):
        pl.Classifier(net.train(), input_size=32)


def test_a_network_put_into_train_mode_later_is_refused_when_it_is_cut() -> None:
    net = NETWORKS["residual"]()
    clf = pl.Classifier(net, input_size=32)
    view, x = clf.at("layer1"), images("residual")
    wanted = clf.logits(x)
    net.train()
    with pytest.raises(ModelError, match="the Residual is in train mode"):
        clf.at("layer2")
    assert torch.equal(clf.logits(x), wanted)  # pellucid's twin stays in eval mode
    assert torch.equal(view.logits(view.activation(x)), wanted)
    net.eval()
    assert clf.at("layer2").layer == "layer2"


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda x: x.mean((1, 2, 3)), r"a tensor of shape \(2,\)"),
        (lambda x: x, r"a tensor of shape \(2, 3, 16, 16\)"),
        (lambda x: {"logits": x.mean((2, 3))}, "a dict"),
        (lambda x: (x.mean((2, 3)), x), "a tuple"),
    ],
)
def test_a_network_that_returns_no_logits_says_to_wrap_it(make: Callable[[Tensor], object], found: str) -> None:
    with pytest.raises(ModelError, match=rf"the network returns {found}; wrap it so that forward returns logits"):
        pl.Classifier(returning(make), input_size=16)


def test_a_network_that_cannot_be_copied_says_why() -> None:
    net = NETWORKS["gap_linear"]()
    net.numbers = (number for number in range(3))
    with pytest.raises(ModelError, match=r"GapLinear cannot be copied .* remove attributes that cannot be deep-copied"):
        pl.Classifier(net, input_size=32)


def test_tensors_that_a_network_has_kept_from_earlier_are_no_hindrance() -> None:
    net = NETWORKS["gap_linear"]()
    net.kept = {"maps": [net[0](torch.randn(1, 3, 8, 8)) * 2]}  # not a leaf: torch refuses to deep-copy it
    x = images("gap_linear")
    assert torch.equal(pl.Classifier(net, input_size=32).logits(x), reference("gap_linear")(x))


@pytest.mark.parametrize("names", [["one"], ["name"] * 6, []])
def test_a_wrong_number_of_class_names_is_a_clear_error(names: list[str]) -> None:
    with pytest.raises(ModelError, match=f"{len(names)} class names were given for a network with 5 logits"):
        pl.Classifier(reference("residual"), input_size=32, class_names=names)


@pytest.mark.parametrize("device", ["cuda:99", "quantum", "xla", torch.device("cuda", 98)])
def test_a_device_that_is_not_there_is_a_clear_error(device: str | torch.device) -> None:
    with pytest.raises(ModelError, match=rf"device '{device}' cannot be used \(.*\); use cpu"):
        pl.Classifier(reference("residual"), input_size=32, device=device)


def test_a_network_without_weights_runs_on_the_cpu() -> None:
    clf = pl.Classifier(returning(lambda x: x.mean((2, 3))), input_size=16)
    assert clf.device == torch.device("cpu")
    assert clf.num_classes == 3


def test_of_a_compiled_network_the_original_is_taken() -> None:
    net = reference("residual")
    clf = pl.Classifier(torch.compile(net, backend="eager"), input_size=32)
    assert clf.name == "Residual"
    assert clf.layers() == classifier("residual").layers()


# --- Logits and predictions


def test_logits_are_the_networks_own_and_differentiable() -> None:
    x = images("residual").requires_grad_()
    logits = named().logits(x)
    assert torch.equal(logits, reference("residual")(x))
    (found,) = torch.autograd.grad(logits.sum(), x)
    (wanted,) = torch.autograd.grad(reference("residual")(x).sum(), x)
    torch.testing.assert_close(found, wanted)


def test_predictions_are_classes_by_probability() -> None:
    clf, x = named(), images("residual")
    with torch.no_grad():
        logits = reference("residual")(x)
    for row, predictions in zip(logits, clf.predict(x, top=3), strict=True):
        assert [one.index for one in predictions] == row.argsort(descending=True)[:3].tolist()
        for one in predictions:
            assert one.name == NAMES[one.index]
            assert one.logit == float(row[one.index])
            exact = math.exp(one.logit) / sum(math.exp(float(logit)) for logit in row)
            assert one.probability == pytest.approx(exact, rel=1e-5)


def test_predictions_do_not_depend_on_the_batches_they_are_made_in() -> None:
    clf, x = named(), images("residual", 5)
    for one, other in zip(clf.predict(x), clf.predict(x, max_batch=2), strict=True):
        assert [(a.index, pytest.approx(a.logit, rel=1e-5)) for a in one] == [(b.index, b.logit) for b in other]


def test_all_classes_are_predicted_where_there_are_fewer_than_asked_for() -> None:
    (predictions,) = named().predict(images("residual", 1), top=50)
    assert len(predictions) == CLASSES
    assert sum(one.probability for one in predictions) == pytest.approx(1.0)


def test_one_logit_is_read_as_the_probability_of_one_class() -> None:
    clf = classifier("one_logit")
    ((prediction,),) = clf.predict(images("one_logit", 1))
    assert prediction.index == 0
    assert prediction.probability == pytest.approx(1 / (1 + math.exp(-prediction.logit)))
    assert prediction.probability < 1.0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_no_numbers_are_an_error_that_names_the_images(bad: float) -> None:
    x = images("residual", 4)
    x[1] = x[3] = bad
    with pytest.raises(ModelError, match=r"pets gives NaN or infinite logits for images \[1, 3\]"):
        named().predict(x)


@pytest.mark.parametrize(("top", "max_batch"), [(0, 16), (5, 0), (-1, 1)])
def test_senseless_numbers_are_a_clear_error(top: int, max_batch: int) -> None:
    with pytest.raises(PellucidError, match=f"top and max_batch must be at least 1, not {top} and {max_batch}"):
        named().predict(images("residual"), top=top, max_batch=max_batch)


# --- Images


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        (torch.zeros(3, 32, 32), r"\(3, 32, 32\)"),
        (torch.zeros(0, 3, 32, 32), r"\(0, 3, 32, 32\)"),
        (torch.zeros(2, 4, 32, 32), r"\(2, 4, 32, 32\)"),
        (torch.zeros(2, 32, 32, 3), r"\(2, 32, 32, 3\)"),
        (np.zeros((2, 3, 32, 32)), "ndarray"),
        ([torch.zeros(3, 32, 32)], "list"),
        ("cat.jpg", "str"),
    ],
)
def test_what_is_no_batch_of_images_is_a_clear_error(wrong: Tensor, found: str) -> None:
    clf = named()
    for call in (clf.logits, clf.predict, clf.at("final").activation):
        with pytest.raises(PellucidError, match=rf"pets takes images of shape \(N, 3, H, W\), not {found}"):
            call(wrong)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
def test_images_of_whole_numbers_are_not_taken_for_normalized_ones(dtype: torch.dtype) -> None:
    with pytest.raises(PellucidError, match=r"images are torch\..*; pets takes its own normalized float input"):
        named().logits(torch.zeros(1, 3, 32, 32, dtype=dtype))


def test_reading_takes_files_and_images_one_or_many(tmp_path: Path) -> None:
    preprocess = Preprocess(input_size=(32, 32), resize=32)
    clf = pl.Classifier(reference("residual"), preprocess=preprocess)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8))
    file = tmp_path / "image.png"
    image.save(file)
    assert clf.input_shape == (3, 32, 32)
    one = clf.read(file)
    assert one.shape == (1, 3, 32, 32)
    assert torch.equal(clf.read(str(file)), one)
    assert torch.equal(clf.read(image), one)
    assert torch.equal(clf.read([file, image]), torch.cat([one, one]))
    assert torch.equal(one[0], preprocess(image))


def test_reading_without_preprocessing_or_images_is_a_clear_error() -> None:
    with pytest.raises(ModelError, match="classifier 'pets' was made without preprocess="):
        named().read("cat.jpg")
    clf = pl.Classifier(reference("residual"), input_size=32, preprocess=lambda image: torch.zeros(3, 32, 32))
    with pytest.raises(PellucidError, match="no images to read: the list is empty"):
        clf.read([])


# --- Classes


@pytest.mark.parametrize(("target", "index"), [(0, 0), (4, 4), ("cat", 0), ("CAT", 0), ("great dane", 2)])
def test_a_class_is_found_by_index_or_name(target: int | str, index: int) -> None:
    assert named().class_index(target) == index


def test_a_class_is_found_by_numbers_of_other_libraries() -> None:
    assert named().class_index(np.int64(3)) == 3  # type: ignore[arg-type]
    assert named().class_index(torch.tensor(2)) == 2  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (5, "class 5 does not exist: pets has classes 0 to 4"),
        (-1, "class -1 does not exist"),
        ("dig", "no class 'dig'; did you mean 'dog'"),
        ("xyzzy", "no class 'xyzzy'; pets has 5 classes"),
        ("crane", r"class name 'crane' belongs to classes \[3, 4\]; give the index"),
        (1.5, "a class is given by index or name, not by 1.5"),
        (None, "a class is given by index or name, not by None"),
    ],
)
def test_a_class_that_does_not_exist_names_the_nearest(target: int | str, message: str) -> None:
    with pytest.raises(TargetError, match=message):
        named().class_index(target)


# --- Fingerprints


def test_the_fingerprint_follows_weights_and_buffers() -> None:
    net = NETWORKS["residual"]()
    clf = pl.Classifier(net, input_size=32)
    first = clf.fingerprint()
    assert first == named().fingerprint()
    assert len(first) == 64
    with torch.no_grad():
        net.fc.bias[0] += 1e-6
    second = clf.fingerprint()
    net.bn1.running_mean[0] += 1.0
    assert len({first, second, clf.fingerprint()}) == 3


def test_the_fingerprint_takes_weights_of_any_type() -> None:
    for dtype in (torch.bfloat16, torch.float64):
        clf = pl.Classifier(NETWORKS["residual"]().to(dtype), input_size=32)
        assert clf.fingerprint() != named().fingerprint()

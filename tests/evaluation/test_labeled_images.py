"""Data sets: folders and lists, their classes, and what a model is sure of."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from tests.evaluation.sweep_support import COLORS, color_classifier, color_network, write_squares

from pellucid import Classifier
from pellucid.classifiers import imagenet_class_names
from pellucid.errors import ImageError, ModelError, PellucidError
from pellucid.evaluation.sweep import read_data_set
from pellucid.evaluation.sweep.labeled_images import confident_candidates, predict, unusable_images


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return color_classifier()


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_squares(tmp_path_factory.mktemp("squares"), per_class=2)


def touch(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(file)


def test_folders_are_classes_by_name(squares: Path, classifier: Classifier) -> None:
    found = read_data_set(squares, classifier)
    assert len(found) == 16
    assert all(COLORS[label] == file.split("/")[0] for file, label in zip(found.files, found.labels, strict=True))


def test_folders_are_classes_by_index(tmp_path: Path, classifier: Classifier) -> None:
    touch(tmp_path / "07" / "a.png", tmp_path / "3" / "deep" / "b.png")
    found = read_data_set(tmp_path, classifier)
    assert dict(zip(found.files, found.labels, strict=True)) == {"07/a.png": 7, "3/deep/b.png": 3}


def labels_of(root: Path, classifier: Classifier) -> dict[str, str]:
    """Folder -> class name."""
    data = read_data_set(root, classifier)
    return {
        file.split("/")[0]: classifier.class_names[label] for file, label in zip(data.files, data.labels, strict=True)
    }


def network_of(classes: int) -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Conv2d(3, classes, 1), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()).eval()


@pytest.mark.parametrize("folders", [["dogs", "cat", "bird"], ["dog", "cat", "unlabelled"], ["train", "val", "test"]])
@pytest.mark.parametrize("names", [["dog", "cat", "bird"], None])
def test_no_label_is_guessed_from_the_order_of_folders(
    tmp_path: Path, folders: list[str], names: list[str] | None
) -> None:
    touch(*(tmp_path / folder / "a.png" for folder in folders))
    with pytest.raises(PellucidError, match=r"no class names.*--class-names" if names is None else r"of 3 folders"):
        read_data_set(tmp_path, Classifier(network_of(3), input_size=8, class_names=names))


def test_folders_in_either_unicode_form_are_classes(tmp_path: Path) -> None:
    touch(*(tmp_path / folder / "a.png" for folder in ("ze\u0300bre", "ane", "chat")))
    french = Classifier(network_of(3), input_size=8, class_names=["z\u00e8bre", "ane", "chat"])
    assert labels_of(tmp_path, french) == {"ze\u0300bre": "z\u00e8bre", "ane": "ane", "chat": "chat"}


def test_a_folder_named_by_a_number_is_the_class_of_that_name(tmp_path: Path) -> None:
    names = [str(number) for number in range(12)]
    touch(*(tmp_path / name / "a.png" for name in names))
    assert labels_of(tmp_path, Classifier(network_of(12), input_size=8, class_names=sorted(names))) == {
        name: name for name in names
    }
    with pytest.raises(PellucidError, match=r"sorted as texts.* sorted as numbers"):
        read_data_set(tmp_path, Classifier(network_of(12), input_size=8))


def test_folders_of_imagenet_are_named_by_wordnet(tmp_path: Path) -> None:
    touch(*(tmp_path / name / "a.png" for name in ("n02391049", "n01440764", "tabby")))
    imagenet = Classifier(network_of(1000), input_size=8, class_names=imagenet_class_names())
    assert labels_of(tmp_path, imagenet) == {"n02391049": "zebra", "n01440764": "tench", "tabby": "tabby"}


def test_a_folder_that_is_no_class_is_named_with_the_nearest(tmp_path: Path, classifier: Classifier) -> None:
    touch(tmp_path / "gren" / "a.png", tmp_path / "red" / "a.png")
    with pytest.raises(PellucidError, match=r"1 of 2 folders .* \(no class 'gren'; did you mean 'green'"):
        read_data_set(tmp_path, classifier)


def test_underscores_stand_for_spaces(tmp_path: Path) -> None:
    spaced = Classifier(color_network(), input_size=16, class_names=[f"light {name}" for name in COLORS])
    touch(tmp_path / "light_red" / "a.png")
    assert read_data_set(tmp_path, spaced).labels == (4,)


def test_an_image_outside_the_class_folders_is_listed_as_skipped(tmp_path: Path, classifier: Classifier) -> None:
    touch(tmp_path / "red" / "a.png", tmp_path / "stray.png")
    found = read_data_set(tmp_path, classifier)
    assert found.files == ("red/a.png",)
    assert [str(failure.path) for failure in found.skipped] == ["stray.png"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.csv", "red/0.png,red\nblue/1.png,1\n"),
        ("list.csv", "id,path,label\n1,red/0.png,red\n2,blue/1.png,blue\n"),
        ("list.tsv", "class\tfile\n4\tred/0.png\nblue\tblue/1.png\n"),
    ],
)
def test_lists_are_read_with_and_without_a_header(tmp_path: Path, classifier: Classifier, name: str, text: str) -> None:
    touch(tmp_path / "red" / "0.png", tmp_path / "blue" / "1.png")
    (tmp_path / name).write_text(text)
    found = read_data_set(tmp_path / name, classifier)
    assert (found.root, found.files, found.labels) == (tmp_path, ("red/0.png", "blue/1.png"), (4, 1))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("name", ["\u00e9.png", "e\u0301.png"])
def test_lists_are_read_in_unicodes_encodings_and_forms(
    tmp_path: Path, classifier: Classifier, encoding: str, name: str
) -> None:
    touch(tmp_path / "e\u0301.png")
    (tmp_path / "list.csv").write_text(f"filename,class\n{name},red\n", encoding=encoding)
    assert read_data_set(tmp_path / "list.csv", classifier).files == ("e\u0301.png",)


def test_pairs_are_a_list_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, classifier: Classifier) -> None:
    monkeypatch.chdir(tmp_path)
    touch(tmp_path / "a.png", tmp_path / "b.png")
    numbers = Classifier(color_network(), input_size=16, class_names=list("76543210"))
    assert read_data_set([("a.png", 7), ("b.png", "7")], numbers).labels == (7, 0)  # an index, and a name
    found = read_data_set([("a.png", "red"), (Path("b.png"), 0)], classifier)
    assert (found.files, found.labels) == (("a.png", "b.png"), (4, 0))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"a.png\n", "line 1: the row .* has no class; expected a path and a class"),
        (b"", "is empty"),
        (b"a.png,9\n", "line 1: class 9 does not exist"),
        (b"a.png,1\n./a.png,1\n", "once"),
        (b"image,b\na.png,1\n", "line 1: no class 'b'; .*; expected a path and a class .* file and label"),
        (b"file,label\na.png,1\nnope.png,1\n", "line 3: nope.png: no such file in .*; correct the list"),
        (b"file;label\na.png;1\n", "separated by semicolons"),
        (b"file,label\n\xe9.png,1\n", "line 2 is not UTF-8"),
    ],
)
def test_a_wrong_list_says_what_is_wrong(tmp_path: Path, classifier: Classifier, text: bytes, words: str) -> None:
    touch(tmp_path / "a.png")
    (tmp_path / "list.csv").write_bytes(text)
    with pytest.raises(PellucidError, match=words) as caught:
        read_data_set(tmp_path / "list.csv", classifier)
    assert str(caught.value).startswith(f"{tmp_path / 'list.csv'}: ")


def test_data_that_is_not_there_is_an_error(tmp_path: Path, classifier: Classifier) -> None:
    with pytest.raises(PellucidError, match="does not exist"):
        read_data_set(tmp_path / "nothing", classifier)
    with pytest.raises(ImageError, match="no images"):
        read_data_set(tmp_path, classifier)


def test_the_digest_tells_another_file_label_or_size(tmp_path: Path, classifier: Classifier) -> None:
    touch(tmp_path / "red" / "a.png", tmp_path / "blue" / "a.png")
    digests = {read_data_set(tmp_path, classifier).digest()}
    (tmp_path / "red" / "a.png").write_bytes(b"other")
    digests.add(read_data_set(tmp_path, classifier).digest())
    (tmp_path / "red").rename(tmp_path / "green")
    digests.add(read_data_set(tmp_path, classifier).digest())
    assert len(digests) == 3


def test_predictions_are_the_classifiers_own(squares: Path, classifier: Classifier) -> None:
    data = read_data_set(squares, classifier)
    table = predict(classifier, data, 3, 9, max_batch=4)
    logits = classifier.logits(classifier.read([squares / file for file in data.files[3:9]]))
    assert table["path"].to_pylist() == list(data.files[3:9])
    assert table["predicted"].to_pylist() == logits.argmax(1).tolist()
    wanted = logits.double().softmax(1).amax(1)
    torch.testing.assert_close(torch.tensor(table["confidence"].to_pylist(), dtype=torch.float64), wanted)


def test_unreadable_images_are_listed_and_the_others_classified(tmp_path: Path, classifier: Classifier) -> None:
    write_squares(tmp_path, per_class=1)
    (tmp_path / "red" / "1.png").write_bytes(b"no image")
    (tmp_path / "red" / "2.png").write_bytes(b"")
    data = read_data_set(tmp_path, classifier)
    table = predict(classifier, data, 0, len(data), max_batch=3)
    failures = unusable_images([table, table])
    assert [(str(failure.path), failure.reason.split(";")[0][:14]) for failure in failures] == [
        ("red/1.png", "is not an imag"),
        ("red/2.png", "is empty"),
    ]
    assert {candidate.path for candidate in confident_candidates(table, 0.9)} == {f"{color}/0.png" for color in COLORS}


def test_only_images_that_the_model_is_sure_and_right_about_are_used(tmp_path: Path, classifier: Classifier) -> None:
    write_squares(tmp_path, per_class=1)
    (tmp_path / "red" / "0.png").rename(tmp_path / "blue" / "wrong.png")
    data = read_data_set(tmp_path, classifier)
    table = predict(classifier, data, 0, len(data), max_batch=16)
    sure = sorted(table["confidence"].to_pylist())
    assert "blue/wrong.png" not in {candidate.path for candidate in confident_candidates(table, 0.0)}
    assert len(confident_candidates(table, 0.0)) == 7
    assert confident_candidates(table, sure[-1] + 1e-9) == ()


def test_an_image_that_gives_no_logits_is_listed(tmp_path: Path) -> None:
    write_squares(tmp_path, per_class=1)
    network = color_network()
    broken = Classifier(
        torch.nn.Sequential(network, Brittle()).eval(), preprocess=color_classifier().preprocess, class_names=COLORS
    )
    data = read_data_set(tmp_path, broken)
    failures = unusable_images([predict(broken, data, 0, len(data), max_batch=4)])
    assert [(str(failure.path), failure.reason) for failure in failures] == [
        ("red/0.png", "the network gives NaN or infinite logits")
    ]


class Brittle(torch.nn.Module):
    """NaN wherever red is the answer."""

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        sure = (logits.argmax(1, keepdim=True) == 4) & (logits.amax(1, keepdim=True) > 1)
        return torch.where(sure, torch.nan, logits)


def test_a_classifier_without_preprocessing_cannot_read_a_data_set(squares: Path) -> None:
    blind = Classifier(color_network(), input_size=16, class_names=COLORS)
    with pytest.raises(ModelError, match="without preprocess"):
        predict(blind, read_data_set(squares, blind), 0, 1, max_batch=1)

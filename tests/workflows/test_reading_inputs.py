"""What workflows read from words and files: class names."""

import json
from pathlib import Path

import pytest
from tests.cli.command import pellucid, refusal

from pellucid.errors import PellucidError
from pellucid.workflows import read_class_names

SPECIES = ["\u00e2ne", "cat", "dog"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_class_names_are_the_lines_of_a_file(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "names.txt").write_text("\n".join(SPECIES) + "\r\n", encoding=encoding)
    assert list(read_class_names(tmp_path / "names.txt")) == SPECIES


def test_class_names_may_be_json_or_the_folders_of_a_data_set(tmp_path: Path) -> None:
    by_index = dict(enumerate(SPECIES))
    (tmp_path / "names.json").write_text(json.dumps(by_index))
    assert read_class_names(tmp_path / "names.json") == {str(index): name for index, name in by_index.items()}
    for folder in ("10", "9", "a"):
        (tmp_path / "train" / folder).mkdir(parents=True)
    assert read_class_names(tmp_path / "train") == ["10", "9", "a"]  # as ImageFolder sorts them


def test_what_names_no_classes_is_refused_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("\u00e2ne\n".encode("latin-1"))
    (tmp_path / "broken.json").write_text("[")
    (tmp_path / "empty").mkdir()
    for name, message in [
        ("latin.txt", "line 1 is not UTF-8"),
        ("broken.json", "Expecting value"),
        ("empty", "no folders in this folder"),
        ("missing.txt", "No such file"),
    ]:
        with pytest.raises(PellucidError, match=message) as caught:
            read_class_names(tmp_path / name)
        assert str(caught.value).startswith(str(tmp_path / name))


def test_classes_are_listed_and_searched_under_the_names_given(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("\n".join(f"[{number}] sign" for number in range(10)))
    named = ("--model", "digit_cnn", "--class-names", tmp_path / "names.txt")
    assert pellucid("classes", "7", *named)[1] == "7  [7] sign\n"
    assert len(json.loads(pellucid("classes", *named, "--json")[1])) == 10
    code, _, errors = pellucid("classes", "kangaroo", *named)
    assert "none of the 10 classes" in refusal(code, errors)

"""What classes are called: names given in many forms, and classes looked up by name and by number."""

from typing import Any

import pytest
from tests.classifiers.oracles import reference

import pellucid as pl
from pellucid.classifiers.class_names import check_class_names, find_class
from pellucid.errors import ModelError, TargetError

NAMES = ("cat", "dog", "ant", "bee")


@pytest.mark.parametrize(
    "names",
    [
        list(NAMES),
        dict(enumerate(NAMES)),
        {2: "ant", 0: "cat", 3: "bee", 1: "dog"},
        {"0": "cat", "1": "dog", "2": "ant", "3": "bee"},
        {"dog": 1, "cat": 0, "bee": 3, "ant": 2},
        ["\ufeffcat\n", "dog\n", " ant", "bee\r\n"],
        iter(NAMES),
    ],
)
def test_names_may_come_as_a_list_or_a_mapping_or_as_lines_of_a_file(names: Any) -> None:
    assert check_class_names(names, 4) == NAMES


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("abcd", "is one text, 'abcd'; give a list"),
        ([0, 1, 2, 3], r"class name 0 is 0, not a text; write class_names=\[str\(n\)"),
        ({1: "cat", 2: "dog", 3: "ant", 4: "bee"}, "indices are not 0 to 3"),
        ({0: "cat", 1: "dog"}, "2 class names were given for a network with 4 logits"),
        ({"cat", "dog", "ant", "bee"}, "of type set, which has no order"),
        (["cat", "dog", " ", "bee"], "class name 2 is empty"),
        (4, "of type int, which has no order"),
    ],
)
def test_names_that_name_no_class_are_refused(names: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        check_class_names(names, 4)


def test_a_classifier_takes_and_refuses_the_same() -> None:
    network = reference("residual")
    named = pl.Classifier(network, input_size=32, class_names=dict(enumerate([*NAMES, "fly"])))
    assert named.class_index("dog") == 1
    with pytest.raises(ModelError, match="is one text"):
        pl.Classifier(network, input_size=32, class_names="abcde")


@pytest.mark.parametrize(
    ("text", "names", "index"),
    [
        ("10", ["0", "1", "10", "11", "2"], 2),  # by name, never the class at that place
        ("10", [f"class {index}" for index in range(12)], 10),
        ("007", [f"class {index}" for index in range(12)], 7),
        ("a", ["A", "a"], 1),
        ("DOG", NAMES, 1),
        ("light_red", ["light blue", "light red"], 1),
        ("ze\u0300bre", ["\u00e2ne", "z\u00e8bre"], 1),
        ("stra\u00dfe", ["weg", "STRASSE"], 1),
    ],
)
def test_a_name_as_written_comes_before_other_spellings_and_before_an_index(
    text: str, names: list[str], index: int
) -> None:
    assert find_class(text, names, "pets") == index


@pytest.mark.parametrize(
    ("text", "names", "message"),
    [
        ("3", ["0", "1", "10"], "no class '3'"),  # numbers are names here, so that 3 is no place
        ("12", NAMES, "class 12 does not exist: pets has classes 0 to 3"),
        ("Dog", ["DOG", "dog"], r"belongs to classes \[0, 1\]"),
        ("shark", ["great white shark", "tench"], "did you mean 'great white shark'"),
        ("kangaroo", ["groom", *NAMES], "pets has 5 classes: groom, cat, dog, ant, bee "),
    ],
)
def test_what_is_no_class_is_refused(text: str, names: list[str], message: str) -> None:
    with pytest.raises(TargetError, match=message):
        find_class(text, names, "pets")


def test_a_truth_value_is_no_class() -> None:
    with pytest.raises(TargetError, match="not by True"):
        pl.Classifier(reference("residual"), input_size=32).class_index(True)

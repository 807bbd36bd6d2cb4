"""What classes are called: names checked when they are given, and looked up when a class is asked for."""

import difflib
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any

from pellucid.errors import ModelError, TargetError

_SHOWN = 6
_NEAR = 0.65  # similarity from which a name is suggested for another


def plain_names(count: int) -> tuple[str, ...]:
    """The names of classes that nobody has named.

    >>> plain_names(2)
    ('class 0', 'class 1')
    """
    return tuple(f"class {index}" for index in range(count))


def check_class_names(names: Any, count: int) -> tuple[str, ...]:
    """Names in the order of the logits.

    Args:
        names: `count` texts in order; or a mapping from index to name or from name to index, such as the `id2label`
            and `label2id` of a configuration. None for "class 0" ...
        count: number of logits.

    Returns:
        The names without spaces around them and without a byte order mark, in Unicode's composed form.

    Raises:
        ModelError: another number of names, no order, no texts, or an empty name.

    >>> check_class_names({1: "dog", 0: "cat"}, 2)
    ('cat', 'dog')
    """
    if names is None:
        return plain_names(count)
    if isinstance(names, str | bytes):
        raise ModelError(f"class_names is one text, {names!r}; give a list with a name for each of the {count} logits")
    if isinstance(names, Set) or not isinstance(names, Iterable):
        raise ModelError(
            f"class_names is of type {type(names).__name__}, which has no order; give a list with a name for "
            f"each of the {count} logits"
        )
    ordered = _in_order(names) if isinstance(names, Mapping) else list(names)
    if len(ordered) != count:
        raise ModelError(f"{len(ordered)} class names were given for a network with {count} logits")
    for index, name in enumerate(ordered):
        if not isinstance(name, str):
            raise ModelError(f"class name {index} is {name!r}, not a text; write class_names=[str(n) for n in names]")
    cleaned = tuple(_clean(name) for name in ordered)
    if not all(cleaned):
        raise ModelError(f"class name {cleaned.index('')} is empty; name every class")
    return cleaned


def find_class(text: str, names: Sequence[str], label: str) -> int:
    """The index of the class that a text names.

    The name as it is written counts first, then without regard to case, then with underscores for spaces. A number
    that is no name is an index, unless names are numbers themselves.

    Args:
        text: a name, or an index.
        names: in the order of the logits.
        label: of the classifier, for messages.

    Raises:
        TargetError: no such class, or several.

    >>> find_class("tiger_cat", ["tabby", "tiger cat"], "cats"), find_class("1", ["tabby", "tiger cat"], "cats")
    (1, 1)
    >>> find_class("10", ["0", "1", "10", "11", "2"], "digits")
    2
    """
    cleaned = _clean(text)
    for spell in (str, str.casefold, _spaced):
        matches = _matches(cleaned, names, spell)
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise TargetError(f"class name {text!r} belongs to classes {matches}; give the index")
    if cleaned.isdecimal() and not any(name.isdecimal() for name in names):
        return check_index(int(cleaned), len(names), label)
    raise TargetError(f"no class {text!r}; {_hint(cleaned, names, label)}")


def check_index(index: int, count: int, label: str) -> int:
    """An index, if there is such a class.

    >>> check_index(1, 2, "pets")
    1
    """
    if not 0 <= index < count:
        raise TargetError(f"class {index} does not exist: {label} has classes 0 to {count - 1}")
    return index


def _in_order(names: Mapping[Any, Any]) -> list[Any]:
    """The names of a mapping from index to name, or from name to index."""
    by_index = {_index(key): value for key, value in names.items()}
    if None in by_index:
        by_index = {_index(value): key for key, value in names.items()}
    if set(by_index) != set(range(len(names))):
        raise ModelError(
            f"class_names is a mapping whose indices are not 0 to {len(names) - 1}; give names in the order of the "
            "logits, or {index: name}"
        )
    return [by_index[index] for index in range(len(names))]


def _index(value: object) -> int | None:
    if isinstance(value, str):
        return int(value) if value.isdecimal() else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _clean(name: str) -> str:
    return unicodedata.normalize("NFC", name.replace("\ufeff", "")).strip()


def _spaced(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())


def _matches(text: str, names: Sequence[str], spell: Callable[[str], str]) -> list[int]:
    spelled = spell(text)
    return [index for index, name in enumerate(names) if spell(name) == spelled]


def _hint(text: str, names: Sequence[str], label: str) -> str:
    spelled = {_spaced(name): name for name in names}
    near = difflib.get_close_matches(_spaced(text), spelled, n=4, cutoff=_NEAR)
    near += [name for name in spelled if name not in near and len(text) > 2 and _spaced(text) in name][: 4 - len(near)]
    if near:
        return f"did you mean {' or '.join(repr(spelled[name]) for name in near)}?"
    some = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    return f"{label} has {len(names)} classes: {some} (`pellucid classes` lists and searches them)"

"""From frozen option dataclasses to options of the command line: their names, their values, and errors in one line.

A field is an option: its name with hyphens, its docstring as help, its default as default. A tuple is written with
commas (`--layers middle,final`) or by giving the option again (`--target cat --target dog`).
"""

import csv
import types
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from cyclopts import App, Parameter, Token
from cyclopts import convert as convert_by_type

from pellucid.errors import PellucidError

T = TypeVar("T")

Options = Annotated[T, Parameter(name="*")]
"""Each field of a dataclass as an option of the command: `Options[SweepOptions]`."""

Images = Annotated[str, Parameter(required=True)]
"""At least one image file or folder."""

AsJson = Annotated[bool, Parameter(name="--json", negative=(), show_default=False)]
"""Whether stdout is for machines."""

_WHOLE = {"--target", "--option", "--metric-options", "--set", "--tier", "--required", "--forbidden"}
"""Options whose values may have commas."""

_MOST_DIGITS = 18

_NUMBERS = {int: "a whole number", float: "a number"}


def options_named(**names: str) -> Parameter:
    """Each field of a dataclass as an option, where some options have names of their own.

    Args:
        names: option, without its hyphens, of a field.

    >>> options_named(kernel_sizes="smooth").name_transform("kernel_sizes")
    'smooth'
    >>> options_named(kernel_sizes="smooth").name_transform("max_batch")
    'max-batch'
    """
    return Parameter(name="*", name_transform=lambda name: names.get(name, name.replace("_", "-")))


def new_app(name: str, text: str, **more: Any) -> App:
    """A program or a group of commands.

    Args:
        name: what is typed.
        text: its help.
        more: for `cyclopts.App`.
    """
    parameter = Parameter(
        converter=convert,
        show_default=show_default,
        negative_iterable=(),
        allow_repeating=True,
        short_alias=lambda field, taken: "-m" if field.name == "model" else None,
    )
    return App(name=name, help=text, help_format="markdown", default_parameter=parameter, **more)


def show_default(value: Any) -> str:
    """A default as the user would write it.

    >>> show_default(("middle", "final")), show_default(())
    ('middle,final', 'none')
    """
    if isinstance(value, tuple | list):
        return ",".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value in ("", None) else str(value)


def split_names(text: str) -> list[str]:
    """Names separated by commas; one that has a comma itself is quoted, as in a CSV file.

    >>> split_names("middle, final,")
    ['middle', 'final']
    >>> split_names('age,"height, in cm"')
    ['age', 'height, in cm']
    """
    names = next(csv.reader([text], skipinitialspace=True), [])
    return [name.strip() for name in names if name.strip()]


def convert(hint: Any, tokens: Sequence[Token]) -> Any:
    """The value that the words of an option stand for.

    Args:
        hint: type of the field.
        tokens: each word given for it.

    Raises:
        PellucidError: no such value.
    """
    if get_origin(hint) in (tuple, list, Literal) or hint in (str, int, float, Path) or _alternatives(hint):
        return parse(hint, [token.value for token in tokens], tokens[0].keyword or "argument")
    return convert_by_type(hint, tokens)


def parse(hint: Any, words: Sequence[str], name: str) -> Any:
    """The value of a type from words.

    Args:
        hint: the type.
        words: what was given.
        name: of the option, for messages.

    Raises:
        PellucidError: no such value.

    >>> parse(tuple[int, ...], ["3,5"], "--smooth")
    (3, 5)
    >>> parse(int | tuple[int, int], ["2x3"], "--n")
    (2, 3)
    >>> parse(int | tuple[str, ...], ["fc,conv"], "--randomize")
    ('fc', 'conv')
    """
    if alternatives := _alternatives(hint):
        return _parse_one_of(alternatives, words, name)
    if get_origin(hint) is tuple:
        kinds = get_args(hint)
        parts = words if name in _WHOLE else [word for text in words for word in split_names(text)]
        if any(words) and not parts:
            raise PellucidError(f"no {name.lstrip('-')} given; name some, separated by commas")
        return tuple(_parse_word(kinds[0], word, name) for word in parts)
    if get_origin(hint) is list:
        return [_parse_word(get_args(hint)[0], word, name) for word in words]
    return _parse_word(hint, words[-1], name)


def _alternatives(hint: Any) -> tuple[Any, ...]:
    """The types of a union but None; empty if it is none."""
    if get_origin(hint) not in (Union, types.UnionType):
        return ()
    return tuple(kind for kind in get_args(hint) if kind is not type(None))


def _parse_one_of(kinds: Sequence[Any], words: Sequence[str], name: str) -> Any:
    """The first of several types that the words fit: numbers, then rows x columns, then names."""
    if len(kinds) == 1:
        return parse(kinds[0], words, name)
    text = words[-1].strip()
    if int in kinds and text.isdecimal():
        return _parse_word(int, text, name)
    if tuple[int, int] in kinds:
        sides = [_parse_word(int, side, name) for side in text.lower().split("x")]
        if len(sides) != 2:
            raise PellucidError(f"{name} {text!r} is neither a number nor rows x columns, as in 2 or 2x3")
        return tuple(sides)
    return parse(kinds[-1], words, name)


def _parse_word(kind: Any, word: str, name: str) -> Any:
    if get_origin(kind) is Literal:
        return _choose(word, get_args(kind), name)
    if kind is int and _is_huge(word):
        raise PellucidError(f"{name}: {word[:24]!r} is too large")
    try:
        return kind(word)
    except ValueError:
        raise PellucidError(f"{name}: {word!r} is not {_NUMBERS.get(kind, 'such a value')}") from None


def _is_huge(word: str) -> bool:
    """Whether a whole number does not fit into 64 bits, as seeds and counts have to."""
    digits = word.strip().lstrip("+-").replace("_", "")
    return digits.isdecimal() and len(digits.lstrip("0")) > _MOST_DIGITS


def _choose(word: str, choices: Sequence[str], name: str) -> str:
    if word in choices:
        return word
    near = get_close_matches(word, choices, n=1)
    hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(choices)}"
    raise PellucidError(f"{name}: {word!r} is unknown; {hint}")


def check_suffixes(outputs: Sequence[Path] | None, suffixes: Sequence[str], hint: str) -> list[Path]:
    """Refuse files of other kinds before anything long is computed.

    Args:
        outputs: what `--out` named.
        suffixes: that are written; "" stands for folders.
        hint: what to give instead.

    Returns:
        The outputs.

    Raises:
        PellucidError: an output of another suffix.

    >>> check_suffixes([Path("why.html")], (".html",), "give x.html")
    [PosixPath('why.html')]
    """
    for output in outputs or ():
        if output.suffix.lower() not in suffixes:
            raise PellucidError(f"--out {output}: {hint}")
    return list(outputs or ())

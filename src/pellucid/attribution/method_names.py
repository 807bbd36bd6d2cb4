"""Methods by the names that people type."""

import ast
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from pellucid.attribution.method import Method
from pellucid.errors import PellucidError


def make_methods(
    names: Sequence[str], options: Sequence[str], methods: Mapping[str, type[Method]], **common: Any
) -> list[Method]:
    """Make methods from text.

    Args:
        names: in any spelling: "GradCAM", "grad-cam", "gradcam++".
        options: "Method.option=value" texts, e.g. "IntegratedGradients.steps=50"; values are Python literals or words.
        methods: name -> class.
        common: options for all methods.

    Raises:
        PellucidError: no such method or option, or a value that the method refuses.

    >>> import pellucid as pl
    >>> make_methods(["grad-cam"], ["GradCAM.relu=False"], pl.attribution.METHODS)
    [GradCAM(max_batch=16, max_bytes=None, relu=False)]
    """
    selected = list(dict.fromkeys(_find(name, methods) for name in names))
    if not selected:
        raise PellucidError(f"no methods given; choose from {', '.join(methods)}")
    arguments_of: dict[str, dict[str, Any]] = {name: dict(common) for name in selected}
    for text in options:
        name, option, value = _parse(text, methods)
        if name not in arguments_of:
            raise PellucidError(f"option {text!r} is for {name}, which is not among the methods {', '.join(selected)}")
        arguments_of[name][option] = value
    result = []
    for name, arguments in arguments_of.items():
        try:
            result.append(methods[name](**arguments))
        except TypeError as error:
            raise PellucidError(f"{name} refuses its options {arguments}: {error}") from error
    return result


def _normalize(name: str) -> str:
    return name.lower().replace("++", "plusplus").replace("-", "").replace("_", "").replace(" ", "")


def _find(name: str, methods: Mapping[str, type[Method]]) -> str:
    by_spelling = {_normalize(known): known for known in methods}
    if _normalize(name) in by_spelling:
        return by_spelling[_normalize(name)]
    near = difflib.get_close_matches(_normalize(name), by_spelling, n=3)
    matches = " or ".join(by_spelling[match] for match in near)
    hint = f"did you mean {matches}?" if near else f"choose from {', '.join(methods)}"
    raise PellucidError(f"no attribution method {name!r}; {hint}")


def _parse(text: str, methods: Mapping[str, type[Method]]) -> tuple[str, str, Any]:
    path, equals, value = text.partition("=")
    method, dot, option = path.partition(".")
    if not equals or not dot:
        raise PellucidError(f"option {text!r} is not of the form Method.option=value")
    name = _find(method, methods)
    known = [item.name for item in fields(methods[name])]
    if option.strip() not in known:
        raise PellucidError(f"{name} has no option {option!r}; it has {', '.join(known)}")
    try:
        return name, option.strip(), ast.literal_eval(value.strip())
    except (ValueError, SyntaxError):
        return name, option.strip(), value.strip()

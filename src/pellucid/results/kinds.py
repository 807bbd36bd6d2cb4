"""The kinds of results that can be loaded, and where the class of each lives."""

from importlib import import_module
from typing import TYPE_CHECKING

from pellucid.errors import PellucidError

if TYPE_CHECKING:
    from pellucid.results.result import Result

KINDS: dict[str, str] = {
    "attribution": "pellucid.attribution:Explanation",
    "concepts": "pellucid.concepts:ConceptExplanation",
    "class_concepts": "pellucid.concepts:ClassExplanation",
    "tcav": "pellucid.concepts:TCAVResult",
    "surrogate_global": "pellucid.surrogate:GlobalExplanation",
    "surrogate_local": "pellucid.surrogate:LocalExplanation",
}
"""kind -> "module:class"; a class is imported when a result of its kind is loaded."""


class ResultError(PellucidError):
    """A folder holds no result, or one that cannot be read."""


def class_of_kind(kind: str, source: str) -> "type[Result]":
    """The class of a kind of result.

    Args:
        kind: a key of `KINDS`.
        source: where the kind was read, for the error.

    Raises:
        ResultError: no such kind.
    """
    if kind not in KINDS:
        raise ResultError(f"{source}: unknown kind of result {kind!r}; this version knows {', '.join(sorted(KINDS))}")
    module, _, name = KINDS[kind].partition(":")
    result_class: type[Result] = getattr(import_module(module), name)
    return result_class

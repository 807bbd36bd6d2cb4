"""The test run checks the shapes in signatures: jaxtyping's import hook, with beartype on those annotations alone."""

import typing
from collections.abc import Callable
from typing import Any

CHECKED = (
    "pellucid.attribution",
    "pellucid.classifiers",
    "pellucid.concepts",
    "pellucid.evaluation.aggregation",
    "pellucid.evaluation.localization",
)


def check_shapes(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check the annotations that hold a shape; all others are mypy's business."""
    from beartype import beartype

    shapes = {name: hint for name, hint in function.__annotations__.items() if _holds_a_shape(hint)}
    if not shapes:
        return function
    function.__annotations__ = shapes
    return beartype(function)


def install() -> None:
    """Check what is imported from now on; without jaxtyping and beartype nothing is checked."""
    try:
        import beartype  # noqa: F401
        from jaxtyping import install_import_hook
    except ModuleNotFoundError:
        return
    install_import_hook(list(CHECKED), "tests.shapes.check_shapes")


def _holds_a_shape(hint: object) -> bool:
    from jaxtyping import AbstractArray

    parts = typing.get_args(hint)
    return any(map(_holds_a_shape, parts)) if parts else isinstance(hint, type) and issubclass(hint, AbstractArray)

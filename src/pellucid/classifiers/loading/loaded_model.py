"""What loading a network by name has in common: the result, class names, weights by name or file, errors that help."""

import difflib
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.classifiers.loading.weights import build_with_weights
from pellucid.data import Preprocess
from pellucid.errors import MissingExtraError, ModelError


@cache
def imagenet_class_names() -> tuple[str, ...]:
    """Short human name of each of the 1000 classes: `imagenet_class_names()[340]` is `"zebra"`.

    Names are unique, also when case is ignored: homonyms carry a word in brackets, as in `crane (bird)`
    (class 134) and `crane (machine)` (class 517).

    >>> imagenet_class_names()[340]
    'zebra'
    """
    return _lines("imagenet_classes.txt")


@cache
def imagenet_synsets() -> tuple[str, ...]:
    """WordNet's number of each class, as ImageNet's folders are named.

    >>> imagenet_synsets()[340]
    'n02391049'
    """
    return _lines("imagenet_synsets.txt")


def _lines(file: str) -> tuple[str, ...]:
    text = resources.files("pellucid.classifiers.loading").joinpath(file).read_text(encoding="utf-8")
    return tuple(text.splitlines())


RANDOM = "random"
FACTORY = "package.module:factory"


@dataclass(frozen=True)
class LoadedModel:
    """A network with what belongs to it; attributes as in `Classifier`, `layers` are its aliases.

    >>> LoadedModel(nn.Linear(2, 1), None).origin
    ''
    """

    module: nn.Module
    preprocess: Preprocess | None
    origin: str = ""
    class_names: Sequence[str] | None = None
    layers: Mapping[str, str] | None = None


def load_or_leave_random(
    build: Callable[..., nn.Module],
    weights: str | Path,
    preprocess: Preprocess,
    *,
    classes: int = 1000,
    rename: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict,
    class_names: Sequence[str] | None = None,
) -> LoadedModel:
    """The network with the weights in a file; random ones stay, and the origin says so.

    Args:
        build: makes the network, for `classes` classes or for `num_classes=`.
        weights: a file, or "random".
        preprocess: the published one.
        classes: how many classes `build()` makes it for.
        rename: from the file's names to the network's.
        class_names: those of published weights; a file of one's own has none, however many outputs it is for.
    """
    if weights == RANDOM:
        return LoadedModel(build().eval(), preprocess, "random weights")
    module, _ = build_with_weights(build, weights, classes=classes, rename=rename)
    return LoadedModel(module.eval(), preprocess, Path(weights).name, class_names)


def import_library(module: str) -> Any:
    """A model library's module.

    Raises:
        MissingExtraError: it is not installed.
        ModelError: it cannot be imported with this torch.
    """
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = (error.name or package).partition(".")[0]
        raise MissingExtraError(missing, package, f"{package}:NAME") from error
    except Exception as error:
        raise ModelError(
            f"{package} cannot be imported with torch {torch.__version__} ({format_error(error)}): torch and "
            "torchvision are built in pairs, install two that belong together (torchvision's README has "
            "the table)"
        ) from error


def format_error(error: Exception) -> str:
    """An error of another library's code in one line.

    >>> format_error(ValueError("too large\\nby far"))
    'ValueError: too large'
    """
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"


def unknown_name_error(kind: str, name: str, names: Sequence[str]) -> ModelError:
    """The error of a name that does not exist, with those that are near.

    Args:
        kind: what the name should have named.
        name: as given.
        names: those that exist.

    >>> unknown_name_error("classifier", "resnet5", ["resnet50", "vgg16"])
    ModelError("no classifier 'resnet5'; did you mean resnet50?")
    """
    near = difflib.get_close_matches(name, names, n=4)
    hint = (
        f"did you mean {' or '.join(near)}?"
        if near
        else f"there are {', '.join(names[:6])}{', ...' * (len(names) > 6)}"
    )
    return ModelError(f"no {kind} {name!r}; {hint}")

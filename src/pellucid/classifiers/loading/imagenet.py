"""The thousand classes of ImageNet (ILSVRC 2012), in the order that networks trained on it answer in."""

from functools import cache
from importlib import resources


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

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
    text = resources.files("pellucid.classifiers.loading").joinpath("imagenet_classes.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())

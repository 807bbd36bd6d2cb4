"""Options that are texts with a grammar of their own: NAME=VALUE and CAUSE->EFFECT."""

from collections.abc import Sequence

from pellucid.errors import PellucidError


def assignments(texts: Sequence[str], option: str) -> dict[str, str]:
    """Name -> value from texts such as "thickness=4".

    Args:
        texts: each NAME=VALUE.
        option: that they were given for, for the message.

    Raises:
        PellucidError: a text has no "=", or a name comes twice.

    >>> assignments(["thickness=4", "slant = 0.1"], "--set")
    {'thickness': '4', 'slant': '0.1'}
    """
    values: dict[str, str] = {}
    for text in texts:
        name, sign, value = (part.strip() for part in text.partition("="))
        if not (name and sign and value):
            raise PellucidError(f"{option} {text!r} is not NAME=VALUE")
        if name in values:
            raise PellucidError(f"{option} sets {name!r} twice")
        values[name] = value
    return values


def numbers(texts: Sequence[str], option: str) -> dict[str, float]:
    """Name -> finite number from texts such as "thickness=4".

    Raises:
        PellucidError: as `assignments`, or a value is not a number.

    >>> numbers(["thickness=4"], "--set")
    {'thickness': 4.0}
    """
    values = {}
    for name, text in assignments(texts, option).items():
        try:
            values[name] = float(text)
        except ValueError:
            values[name] = float("nan")
        if not abs(values[name]) < float("inf"):
            raise PellucidError(f"{option}: {text!r} is not a number")
    return values


def whole_numbers(texts: Sequence[str], option: str) -> dict[str, int]:
    """Name -> whole number, 0 or more, from texts such as "thickness=0".

    Raises:
        PellucidError: as `assignments`, or a value is not a whole number.

    >>> whole_numbers(["thickness=0"], "--tier")
    {'thickness': 0}
    """
    values = {}
    for name, text in assignments(texts, option).items():
        if not text.isdecimal():
            raise PellucidError(f"{option} {name}={text}: expected a whole number, 0 or more")
        values[name] = int(text)
    return values


def arrows(texts: Sequence[str], option: str) -> tuple[tuple[str, str], ...]:
    """(cause, effect) pairs from texts such as "thickness->intensity".

    Raises:
        PellucidError: a text is of another form.

    >>> arrows(["thickness -> intensity"], "--required")
    (('thickness', 'intensity'),)
    """
    pairs = []
    for text in texts:
        cause, arrow, effect = (part.strip() for part in text.partition("->"))
        if not (cause and arrow and effect):
            raise PellucidError(f"{option} {text!r} is not CAUSE->EFFECT (quote it: the shell takes > for itself)")
        pairs.append((cause, effect))
    return tuple(pairs)

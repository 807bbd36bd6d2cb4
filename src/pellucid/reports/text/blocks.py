"""The parts of a text: tables, and lines."""

from collections.abc import Iterable
from dataclasses import dataclass

from rich.markup import escape
from rich.table import Table


@dataclass(frozen=True)
class Line:
    """One line, as it is.

    Attributes:
        text: without markup.
        style: of rich; none for plain text.
        remark: whether it belongs to the messages (stderr), not to the results.
    """

    text: str
    style: str = ""
    remark: bool = False


Block = Table | Line


def make_table(
    columns: Iterable[str],
    rows: Iterable[Iterable[str]],
    title: str = "",
    *,
    caption: str = "",
    centered: bool = False,
) -> Table:
    """A table of texts, none of which is read as markup.

    Args:
        columns: their names.
        rows: a cell for each column.
        title: above the table.
        caption: below it.
        centered: whether the caption is in the middle.

    >>> make_table(["concept", "AUC"], [["[red]", "0.9"]]).row_count
    1
    """
    table = Table(
        *map(escape, columns),
        title=escape(title),
        title_justify="left",
        caption=escape(caption),
        caption_justify="center" if centered else "left",
    )
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def format_range(low: float | None, high: float | None, *, sign: str = "") -> str:
    """An interval as it follows its number; nothing where there is none.

    Args:
        low: its lower end.
        high: its upper end.
        sign: "+" shows the signs of both.

    >>> format_range(0.1, 0.25, sign="+"), format_range(None, 1.0), format_range(float("nan"), 1.0)
    (' [+0.100, +0.250]', '', '')
    """
    if low is None or high is None or low != low or high != high:
        return ""
    return f" [{low:{sign}.3f}, {high:{sign}.3f}]"

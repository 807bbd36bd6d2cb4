"""What the commands print: JSON for machines, tables and lines for people, remarks and progress on stderr."""

import json
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from rich.console import Console, ConsoleOptions
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.segment import Segment

if TYPE_CHECKING:
    from pellucid.reports.text import Block


class SafeConsole(Console):
    """A console on which a text cannot do anything: names of files and classes are shown, never obeyed.

    What a terminal would take for a command, marks that turn the direction of writing, and bytes that are no text are
    shown as escapes.
    """

    def render(self, renderable: Any, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The segments of what is printed; those that rich itself steers the terminal with pass."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))


def printable(text: str) -> str:
    """A text with its control characters as escapes.

    >>> printable("cat\\x1b[2J.png")
    'cat\\\\x1b[2J.png'
    """
    return _COMMANDS.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


# C0 but tab and line feed, delete, C1, marks and overrides of direction, halves of surrogate pairs.
_COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

screen, messages = SafeConsole(), SafeConsole(stderr=True)

INTERRUPTED = 130  # what shells say of a command that was stopped with Ctrl-C


def print_json(value: object) -> None:
    """Print for machines, and nothing else on stdout; NaN and infinities are null.

    >>> print_json({"score": float("nan"), "page": Path("a.html")})
    {
      "score": null,
      "page": "a.html"
    }
    """
    from pellucid.storage import to_json

    sys.stdout.write(json.dumps(to_json(value), indent=2) + "\n")


def print_line(text: str, console: Console = screen, **style: Any) -> None:
    """One line as it is: no markup, no colors for numbers, no wrapping."""
    console.print(text, highlight=False, markup=False, soft_wrap=True, **style)


def show(texts: "Iterable[Block]") -> None:
    """Tables and lines for people; remarks go to stderr."""
    from pellucid.reports.text import Line

    for text in texts:
        if isinstance(text, Line):
            print_line(text.text, messages if text.remark else screen, style=text.style or None)
        else:
            screen.print(text)


def print_result(record: dict[str, Any], texts: "Iterable[Block]", as_json: bool) -> None:
    """A result for machines, or for people, with the files that were written.

    Args:
        record: all numbers, and the "files" that were written.
        texts: tables and lines.
        as_json: whether stdout is for machines.
    """
    if as_json:
        print_json(record)
        return
    show(texts)
    for file in record["files"]:
        print_line(f"wrote {file}")


def warn(text: str) -> None:
    """One line on stderr."""
    print_line(" ".join(text.split()), messages, style="yellow")


def note(text: str) -> None:
    """One remark on stderr."""
    warn(f"note: {text}")


def warn_skipped(file: Path, reason: str) -> None:
    """One line on stderr for an image that cannot be read."""
    warn(f"skipped: {file}: {reason}")


def fail(message: str) -> NoReturn:
    """Bad input: one line on stderr, exit code 2."""
    print_line(f"error: {' '.join(message.split())}", messages, style="red")
    raise SystemExit(2)


@contextmanager
def progress_bar(quiet: bool) -> Iterator[Progress]:
    """A bar that leaves nothing behind; on stderr where stdout is for machines."""
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=messages if quiet else screen, transient=True) as progress:
        yield progress


@contextmanager
def noted_stage(quiet: bool) -> Iterator[Callable[[str], None]]:
    """A bar without an end, to be called with what is done next; remarks on concepts are noted after it."""
    with _noted_remarks(), progress_bar(quiet) as progress:
        task = progress.add_task("", total=None)
        yield lambda stage: progress.update(task, description=stage)


@contextmanager
def _noted_remarks() -> Iterator[None]:
    """Each remark on concepts as one line on stderr; of those on the cache the first, and how many there are."""
    from pellucid.concepts import ConceptWarning

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConceptWarning)
        yield
    remarks = [str(warning.message) for warning in caught if issubclass(warning.category, ConceptWarning)]
    for warning in caught:
        if not issubclass(warning.category, ConceptWarning):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    of_cache = [text for text in remarks if text.startswith("cache: ")]
    more = f" (and {len(of_cache) - 1} more like this)" if len(of_cache) > 1 else ""
    for text in [*(text + more for text in of_cache[:1]), *(text for text in remarks if text not in of_cache)]:
        note(text)


@contextmanager
def stage_bars(quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar for each stage: call with the stage, how much of it is done, and how much there is."""
    with progress_bar(quiet) as bar:
        tasks: dict[str, Any] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total)
            bar.update(tasks[stage], completed=done, total=total)

        yield show


@contextmanager
def resumable(message: Callable[[], str]) -> Iterator[None]:
    """Say after Ctrl-C how to continue.

    Args:
        message: called after the interruption.
    """
    try:
        yield
    except KeyboardInterrupt:
        warn(message())
        raise SystemExit(INTERRUPTED) from None

"""The command line: parses, calls, prints. Bad input is one line on stderr and exit code 2."""

import typer

from pellucid.cli.common import messages
from pellucid.cli.concepts import app as concepts
from pellucid.cli.demo import demo
from pellucid.cli.evaluate import evaluate, report
from pellucid.cli.explain import explain
from pellucid.cli.listing import layers, models
from pellucid.cli.surrogate import app as surrogate
from pellucid.errors import PellucidError

__all__ = ["app", "main"]

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Explain image classifiers, and prove the explanations."
)
for command in (explain, evaluate, report, layers, models, demo):
    app.command()(command)
app.add_typer(concepts, name="concepts")
app.add_typer(surrogate, name="surrogate")


def main() -> None:
    """Run the command line."""
    try:
        app(standalone_mode=True)
    except PellucidError as error:
        _fail(str(error))
    except OSError as error:
        place = "" if error.filename is None else f"{error.filename}: "
        _fail(f"{place}{error.strerror or error}; choose another place, or check that it can be read and written")
    except MemoryError:
        _fail("too little memory; lower --max-batch")
    except RuntimeError as error:
        if "memory" not in str(error).lower():
            raise
        _fail(f"too little memory ({str(error).splitlines()[0]}); lower --max-batch")


def _fail(message: str) -> None:
    messages.print(f"error: {' '.join(message.split())}", style="red", highlight=False, markup=False, soft_wrap=True)
    raise SystemExit(2)

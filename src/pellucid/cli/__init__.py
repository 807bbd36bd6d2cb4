"""The command line: parses, calls a workflow, prints. Bad input is one line on stderr and exit code 2."""

import sys

from cyclopts import App, CycloptsError

from pellucid.cli.commands import COMMANDS, EPILOGUE, GROUPS, HELP, RENAMED
from pellucid.cli.parsing import new_app
from pellucid.cli.printing import fail, note
from pellucid.errors import PellucidError

__all__ = ["app", "main"]


def _program() -> App:
    program = new_app("pellucid", HELP, version=_version, help_epilogue=EPILOGUE)
    groups = {name: new_app(name, text) for name, text in GROUPS.items()}
    for path, (function, text) in COMMANDS.items():
        *group, name = path.split()
        (groups[group[0]] if group else program).command(f"pellucid.cli.{function}", name=name, help=text)
    for subprogram in groups.values():
        program.command(subprogram)
    program.register_install_completion_command(help="Install completion for this shell.")
    return program


def _version() -> str:
    from pellucid import __version__

    return __version__


app = _program()


def main() -> None:
    """Run the command line."""
    try:
        app(_rename(sys.argv[1:]), exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        fail(_usage(error))
    except PellucidError as error:
        fail(str(error))
    except OSError as error:
        file = "" if error.filename is None else f"{error.filename}: "
        fail(f"{file}{error.strerror or error}; choose another place, or check that it can be read and written")
    except MemoryError:
        fail("too little memory; lower --max-batch")
    except RuntimeError as error:
        if "memory" not in str(error).lower():
            raise
        fail(f"too little memory ({str(error).splitlines()[0]}); lower --max-batch")


def _rename(words: list[str]) -> list[str]:
    """The words of a command with the options' present names."""
    renamed = []
    for word in words:
        name, *value = word.split("=", 1)
        if name in RENAMED:
            note(f"{name} is now {RENAMED[name]}")
        renamed.append("=".join([RENAMED.get(name, name), *value]))
    return renamed


def _usage(error: CycloptsError) -> str:
    """What is wrong with the words of a command, and where its options are listed."""
    if isinstance(error.__cause__, PellucidError):
        return str(error.__cause__)
    command = " ".join(["pellucid", *(error.command_chain or ())])
    return f"{str(error).rstrip('.')} (see {command} --help)"

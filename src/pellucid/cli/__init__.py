"""The command line: parses, calls a workflow, prints. Bad input is one line on stderr and exit code 2."""

import sys

from cyclopts import App, CycloptsError

from pellucid.cli.parsing import new_app
from pellucid.cli.printing import fail, note
from pellucid.errors import PellucidError

__all__ = ["app", "main"]

_HELP = "Explain image classifiers, and prove the explanations."
_EPILOGUE = "Names in a list are separated by commas, or the option is given again."
_GROUPS = {
    "concepts": "What did it see, and how much did it count? CAVs, TCAV and Visual-TCAV.",
    "surrogate": "Why does it decide so? A surrogate of the classifier, a causal graph, counterfactual images.",
}
# Command -> where it is, and its help. A command is imported when it is called: torch takes seconds to import.
_COMMANDS = {
    "explain": (
        "explain_command:explain",
        "Explain images: predictions, an overlay per method and layer, and one HTML page each.\n\n"
        "With --concepts or --builtin also by concepts (Visual-TCAV), on a second page: fitted CAVs at their own "
        "layers, folders of images at the layers named here but the input. "
        "More options: `pellucid concepts explain`.",
    ),
    "evaluate": (
        "evaluate_command:evaluate",
        "Measure which attribution methods are true of a model: grids of known truth, at every layer.",
    ),
    "report": (
        "evaluate_command:report",
        "Write the page of a run again, finished or not; nothing is computed again.",
    ),
    "layers": ("list_commands:layers", "List the layers at which a classifier can be explained."),
    "models": ("list_commands:models", "List the classifiers that can be loaded by name."),
    "demo": (
        "demo_command:demo",
        "Explain photographs with a real ImageNet classifier, and test the explanations; nothing is downloaded.",
    ),
    "concepts fit": (
        "concepts_commands:fit",
        "Fit CAVs: directions that point towards concepts, with their quality on held-out images.",
    ),
    "concepts list": (
        "list_commands:concepts",
        "List the concepts that can be drawn, or the fitted CAVs in a folder with their receipts.",
    ),
    "concepts explain": (
        "concepts_commands:explain",
        "Explain images by concepts (Visual-TCAV): where they are seen, and how much they counted for each class.",
    ),
    "concepts rank": (
        "concepts_commands:rank",
        "Rank concepts for a class over images of it (global Visual-TCAV), with intervals and paired differences.",
    ),
    "concepts tcav": (
        "concepts_commands:tcav",
        "TCAV scores of a class, tested: for how many images a step towards a concept raises its logit.",
    ),
    "surrogate train": (
        "surrogate_commands:train",
        "Train the surrogate of a classifier on images, then measure it on images held out.",
    ),
    "surrogate resume": (
        "surrogate_commands:resume",
        "Continue a training that was stopped, as if it had not been.",
    ),
    "surrogate graph": (
        "surrogate_commands:graph",
        "Discover the causal graph of what the classifier perceives, and what of it moves the decision.\n\n"
        "It is kept in the run, for `pellucid surrogate explain`.",
    ),
    "surrogate explain": (
        "surrogate_commands:explain",
        "Explain images: what counts, along which paths, what would flip the decision, and may it be believed.",
    ),
    "surrogate evaluate": (
        "surrogate_commands:evaluate",
        "Measure a surrogate: is it faithful to the classifier, and does it control what it is asked to set?",
    ),
}

# Options that had another name before the first release.
_RENAMED = {
    "--intervened": "--max-interventions",
    "--pictures": "--images",
    "--randomise": "--randomize",
    "--transferred": "--residual-transfer",
    "--twin-grids": "--same-class-grids",
}


def _program() -> App:
    program = new_app("pellucid", _HELP, version=_version, help_epilogue=_EPILOGUE)
    groups = {name: new_app(name, text) for name, text in _GROUPS.items()}
    for path, (function, text) in _COMMANDS.items():
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
        if name in _RENAMED:
            note(f"{name} is now {_RENAMED[name]}")
        renamed.append("=".join([_RENAMED.get(name, name), *value]))
    return renamed


def _usage(error: CycloptsError) -> str:
    """What is wrong with the words of a command, and where its options are listed."""
    if isinstance(error.__cause__, PellucidError):
        return str(error.__cause__)
    command = " ".join(["pellucid", *(error.command_chain or ())])
    return f"{str(error).rstrip('.')} (see {command} --help)"

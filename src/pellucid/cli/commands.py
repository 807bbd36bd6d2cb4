"""Every command: where it is, and its help. It is imported when it is called: torch takes seconds to import."""

HELP = "Explain image classifiers, and prove the explanations."
EPILOGUE = "Names in a list are separated by commas, or the option is given again."
GROUPS = {
    "concepts": "What did it see, and how much did it count? CAVs, TCAV and Visual-TCAV.",
    "surrogate": "Why does it decide so? A surrogate of the classifier, a causal graph, counterfactual images.",
}
COMMANDS = {
    "explain": (
        "classifier_commands:explain",
        "Explain images: predictions, an overlay per method and layer, and one HTML page each.\n\n"
        "With --concepts or --builtin also by concepts (Visual-TCAV), on a second page: fitted CAVs at their own "
        "layers, folders of images at the layers named here but the input. "
        "More options: `pellucid concepts explain`.",
    ),
    "evaluate": (
        "classifier_commands:evaluate",
        "Measure which attribution methods are true of a model: grids of known truth, at every layer.",
    ),
    "report": (
        "classifier_commands:report",
        "Write the page of a run again, finished or not; nothing is computed again.",
    ),
    "layers": ("classifier_commands:layers", "List the layers at which a classifier can be explained."),
    "classes": (
        "classifier_commands:classes",
        "List the classes of a classifier, or those with a text in their names.",
    ),
    "models": ("classifier_commands:models", "List the classifiers that can be loaded by name."),
    "demo": (
        "demo_command:demo",
        "Explain photographs with a real ImageNet classifier, and test the explanations; nothing is downloaded.",
    ),
    "concepts fit": (
        "concepts_commands:fit",
        "Fit CAVs: directions that point towards concepts, with their quality on held-out images.",
    ),
    "concepts list": (
        "concepts_commands:list_concepts",
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

RENAMED = {
    "--intervened": "--max-interventions",
    "--pictures": "--images",
    "--randomise": "--randomize",
    "--transferred": "--residual-transfer",
    "--twin-grids": "--same-class-grids",
}
"""Options that had another name before the first release."""

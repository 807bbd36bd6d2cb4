"""`pellucid models`, `pellucid layers`, `pellucid classes` and `pellucid concepts list`: what there is."""

from pathlib import Path

from pellucid.classifiers import available
from pellucid.cli.parsing import AsJson, Options
from pellucid.cli.printing import note, print_json, print_line, show
from pellucid.concepts import CAV, cav_files
from pellucid.errors import PellucidError
from pellucid.reports.text import cav_texts, make_table
from pellucid.synthetic import COLORS, NEGATIVES, TEXTURES
from pellucid.workflows import ClassifierOptions, compare_cavs, load_classifier


def models(*, as_json: AsJson = False) -> None:
    """`pellucid models`.

    Args:
        as_json: print JSON for machines.
    """
    entries = available()
    if as_json:
        print_json([vars(entry) for entry in entries])
        return
    rows = [(entry.name, entry.source, entry.needs, "yes" if entry.installed else "no") for entry in entries]
    show([make_table(("name", "from", "extra", "installed"), rows)])


def layers(
    *,
    classifier: Options[ClassifierOptions] = ClassifierOptions(),
    clean: bool = False,
    as_json: AsJson = False,
) -> None:
    """`pellucid layers`.

    Args:
        classifier: the classifier.
        clean: only clean cuts.
        as_json: print JSON for machines.
    """
    model = load_classifier(classifier)
    aliases = {model.resolve(alias): alias for alias in ("middle", "final")}
    infos = [info for info in model.layers() if info.clean or not clean]
    if as_json:
        print_json(
            [
                {"name": i.name, "kind": i.kind, "shape": list(i.shape), "clean": i.clean, "alias": aliases.get(i.name)}
                for i in infos
            ]
        )
        return
    rows = [
        (i.name, i.kind, " x ".join(map(str, i.shape)), "yes" if i.clean else "", aliases.get(i.name, ""))
        for i in infos
    ]
    show([make_table(("layer", "kind", "channels x rows x columns", "clean cut", "alias"), rows)])


def classes(
    text: str = "",
    /,
    *,
    classifier: Options[ClassifierOptions] = ClassifierOptions(),
    as_json: AsJson = False,
) -> None:
    """`pellucid classes`.

    Args:
        text: part of a name; without it every class is listed.
        classifier: the classifier.
        as_json: print JSON for machines.
    """
    model = load_classifier(classifier)
    matching = [(index, name) for index, name in enumerate(model.class_names) if text.casefold() in name.casefold()]
    if not matching:
        raise PellucidError(f"none of the {model.num_classes} classes of {model.name} has {text!r} in its name")
    if as_json:
        print_json([{"index": index, "name": name} for index, name in matching])
        return
    for index, name in matching:
        print_line(f"{index}  {name}")


def concepts(folder: Path | None = None, /, *, as_json: AsJson = False) -> None:
    """`pellucid concepts list`.

    Args:
        folder: folder of fitted CAVs; without it the concepts that can be drawn.
        as_json: print JSON for machines.
    """
    if folder is None:
        _list_drawn(as_json)
        return
    files = cav_files(folder)
    if not files:
        raise PellucidError(f"{folder}: no CAVs (*.safetensors) in this folder; `pellucid concepts fit` writes them")
    known, damaged = {}, {}
    for file in files:
        try:
            known[file] = CAV.load(file)
        except PellucidError as error:
            damaged[str(file)] = str(error).removeprefix(f"{file}: ")
    cavs: dict[str, list[CAV]] = {}
    for cav in known.values():
        cavs.setdefault(cav.layer, []).append(cav)
    if as_json:
        receipts = [{"file": str(file), **cav.summary()} for file, cav in known.items()]
        print_json({"cavs": receipts, "cosines": compare_cavs(cavs), "damaged": damaged})
    else:
        show(cav_texts(cavs))
    for name, reason in damaged.items():
        note(f"{name}: {reason}")
    if not known:
        raise PellucidError(f"none of the {len(files)} files in {folder} can be read")


def _list_drawn(as_json: bool) -> None:

    if as_json:
        print_json({"textures": list(TEXTURES), "colors": list(COLORS), "negatives": NEGATIVES})
        return
    rows = (("textures", ", ".join(TEXTURES)), ("colors", ", ".join(COLORS)))
    show([make_table(("kind", "names for --builtin"), rows)])

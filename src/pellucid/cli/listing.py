"""`pellucid layers` and `pellucid models`."""

from rich.table import Table

from pellucid.cli.common import (
    DEFAULT_MODEL,
    AsJson,
    Clean,
    Model,
    Weights,
    load_classifier,
    print_json,
    screen,
)


def layers(
    model: Model = DEFAULT_MODEL,
    weights: Weights = None,
    clean: Clean = False,
    as_json: AsJson = False,
) -> None:
    """List the layers at which a classifier can be explained."""
    classifier = load_classifier(model, weights, None)
    aliases = {classifier.resolve(alias): alias for alias in ("middle", "final")}
    infos = [info for info in classifier.layers() if info.clean or not clean]
    if as_json:
        print_json(
            [
                {"name": i.name, "kind": i.kind, "shape": list(i.shape), "clean": i.clean, "alias": aliases.get(i.name)}
                for i in infos
            ]
        )
        return
    table = Table("layer", "kind", "channels x rows x columns", "clean cut", "alias")
    for info in infos:
        shape = " x ".join(map(str, info.shape))
        table.add_row(info.name, info.kind, shape, "yes" if info.clean else "", aliases.get(info.name, ""))
    screen.print(table)


def models(as_json: AsJson = False) -> None:
    """List the classifiers that can be loaded by name."""
    from pellucid.classifiers import available

    entries = available()
    if as_json:
        print_json([vars(entry) for entry in entries])
        return
    table = Table("name", "from", "extra", "installed")
    for entry in entries:
        table.add_row(entry.name, entry.source, entry.needs, "yes" if entry.installed else "no")
    screen.print(table)

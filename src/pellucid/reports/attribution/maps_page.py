"""One self-contained HTML page per image: photograph, predictions, and maps in a grid of methods by layers.

The page loads nothing: style, script and images are inside, its content security policy forbids the rest.
The photograph is embedded once and every map is a transparent layer over it, to be faded or hidden at will.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pellucid.reports.shared.html import (
    data_uri,
    distinct,
    duration,
    frame,
    percent,
    render_html,
)
from pellucid.reports.shared.overlays import (
    blank_reason,
    check_placed,
    display_image,
    map_layer,
)
from pellucid.reports.shared.scales import (
    SCALE_PERCENTILE,
    ReportError,
    color_row,
    format_number,
    robust_scale,
    scale_ticks,
    sign_convention,
)
from pellucid.storage import write_atomically

_MAP_LONG_SIDE = 448
_ADDS_UP, _NEARLY_ADDS_UP = 0.01, 0.1  # completeness gap as a share of the change in score


@dataclass(frozen=True)
class Panel:
    """One map of a page, with what belongs to it.

    Attributes:
        method: name of the attribution method; with `layer` and `target` it names the panel, once per page.
        layer: name of the layer.
        target: what is explained, as readers see it.
        values: (H0, W0) map on the original image, NaN outside what the network saw; or at `display_size`.
        signed: False for maps that are >= 0 by definition.
        score: value of the target that was explained.
        delta: change in score that the map should add up to; None where the method promises no completeness.
        gap: completeness gap, the map's sum minus `delta` at the layer's own resolution; None likewise.
        seconds: time the map took.
        passes: name -> count of network passes.
        notes: sentences for the reader, such as the reason for a zero map.
        options: the method's options.
    """

    method: str
    layer: str
    target: str
    values: Tensor
    signed: bool = True
    score: float | None = None
    delta: float | None = None
    gap: float | None = None
    seconds: float | None = None
    passes: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    options: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class PageInput:
    """Everything a page says; the same input gives the same page, byte for byte.

    Attributes:
        title: heading, usually the file's name.
        image: the original photograph, W0 x H0 pixels.
        model: name of the classifier.
        predictions: (class name, probability in [0, 1]) from the most likely down.
        panels: the maps; methods, layers and targets appear in the order they first come in.
        crop: (left, top, right, bottom) of what the network saw, in the image's pixels, beyond its edges
            where the preprocessing padded; None for all of it.
        provenance: how the page was made: versions, seeds, hash of the weights, layer shapes; may be nested.
    """

    title: str
    image: Image.Image
    model: str
    predictions: Sequence[tuple[str, float]]
    panels: Sequence[Panel]
    crop: tuple[float, float, float, float] | None = None
    provenance: Mapping[str, object] = field(default_factory=dict)


def write_page(path: str | os.PathLike[str], page: PageInput) -> None:
    """Write `render_page(page)` as a UTF-8 file: all of it or nothing; missing folders are created.

    >>> import tempfile
    >>> from pathlib import Path
    >>> panel = Panel("LRP", "input", "cat", torch.zeros(30, 40))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_page(f"{folder}/page.html", PageInput("cat.jpg", Image.new("L", (40, 30)), "net", [], [panel]))
    ...     "zero everywhere" in Path(folder, "page.html").read_text()
    True
    """
    write_atomically(path, render_page(page).encode())


def render_page(page: PageInput) -> str:
    """The page as one HTML document that needs no other file and no network.

    Args:
        page: what it says.

    Returns:
        HTML5. Every text of the input is escaped.

    Raises:
        ReportError: no panels, two panels of one name, or a map or crop that does not lie on the image.

    >>> image = Image.new("RGB", (40, 30))
    >>> panel = Panel("GradCAM", "final", "cat", torch.rand(30, 40), signed=False)
    >>> page = render_page(PageInput("cat.jpg", image, "a classifier", [("cat", 0.9)], [panel]))
    >>> "GradCAM at final" in page
    True
    """
    _check(page)
    photo = display_image(page.image)
    style = {
        "photo": data_uri(photo, "JPEG", quality=88),
        "bars": {signed: data_uri(color_row(signed=signed), "PNG") for signed in (True, False)},
        "aspect": f"{photo.width} / {photo.height}",
        "targets": distinct(panel.target for panel in page.panels),
    }
    return render_html(
        "attribution/image_page.html",
        "attribution/image_page.js",
        "attribution/image_page.css",
        style,
        page=page,
        crop=frame(page.image.size, _seen(page)),
        predictions=[(name, 100 * p, percent(p)) for name, p in page.predictions],
        layers=distinct(panel.layer for panel in page.panels),
        targets=_grids(page, _layer_size(photo)),
        conventions=[(signed, sign_convention(signed)) for signed in _signs(page)],
        percentile=f"{SCALE_PERCENTILE:g}",
        unseen=any(not panel.values.isfinite().all() for panel in page.panels),
        options=_options(page),
        provenance={"model": page.model, **page.provenance},
    )


def describe_completeness_gap(gap: float, delta: float | None) -> str:
    """A completeness gap in plain words.

    Args:
        gap: sum of the map minus `delta`.
        delta: change in score that the map should add up to; None or 0 leaves the gap without a share.

    Returns:
        A sentence without a full stop.

    >>> describe_completeness_gap(0.02, 4.0)
    'the map adds up to the change in score, 4, within 0.5 %'
    """
    if not np.isfinite(gap):
        return "could not be computed"
    if not delta:
        return "what the map's sum misses of the change in score"
    share, change = abs(gap / delta), f"the change in score, {format_number(delta)}"
    if share <= _ADDS_UP:
        return f"the map adds up to {change}, within {percent(share)}"
    if share <= _NEARLY_ADDS_UP:
        return f"the map nearly adds up to {change}: off by {percent(share)}"
    return f"the map does not add up to {change}: off by {percent(share)}, take its amounts as rough"


def _check(page: PageInput) -> None:
    if not page.panels:
        raise ReportError(f"the page of {page.title!r} has no panels; expected at least one map")
    names = set()
    for panel in page.panels:
        check_placed(panel.values, page.image)
        name = (panel.method, panel.layer, panel.target)
        if name in names:
            raise ReportError(f"two panels are {' / '.join(name)}; expected one: give the methods different names")
        names.add(name)
    left, top, right, bottom = _seen(page)
    if left >= right or top >= bottom:
        raise ReportError(
            f"crop {page.crop} shows no part of the image; expected (left, top, right, bottom) that overlaps"
            f" {page.image.width} x {page.image.height} pixels"
        )


def _grids(page: PageInput, size: tuple[int, int]) -> list[dict[str, object]]:
    """Per target a table: rows of methods, each with one cell per layer, None where there is no panel."""
    cells = {(panel.target, panel.method, panel.layer): panel for panel in page.panels}
    methods = distinct(panel.method for panel in page.panels)
    layers = distinct(panel.layer for panel in page.panels)
    scales = {(m, layer): _shared_scale(page, m, layer) for m in methods for layer in layers}

    def row(target: str, method: str) -> list[dict[str, object] | None]:
        panels = [(cells.get((target, method, layer)), scales[method, layer]) for layer in layers]
        return [_panel_view(page, panel, scale, size) if panel else None for panel, scale in panels]

    return [
        {"name": target, "rows": [(method, row(target, method)) for method in methods]}
        for target in distinct(panel.target for panel in page.panels)
    ]


def _shared_scale(page: PageInput, method: str, layer: str) -> float:
    """One scale for all targets of a method at a layer, so that their maps can be compared."""
    maps = [panel.values.flatten() for panel in page.panels if (panel.method, panel.layer) == (method, layer)]
    return robust_scale(torch.cat(maps)) if maps else 0.0


def _panel_view(page: PageInput, panel: Panel, scale: float, size: tuple[int, int]) -> dict[str, object]:
    """What the template prints of a panel: texts, and the map as a data URI."""
    reason = blank_reason(panel.values)
    layer = map_layer(panel.values, scale, size=size, signed=panel.signed)
    return {
        "panel": panel,
        "uri": data_uri(layer, "PNG", optimize=True),
        "reason": reason,
        "alt": f"{panel.method} at {panel.layer} for {panel.target}: {reason or _whereabouts(panel)}",
        "ticks": [label for _, _, label in scale_ticks(scale, panel.signed)],
        "score": None if panel.score is None else format_number(panel.score),
        "gap": None
        if panel.gap is None
        else (format_number(panel.gap), describe_completeness_gap(panel.gap, panel.delta)),
        "seconds": None if panel.seconds is None else duration(panel.seconds),
        "passes": ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in panel.passes.items() if count),
        "notes": [*panel.notes, *_lost_pixels(page, panel)],
    }


def _lost_pixels(page: PageInput, panel: Panel) -> list[str]:
    """A note where hatching does not mean "outside the crop": values that are not finite well inside it."""
    height, width = panel.values.shape
    left, top, right, bottom = (
        round(edge * side / original)
        for edge, side, original in zip(_seen(page), (width, height) * 2, page.image.size * 2, strict=True)
    )
    inside = panel.values[top + 1 : bottom - 1, left + 1 : right - 1]
    lost = int((~inside.isfinite()).sum())
    return [f"{lost} pixels that the network saw have no finite value; they are hatched too."] if lost else []


def _whereabouts(panel: Panel) -> str:
    """Where the strongest value lies and what sign it has, for readers who do not see the map."""
    magnitudes = torch.where(panel.values.isfinite(), panel.values.abs(), -1.0)
    height, width = magnitudes.shape
    row, column = divmod(int(magnitudes.argmax()), width)
    position = ("upper", "middle", "lower")[3 * row // height] + " "
    position += ("left", "center", "right")[3 * column // width]
    sign = "for" if panel.values[row, column] > 0 else "against"
    return f"strongest {sign + ' the target ' if panel.signed else ''}in the {position} of the image"


def _options(page: PageInput) -> list[tuple[str, str, str]]:
    """(method, options, layers run with them) in the order of the page."""
    layers: dict[tuple[str, str], dict[str, None]] = {}
    for panel in page.panels:
        options = ", ".join(f"{name} = {value}" for name, value in panel.options.items())
        layers.setdefault((panel.method, options), {})[panel.layer] = None
    return [(method, options, ", ".join(names)) for (method, options), names in layers.items()]


def _seen(page: PageInput) -> tuple[float, float, float, float]:
    """The part of the image that the network saw, within its edges: (left, top, right, bottom)."""
    width, height = page.image.size
    left, top, right, bottom = page.crop or (0, 0, width, height)
    return max(left, 0), max(top, 0), min(right, width), min(bottom, height)


def _signs(page: PageInput) -> list[bool]:
    return sorted({panel.signed for panel in page.panels}, reverse=True)


def _layer_size(photo: Image.Image) -> tuple[int, int]:
    shrink = min(1.0, _MAP_LONG_SIDE / max(photo.size))
    return max(1, round(photo.width * shrink)), max(1, round(photo.height * shrink))

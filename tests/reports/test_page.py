"""The page: everything once and escaped, nothing loaded; in a browser it fits and its switches work."""

import base64
import io
import itertools
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pellucid.reports import (
    PageInput,
    Panel,
    ReportError,
    render_page,
    robust_scale,
    write_page,
)
from pellucid.reports.attribution.maps_page import describe_completeness_gap

NASTY = '</style><script>alert("x")</script>\'&"><img src=http://evil.example/x.png onerror=alert(1)>'
NAN = float("nan")
CROP = (30.0, 0.0, 210.0, 160.0)


def photograph() -> Image.Image:
    ramp = np.linspace(0, 255, 240, dtype=np.uint8)[None].repeat(160, 0)
    return Image.fromarray(np.stack([ramp, ramp[:, ::-1], np.full_like(ramp, 90)], axis=-1))


def placed_map(seed: int = 0, *, signed: bool = True) -> torch.Tensor:
    values = torch.randn(160, 240, generator=torch.Generator().manual_seed(seed))
    values[:, :30], values[:, 210:] = NAN, NAN
    return values if signed else values.abs()


def panels(targets: tuple[str, ...] = ("zebra", "tabby cat")) -> list[Panel]:
    passes = {"prefix_forward": 1, "suffix_forward": 50, "suffix_backward": 0}
    run: dict[str, Any] = {"seconds": 0.25, "passes": passes, "options": {"steps": 50}}
    run |= {"score": 8.5, "delta": 8.0, "gap": 0.02}
    made = []
    for seed, (target, layer) in enumerate(itertools.product(targets, ("input", "final"))):
        made.append(Panel("IntegratedGradients", layer, target, placed_map(seed), **run))
        made.append(Panel("GradCAM", layer, target, placed_map(seed, signed=False), signed=False, score=8.5))
    return made


def page_input(**changes: Any) -> PageInput:
    page = PageInput(
        title="cat.jpg",
        image=photograph(),
        model="efficientnet_lite0",
        predictions=[("zebra", 0.87), ("tabby cat", 0.12), ("snail", 0.00004)],
        panels=panels(),
        crop=CROP,
        provenance={"weights sha256": "abc123", "versions": {"torch": "2.13.0"}},
    )
    return replace(page, **changes)


class Document(HTMLParser):
    """What a test needs to know of a page, read by a parser that is not the project's."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._raw = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._raw = tag if tag in ("style", "script") else ""

    def handle_endtag(self, tag: str) -> None:
        self._raw = ""

    def handle_data(self, data: str) -> None:
        if not self._raw:
            self.text += data

    def all(self, tag: str, **wanted: str) -> list[dict[str, str | None]]:
        return [a for t, a in self.tags if t == tag and all(a.get(k.rstrip("_")) == v for k, v in wanted.items())]


def image_of(uri: str | None) -> Image.Image:
    assert uri is not None
    return Image.open(io.BytesIO(base64.b64decode(uri.partition("base64,")[2])))


def test_every_panel_is_on_the_page_exactly_once() -> None:
    alts = [a["alt"] for a in Document(render_page(page_input())).all("img")]
    names = [(alt or "").partition(":")[0] for alt in alts]
    assert sorted(names) == sorted(f"{p.method} at {p.layer} for {p.target}" for p in panels())


def test_the_photograph_is_embedded_exactly_once_at_full_display_size() -> None:
    html = render_page(page_input())
    photographs = re.findall(r"data:image/jpeg;base64,[A-Za-z0-9+/=]+", html)
    assert len(photographs) == 1
    embedded = np.asarray(image_of(photographs[0])).astype(int)
    assert np.abs(embedded - np.asarray(display_of(photograph()))).mean() < 4


def display_of(image: Image.Image) -> Image.Image:
    return image.resize((2 * image.width, 2 * image.height), Image.Resampling.NEAREST)


def test_nothing_is_loaded_from_anywhere() -> None:
    document = Document(render_page(page_input(title=NASTY)))
    for _, attributes in document.tags:
        for name in ("src", "href", "data", "srcset", "action", "poster"):
            assert (attributes.get(name) or "data:").startswith("data:")
    assert not document.all("link")
    assert not document.all("iframe")
    policy = document.all("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"]
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "http" not in policy


def test_every_url_of_the_style_sheet_is_a_data_uri() -> None:
    urls = re.findall(r"url\(\s*[\"']?([^\"')]{0,12})", render_page(page_input()))
    assert len(urls) == 3
    assert all(url.startswith("data:image/") for url in urls)


@pytest.mark.parametrize(
    "where", ["title", "model", "class", "target", "method", "layer", "note", "option", "provenance"]
)
def test_nasty_text_is_shown_as_text_wherever_it_comes_in(where: str) -> None:
    panel = Panel("GradCAM", "final", "zebra", placed_map())
    named = {"target": "target", "method": "method", "layer": "layer"}
    if where in named:
        panel = replace(panel, **{named[where]: NASTY})
    panel = replace(panel, notes=(NASTY,) if where == "note" else ())
    panel = replace(panel, options={NASTY: NASTY} if where == "option" else {})
    page = page_input(panels=[panel])
    page = replace(page, title=NASTY if where == "title" else "cat", model=NASTY if where == "model" else "net")
    page = replace(page, predictions=[(NASTY if where == "class" else "zebra", 0.5)])
    page = replace(page, provenance={NASTY: {NASTY: NASTY}} if where == "provenance" else {})
    document = Document(render_page(page))
    assert NASTY in document.text
    assert len(document.all("script")) == len(document.all("style")) == 1
    assert len(document.all("img")) == 1
    assert not any("onerror" in attributes for _, attributes in document.tags)


def test_the_same_input_gives_the_same_bytes_and_maps_change_them(tmp_path: Path) -> None:
    write_page(tmp_path / "a.html", page_input())
    write_page(tmp_path / "b.html", page_input())
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    assert render_page(page_input(panels=panels()[::-1])) != render_page(page_input())


def test_writing_leaves_one_utf_8_file(tmp_path: Path) -> None:
    write_page(tmp_path / "folder" / "é.html", page_input(title="日本.jpg"))
    assert [p.name for p in (tmp_path / "folder").iterdir()] == ["é.html"]
    assert "日本.jpg" in (tmp_path / "folder" / "é.html").read_text("utf-8")


def test_probabilities_are_numbers_and_bars() -> None:
    document = Document(render_page(page_input()))
    for text in ("87.0 %", "12.0 %", "<0.1 %"):
        assert text in document.text
    assert [a["style"] for a in document.all("span", class_="share")] == [
        "width:87.00%",
        "width:12.00%",
        "width:0.00%",
    ]


def test_a_panel_states_score_gap_cost_and_options() -> None:
    text = re.sub(r"\s+", " ", Document(render_page(page_input())).text)
    assert "score8.5" in text.replace(" ", "")
    assert "0.02: the map adds up to the change in score, 8, within 0.2 %" in text
    assert "250 ms, 1 prefix forward, 50 suffix forward" in text
    assert "suffix backward" not in text  # none were made
    assert "steps = 50" in text
    assert "abc123" in text
    assert "2.13.0" in text


def test_targets_of_one_method_and_layer_share_the_scale_under_their_bars() -> None:
    first, second = (Panel("IxG", "final", t, s * placed_map(3)) for t, s in (("zebra", 1.0), ("cat", 0.01)))
    text = Document(render_page(page_input(panels=[first, second]))).text
    pooled = robust_scale(torch.cat([first.values, second.values]))
    assert text.count(f"+{pooled:.3g}") == 2
    assert text.count(f"−{pooled:.3g}") == 2


def test_the_embedded_map_has_its_signs_where_the_map_has_them() -> None:
    values = torch.zeros(160, 240)
    values[:80, 30:120], values[80:, 120:210] = 1.0, -1.0
    values[:, :30], values[:, 210:] = NAN, NAN
    document = Document(render_page(page_input(panels=[Panel("IxG", "final", "zebra", values)])))
    layer = np.asarray(image_of(document.all("img")[0]["src"]).convert("RGBA")).astype(int)
    height, width = layer.shape[:2]

    def at(x: float, y: float) -> np.ndarray:
        return layer[int(y / 160 * height), int(x / 240 * width)]

    assert at(60, 40)[0] > at(60, 40)[2] + 60
    assert at(180, 120)[2] > at(180, 120)[0] + 60
    assert at(60, 120)[3] == at(180, 40)[3] == 0
    assert at(10, 80)[3] > 100
    assert at(230, 80)[3] > 100


def test_the_crop_is_framed_and_a_image_seen_whole_is_not() -> None:
    frames = Document(render_page(page_input())).all("div", class_="crop")
    assert [f["style"] for f in frames] == ["left:12.500%;top:0.000%;width:75.000%;height:100.000%"]
    for whole in (None, (0, 0, 240, 160), (-10.0, -8.0, 250.0, 168.0)):
        assert not Document(render_page(page_input(crop=whole))).all("div", class_="crop")


def test_a_zero_map_says_so_with_its_reason_and_has_no_color_bar() -> None:
    zero = Panel("GradCAM", "final", "zebra", torch.where(placed_map().isnan(), NAN, 0.0), signed=False,
                 notes=("Every weighted sum is negative.",))  # fmt: skip
    document = Document(render_page(page_input(panels=[zero])))
    assert "Nothing to show: zero everywhere" in document.text
    assert "Every weighted sum is negative." in document.text
    assert not document.all("div", class_="bar unsigned")


def test_values_lost_inside_the_crop_are_counted() -> None:
    values = placed_map()
    values[50:52, 100:105] = NAN
    holed = Panel("IxG", "final", "zebra", values)
    assert "10 pixels that the network saw have no finite value" in render_page(page_input(panels=[holed]))
    assert "have no finite value" not in render_page(page_input())


def test_alt_texts_say_where_the_strongest_evidence_is() -> None:
    values = torch.zeros(160, 240)
    values[150, 120] = -1.0
    alts = [
        Document(render_page(page_input(crop=None, panels=[Panel("IxG", "f", "zebra", v, signed=s)]))).all("img")[0][
            "alt"
        ]
        for v, s in ((values, True), (-values, False))
    ]
    assert alts[0] == "IxG at f for zebra: strongest against the target in the lower center of the image"
    assert alts[1] == "IxG at f for zebra: strongest in the lower center of the image"


def test_missing_combinations_leave_a_cell_that_says_so() -> None:
    assert Document(render_page(page_input(panels=panels()[:3]))).text.count("not computed") == 1


@pytest.mark.parametrize(
    ("gap", "delta", "reading"),
    [
        (0.05, 10.0, "adds up to the change in score, 10, within 0.5 %"),
        (-0.5, 10.0, "nearly adds up to the change in score, 10: off by 5.0 %"),
        (3.0, -10.0, "does not add up to the change in score, −10: off by 30.0 %"),
        (NAN, 10.0, "could not be computed"),
        (0.5, None, "misses of the change in score"),
        (0.5, 0.0, "misses of the change in score"),
    ],
)
def test_a_completeness_gap_is_read_in_plain_words(gap: float, delta: float | None, reading: str) -> None:
    assert reading in describe_completeness_gap(gap, delta)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"panels": []}, "has no panels"),
        ({"panels": panels()[:1] * 2}, "two panels are IntegratedGradients / input / zebra"),
        ({"panels": [Panel("IxG", "final", "zebra", torch.ones(7, 7))]}, r"\(7, 7\)"),
        ({"crop": (300.0, 0.0, 400.0, 160.0)}, "shows no part of the image"),
    ],
)
def test_input_that_makes_no_page_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ReportError, match=message):
        render_page(page_input(**changes))


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 700, 1000, 1400])
def test_no_window_width_makes_the_page_scroll_sideways(browser: Any, tmp_path: Path, width: int) -> None:
    long_names = [replace(p, target="a_name_without_any_space_" * 4) for p in panels(("zebra",))]
    write_page(tmp_path / "page.html", page_input(title="long_file_name_" * 9 + ".jpg", panels=panels() + long_names))
    tab = browser.new_page(viewport={"width": width, "height": 800})
    tab.goto((tmp_path / "page.html").as_uri())
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    tab.close()


@pytest.mark.slow
def test_switches_work_and_nothing_is_requested_or_blocked(browser: Any, tmp_path: Path) -> None:
    write_page(tmp_path / "page.html", page_input(title=NASTY))
    tab = browser.new_page()
    requests: list[str] = []
    complaints: list[str] = []
    tab.on("request", lambda request: requests.append(request.url[:40]))
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.goto((tmp_path / "page.html").as_uri())

    first, second = tab.locator(".target").nth(0), tab.locator(".target").nth(1)
    assert (first.is_visible(), second.is_visible()) == (True, False)
    tab.get_by_role("radio", name="tabby cat").check(force=True)
    assert (first.is_visible(), second.is_visible()) == (False, True)

    def computed(selector: str, name: str) -> str:
        return str(second.locator(selector).first.evaluate("(e, name) => getComputedStyle(e)[name]", name))

    assert computed(".map", "opacity") == "1"
    tab.locator("#opacity").fill("40")
    assert computed(".map", "opacity") == "0.4"
    tab.get_by_role("radio", name="Photograph").check(force=True)
    assert computed(".map", "visibility") == "hidden"
    tab.get_by_role("radio", name="Map", exact=True).check(force=True)
    assert (computed(".map", "visibility"), computed(".photo", "visibility")) == ("visible", "hidden")

    second.locator(".enlarge").first.click(force=True)
    assert tab.locator("dialog img").is_visible()
    tab.get_by_role("button", name="Close").click()
    assert not tab.locator("dialog").is_visible()

    assert not complaints
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
    tab.close()

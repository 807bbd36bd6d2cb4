"""The page of an evaluation run: every number where it belongs, nothing loaded, and what is missing is said."""

import base64
import io
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.evaluation.sweep_support import COLORS, color_classifier, write_squares

from pellucid.attribution import (
    GradCAM,
    InputXGradient,
    IntegratedGradients,
    LayerCAM,
)
from pellucid.data import Preprocess
from pellucid.evaluation.sweep import (
    Run,
    SweepOptions,
    SweepProgress,
    evaluate,
)
from pellucid.reports import ReportError, render_evaluation, write_evaluation
from pellucid.reports.evaluation.map_strips import preprocess_of

METHODS = (GradCAM(), LayerCAM(), InputXGradient(), IntegratedGradients(steps=3))
OPTIONS = SweepOptions(
    settings=("GridPG", "DiFull"), layers=("input", "final"), grids=30, kernel_sizes=(5,), randomize=1, reuse=True
)


class Document(HTMLParser):
    """Tags, texts of table cells by row, and all text of a page, read by a parser that is not the project's."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.text = ""
        self._raw, self._table = "", ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._raw = tag if tag in ("style", "script") else ""
        if tag == "table":
            self._table = dict(attrs).get("id") or "other"
        if tag == "tr":
            self.tables.setdefault(self._table, []).append([])
        if tag in ("td", "th"):
            self.tables[self._table][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self._raw = ""

    def handle_data(self, data: str) -> None:
        if self._raw:
            return
        self.text += data
        if self.tables.get(self._table) and self.tables[self._table][-1]:
            self.tables[self._table][-1][-1] += data.strip()

    def all(self, tag: str, **wanted: str) -> list[dict[str, str | None]]:
        return [a for t, a in self.tags if t == tag and all(a.get(k.rstrip("_")) == v for k, v in wanted.items())]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_squares(tmp_path_factory.mktemp("squares"), per_class=18)
    (folder / "red" / "<b>bad.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def run(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return evaluate(squares, color_classifier(), METHODS, tmp_path_factory.mktemp("run") / "run", OPTIONS)


@pytest.fixture(scope="module")
def html(run: Run) -> str:
    return render_evaluation(run)


@pytest.fixture(scope="module")
def document(html: str) -> Document:
    return Document(html)


def small(squares: Path, out: Path, **changes: Any) -> Run:
    chosen: dict[str, Any] = {"settings": ("GridPG",), "layers": ("final",), "grids": 3, **changes}
    return evaluate(squares, color_classifier(), [GradCAM(), LayerCAM()], out, SweepOptions(**chosen))


def image_of(uri: str | None) -> np.ndarray:
    assert uri is not None
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition("base64,")[2]))).convert("RGB")).astype(int)


def test_every_line_of_the_summary_is_a_row_of_the_table(run: Run, document: Document) -> None:
    head, *rows = document.tables["results"]
    lines = run.summary()
    assert len(rows) == len(lines) == 2 * 2 * 2 * (4 * 2 + 5)
    place = {title: index for index, title in enumerate(head)}
    for line, row in zip(lines, rows, strict=True):
        assert line.name in row[0]
        assert ("control" in row[0]) == line.control
        assert row[place["Median"]] == f"{line.median.estimate:.3f}"
        assert row[place["95 % interval"]] == f"{line.median.low:.3f} – {line.median.high:.3f}"
        assert row[place["Attainable"]] == f"{line.attainable:.3f}"
        assert row[place["Maps"]] == str(sum(line.status.values()))


def test_nothing_is_loaded_from_anywhere(html: str, document: Document) -> None:
    for _, attributes in document.tags:
        for name in ("src", "href", "data", "srcset", "action", "poster"):
            assert (attributes.get(name) or "data:").startswith(("data:", "#"))
    assert not document.all("link")
    assert all(url.startswith("data:image/") for url in re.findall(r"url\(\s*[\"']?([^\"')]{0,12})", html))


def test_texts_of_the_run_are_escaped_and_the_skipped_image_is_named(html: str, document: Document) -> None:
    assert "<b>bad.png" not in html
    assert "red/<b>bad.png" in document.text
    assert "1 image skipped" in document.text


def test_a_strip_shows_the_mean_maps_and_opens_to_their_examples(run: Run, document: Document) -> None:
    strips = document.all("details", class_="strip")
    assert len(strips) == 2 * 2 * 4
    (uri,) = [
        a["src"] for a in document.all("img") if (a["alt"] or "").startswith("AggAtt of LayerCAM at final in DiFull")
    ]
    strip = image_of(uri)
    side = (strip.shape[1] - 5 * 6) // 6
    third = strip[:, 2 * (side + 6) : 2 * (side + 6) + side]
    means = run.agg_att("DiFull", "final", "LayerCAM").maps[2]
    inside, outside = third[8:48, 8:48].mean(axis=(0, 1)), third[70:100, 70:100].mean(axis=(0, 1))
    assert float(means[:16, :16].mean()) > 0.2 > 0.01 > float(means[20:, 20:].mean())
    assert inside[0] < 200  # green: little red
    assert inside[1] > inside[0]
    assert outside.min() > 250  # white: nothing there
    assert tuple(third[1, side // 4]) == (31, 90, 230)  # the frame of the first cell


def test_an_example_lies_beside_the_image_of_its_grid(run: Run, html: str, document: Document) -> None:
    """The color of a cell of the embedded image is that of the file that the manifest names."""
    found = re.search(
        r'alt="Map of grid (\d+)">\s*<div class="image g(\d+)"',
        html[html.index("AggAtt of GradCAM at final in GridPG") :],
    )
    assert found is not None
    grid, number = int(found[1]), found[2]
    uri = re.search(rf'\.g{number} {{ background-image: url\("([^"]+)"\)', html)
    assert uri is not None
    image = image_of(uri[1])
    cells = run.grid_set("GridPG").cells[grid]
    for place, cell in enumerate(cells):
        with Image.open(run.root / cell.path) as original:
            wanted = np.asarray(original).astype(int)
        row, column = divmod(place, 2)
        shown = image[row * 72 : row * 72 + 72, column * 72 : column * 72 + 72]
        assert np.abs(shown.mean(axis=(0, 1)) - wanted.mean(axis=(0, 1))).max() < 6
    assert len({cell.path.split("/")[0] for cell in cells} & set(COLORS)) == 4


def test_correlations_and_pairs_are_those_of_the_run(run: Run, document: Document) -> None:
    pairs = {tuple(row[:4]): row for row in document.tables["pairs"][1:]}
    assert len(pairs) == 2 * 2 * 6
    own = next(
        each for each in run.compare("GridPG", "final") if (each.first, each.second) == ("GradCAM", "InputXGradient")
    )
    row = pairs["GradCAM", "InputXGradient", "GridPG", "final"]
    assert row[4] == f"{own.median:+.3f}".replace("-", "−")
    assert row[7] == f"{own.rank_biserial:+.3f}".replace("-", "−")
    titles = [a["title"] or "" for a in document.all("td") if "title" in a]
    assert sum(": 1.00" in title for title in titles if "GradCAM at final and GradCAM at final" in title) == 2


def test_cost_is_told_for_one_grid(run: Run, document: Document) -> None:
    rows = {tuple(row[:3]): row for row in document.tables["costs"][1:]}
    table = run.table().to_pylist()
    key = ("IntegratedGradients", "DiFull", "input")
    own = [
        each
        for each in table
        if (each["method"], each["setting"], each["layer"]) == key
        and (each["kernel_size"], each["variant"]) == (1, "trained")
    ]
    assert float(rows[key][3]) == pytest.approx(sum(each["suffix_forward"] for each in own) / 30, abs=0.06)
    assert ("sharedby all methods", "GridPG", "final") in rows


def test_random_weights_and_smoothing_have_their_parts(document: Document) -> None:
    assert document.tables["sanity"][0][-1] == "Random down to conv1 (3 of 3)"
    assert len(document.tables["sanity"]) == 1 + 2 * 4
    assert len([a for a in document.all("svg") if (a["aria-label"] or "").startswith("Median localization")]) == 2


def test_box_plots_draw_the_quartiles_of_the_summary(run: Run, html: str) -> None:
    drawable = [
        each for each in run.summary() if (each.variant, each.kernel_size) == ("trained", 1) and not each.control
    ]
    line = max(drawable, key=lambda each: each.quartiles[1] - each.quartiles[0])
    assert line.quartiles[1] - line.quartiles[0] > 0.01
    text = f"{line.name}: median {line.median.estimate:.3f}, quartiles {line.quartiles[0]:.3f}"
    drawn = html[html.index(text) :]
    found = re.search(r'<rect x="[^"]+" width="16" y="([^"]+)" height="([^"]+)"', drawn)
    assert found is not None
    top, height = map(float, found.groups())
    assert 1 - (top - 10) / 200 == pytest.approx(line.quartiles[1], abs=1e-3)
    assert 1 - (top + height - 10) / 200 == pytest.approx(line.quartiles[0], abs=1e-3)


def test_the_same_run_gives_the_same_page(run: Run, html: str) -> None:
    assert render_evaluation(run) == html


def test_a_run_that_was_stopped_gives_a_page_that_says_so(squares: Path, tmp_path: Path) -> None:
    def stop(progress: SweepProgress) -> None:
        if progress.stage == "explaining" and progress.done == 2:
            raise KeyboardInterrupt

    options = SweepOptions(settings=("GridPG",), layers=("input", "final"), grids=6, shard_size=2)
    with pytest.raises(KeyboardInterrupt):
        evaluate(squares, color_classifier(), [GradCAM()], tmp_path / "run", options, on_progress=stop)
    page = write_evaluation(Run(tmp_path / "run"))
    text = page.read_text(encoding="utf-8")
    assert page == tmp_path / "run" / "report.html"
    assert "This run is not finished: 2 of 6 units of work are done" in text
    assert "Few grids: some medians rest on 2" in text
    evaluate(squares, color_classifier(), [GradCAM()], tmp_path / "run", options)
    assert "is not finished" not in render_evaluation(Run(tmp_path / "run"))


def test_a_run_of_which_nothing_is_finished_has_no_page(squares: Path, tmp_path: Path) -> None:
    def stop(progress: SweepProgress) -> None:
        if progress.stage == "explaining":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(squares, color_classifier(), [GradCAM()], tmp_path / "run", SweepOptions(grids=2), on_progress=stop)
    with pytest.raises(ReportError, match=r"nothing of the run .* is finished yet"):
        render_evaluation(Run(tmp_path / "run"))


def test_images_that_were_moved_are_told_and_the_page_goes_on(tmp_path: Path) -> None:
    folder = write_squares(tmp_path / "squares")
    run = small(folder, tmp_path / "run")
    shutil.rmtree(folder)
    text = Document(render_evaluation(run)).text
    assert re.search(r"\d+ images could not be read again", text)
    assert "no image" in text


def test_a_run_without_maps_says_so(squares: Path, tmp_path: Path) -> None:
    found = Document(render_evaluation(small(squares, tmp_path / "run", keep_maps="none")))
    assert "kept no maps" in found.text
    assert not found.all("details", class_="strip")


def test_metrics_of_single_images_are_a_table_beside_the_scores_or_alone(squares: Path, tmp_path: Path) -> None:
    changes = {"metric_options": ("deletion.steps=2",), "images": 3}
    for metrics in (("localization", "deletion"), ("deletion",)):
        run = small(squares, tmp_path / str(len(metrics)), metrics=metrics, **changes)
        document = Document(render_evaluation(run))
        head, *rows = document.tables["metrics"]
        lines = run.metric_summary()
        assert len(rows) == len(lines) == 2 + 4
        for line, row in zip(lines, rows, strict=True):
            assert line.method in row[0]
            assert row[head.index("Mean")] == f"{line.mean.estimate:.3f}"
            assert row[head.index("Chance")] == f"{line.chance:.3f}"
            assert row[head.index("Better")] == "lower"
        assert ("results" in document.tables) == ("localization" in metrics)
        assert "metrics on 3 images" in document.text


def test_the_preprocessing_of_a_plan_is_read_without_running_it() -> None:
    known = Preprocess((8, 12), resize=20, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0))
    assert preprocess_of(repr(known)) == known
    for text in ("<function resize>", "Compose([])", "__import__('os').getcwd()", "Preprocess(size=3)", "None", "a b"):
        assert preprocess_of(text) is None


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_no_window_width_makes_the_page_scroll_sideways(browser: Any, html: str, tmp_path: Path, width: int) -> None:
    (tmp_path / "page.html").write_text(html, encoding="utf-8")
    tab = browser.new_page(viewport={"width": width, "height": 800})
    tab.goto((tmp_path / "page.html").as_uri())
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    tab.close()


@pytest.mark.slow
def test_the_table_sorts_and_filters_and_strips_open(browser: Any, html: str, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(html, encoding="utf-8")
    tab = browser.new_page()
    complaints: list[str] = []
    requests: list[str] = []
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("request", lambda request: requests.append(request.url[:5]))
    tab.goto((tmp_path / "page.html").as_uri())

    heads = tab.locator("#results thead th").all_inner_texts()
    column = [head.strip() for head in heads].index("Median")

    def medians() -> list[float]:
        cells = tab.locator(f"#results tbody tr:visible > :nth-child({column + 1})").all_inner_texts()
        return [float(text) for text in cells]

    assert len(medians()) == 2 * 2 * (4 + 5)  # methods and controls
    head = tab.get_by_role("button", name="Median", exact=True)
    head.click()
    assert medians() == sorted(medians(), reverse=True)
    head.click()
    assert medians() == sorted(medians())
    tab.locator("form[data-for=results] select[name=setting]").select_option("GridPG")
    tab.get_by_role("checkbox", name="controls").uncheck()
    assert len(medians()) == 2 * 4

    strip = tab.locator("details.strip").first
    assert not strip.locator("figure").first.is_visible()
    strip.locator("summary").click()
    assert strip.locator("figure").first.is_visible()
    assert not complaints
    assert set(requests) <= {"file:", "data:"}
    tab.close()

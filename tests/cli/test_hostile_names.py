"""Names and numbers that would break a terminal, a page or a run."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.table import Table
from tests.cli.command import pellucid, refusal

from pellucid.cli.parsing import parse
from pellucid.cli.printing import SafeConsole
from pellucid.errors import PellucidError
from pellucid.reports.shared.output_folders import image_folders
from pellucid.storage import write_atomically


def draw(path: Path) -> None:
    image = io.BytesIO()
    Image.fromarray(np.eye(32, dtype=np.uint8) * 255).save(image, "png")
    path.write_bytes(image.getvalue())


def test_one_name_that_is_not_utf_8_does_not_end_a_batch(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    try:
        for name in (b"caf\xe9.png", b"plain.png"):
            draw(images / os.fsdecode(name))
    except OSError:
        pytest.skip("the file system takes no such name")
    for json in ([], ["--json"]):
        code, output, err = pellucid(
            "explain", images, "--model", "digit_cnn", "--methods", "GradCAM", "--out", tmp_path / "out", *json
        )
        assert code == 0, err
        output.encode()
        pages = sorted(os.fsencode(page.parent.name) for page in (tmp_path / "out").rglob("index.html"))
        assert pages == [b"caf\xe9", b"plain"]


@pytest.mark.parametrize("name", ["...png", "....png", "..png", ".png"])
def test_no_name_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    (folder, other) = image_folders([Path(name), Path("x") / name], tmp_path)
    assert folder != other
    for place in (folder, other):
        assert place.resolve().parent == tmp_path.resolve()


@pytest.mark.parametrize("text", ["\x1b[2J", "\x1b]0;title\x07", "\x9b2J", "\r", "\b", "\x7f", "\u202e", "\udce9"])
def test_a_terminal_obeys_no_name(text: str) -> None:
    shown = io.StringIO()
    console = SafeConsole(file=shown, force_terminal=True, width=80)
    table = Table(f"head{text}")
    table.add_row(f"cell{text}")
    console.print(f"line{text}", markup=False)
    console.print(table)
    assert not set(text) & set("\x07\x9b\r\b\x7f\u202e\udce9") & set(shown.getvalue())
    assert "\x1b[2J" not in shown.getvalue()
    assert "\x1b]0" not in shown.getvalue()
    shown.getvalue().encode()


def test_numbers_without_end_are_refused() -> None:
    for word in ("99999999999999999999", "-99999999999999999999", "9" * 5000):
        for hint in (int, int | None, int | tuple[int, int], tuple[int, ...]):
            with pytest.raises(PellucidError, match=r"--count: .* is too large"):
                parse(hint, [word], "--count")
    assert parse(int, ["0" * 30 + "7"], "--count") == 7
    code, _, err = pellucid("concepts", "fit", "--builtin", "striped", "--count", "9" * 20, "--out", "x")
    assert "too large" in refusal(code, err)
    code, _, err = pellucid("concepts", "fit", "--builtin", "striped", "--count", "99999999", "--out", "x")
    assert "at most 10,000 images" in refusal(code, err)


@pytest.mark.parametrize("place", ["/", "."])
def test_a_file_cannot_take_the_place_of_a_folder(place: str) -> None:
    with pytest.raises(IsADirectoryError):
        write_atomically(place, b"page")

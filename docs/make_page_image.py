"""Make docs/page.jpg and docs/why.jpg: the demo's pages of a cat and of drawn digits, as a browser shows them.

python docs/make_page_image.py   (needs playwright and a Chromium at CHROMIUM or /usr/bin/chromium)
"""

import io
import os
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from pellucid.cli import app

HERE = Path(__file__).parent


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        app(["demo", "--out", folder], result_action="return_value")
        browser = playwright.chromium.launch(
            executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(300_000)
        page.goto(Path(folder, "chelsea", "index.html").as_uri())
        _save(page.screenshot(full_page=True), "page.jpg")
        page.goto(Path(folder, "digits", "why.html").as_uri())
        _save(page.screenshot(full_page=True), "why.jpg", (0, _top(page, "#image-1"), 1280, _bottom(page, ".films")))
        browser.close()


def _top(page: Page, selector: str) -> float:
    box = page.locator(selector).first.bounding_box()
    assert box is not None
    return box["y"]


def _bottom(page: Page, selector: str) -> float:
    box = page.locator(selector).first.bounding_box()
    assert box is not None
    return box["y"] + box["height"] + 20


def _save(shot: bytes, name: str, box: tuple[float, float, float, float] | None = None) -> None:
    with Image.open(io.BytesIO(shot)) as image:
        image.crop(box).convert("RGB").save(HERE / name, quality=88, subsampling=0)


if __name__ == "__main__":
    main()

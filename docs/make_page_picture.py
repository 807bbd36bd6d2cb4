"""Make docs/page.jpg: the demo's page for a cat, as a browser shows it.

python docs/make_page_picture.py   (needs playwright and a Chromium at CHROMIUM or /usr/bin/chromium)
"""

import os
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright
from typer.testing import CliRunner

from pellucid.cli import app

HERE = Path(__file__).parent


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        CliRunner().invoke(app, ["demo", "--out", folder], catch_exceptions=False)
        shot = Path(folder, "page.png")
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"), args=["--no-sandbox", "--disable-gpu"]
            )
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.goto(Path(folder, "chelsea", "index.html").as_uri())
            page.screenshot(path=shot, full_page=True)
            browser.close()
        with Image.open(shot) as picture:
            picture.convert("RGB").save(HERE / "page.jpg", quality=88, subsampling=0)


if __name__ == "__main__":
    main()

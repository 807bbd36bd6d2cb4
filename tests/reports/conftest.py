"""A browser for the tests of pages."""

import shutil
from typing import Any

import pytest


@pytest.fixture(scope="module")
def browser() -> Any:
    sync = pytest.importorskip("playwright.sync_api", reason="the browser test needs playwright")
    executable = shutil.which("chromium")
    if executable is None:
        pytest.skip("the browser test needs chromium")
    with sync.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()

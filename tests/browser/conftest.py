"""A real JupyterLab and a real Chromium, one of each for all browser tests, and the notebooks opened in them."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from server import ROOT, chromium, jupyterlab, run_all

HERE = Path(__file__).parent


def missing() -> str | None:
    """Why there can be no browser tests here."""
    if shutil.which("chromium"):
        return None
    return "no chromium here: on Debian or Ubuntu, apt install chromium"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Browser tests need a browser."""
    reason = missing()
    for item in items:
        if reason and HERE in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def lab_folder(tmp_path_factory) -> Path:
    """The folder of the server, with a copy of the notebooks in its folder ``notebooks``."""
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "notebooks", folder / "notebooks", ignore=shutil.ignore_patterns("runs", ".*"))
    return folder


@pytest.fixture(scope="session")
def lab(lab_folder) -> Iterator[str]:
    """The address of a JupyterLab server over those notebooks, at their short sizes."""
    with jupyterlab(lab_folder, SPPO_LAB_SHORT="1") as address:
        yield address


@pytest.fixture(scope="session")
def browser() -> Iterator:
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=30_000)  # ms; other tests may take the processor meanwhile
    with sync_playwright() as playwright:
        browser = chromium(playwright)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def opened(lab, browser) -> Iterator[Callable]:
    """``opened("04_advantage_and_loss")`` is the page with that notebook after Run All.

    When the module's tests have ended: no error was written to the console, nothing was asked for from elsewhere.
    """
    said, asked, pages = [], [], []

    def open_notebook(name: str):
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        pages.append(page)
        run_all(page, lab, name)
        return page

    yield open_notebook
    errors = list(said)  # those of a kernel that is shut down, whose last messages may be torn, do not count
    for page in pages:
        page.evaluate("window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
        page.close()
    assert not errors
    assert not [url for url in asked if not url.startswith((lab, lab.replace("http", "ws"), "data:", "blob:"))]

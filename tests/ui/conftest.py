import shutil

import pytest
from playwright.sync_api import sync_playwright

from tests.ui.browser import BROWSER


@pytest.fixture(scope="session")
def browser():
    assert BROWSER, "no browser: install Debian's package chromium"
    calm = [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
    ]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which(BROWSER), args=calm)
        yield browser
        browser.close()


# MLflow opens its assistant beside everything at the first visit.
CLOSED = """localStorage.setItem("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true");
localStorage.setItem("mlflow.assistant.panelOpen_v1", "false");"""


@pytest.fixture(scope="module")
def page(browser):
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.add_init_script(CLOSED)
    return page

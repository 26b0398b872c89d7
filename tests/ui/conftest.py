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


@pytest.fixture(scope="module")
def page(browser):
    return browser.new_page(viewport={"width": 1600, "height": 1000})

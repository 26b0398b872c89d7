"""A headless browser for tests, and where pictures of what it shows are kept."""

import shutil

from tests.results import PROJECT

SHOTS = PROJECT / "docs" / "ui"
BROWSER = next((p for p in ("chromium", "chromium-browser", "google-chrome") if shutil.which(p)), None)


def shot(page, name):
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}.png")

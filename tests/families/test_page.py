"""The page of families is what the table says, and the table holds nothing wrong."""

import json

from tests.families.page import PAGE, made
from tests.results import RESULTS


def test_the_page_is_made_from_the_table():
    assert PAGE.read_text() == made(), "run `.venv/bin/python -m tests.families.page`"


def test_no_family_is_wrong():
    rows = json.loads((RESULTS / "families.json").read_text())
    assert not [row for row in rows if row["verdict"] == "wrong"]

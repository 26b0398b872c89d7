"""The row of the tests' seconds, from the XML that pytest leaves with `--junit-xml`."""

import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

from tests.bench.results import row

NAME = "test suite: seconds"
# A part of the suite would pass for a fast whole one.
LEAST = 1500


def row_of(path: Path) -> dict[str, Any]:
    """Ends with a line where it is no whole suite that passed."""
    if not path.is_file():
        sys.exit(f"error: {path}: there is no such file; make test O=--junit-xml={path} writes it.")
    (suite,) = ET.parse(path).getroot().iter("testsuite")
    count, wrong = int(suite.attrib["tests"]), int(suite.attrib["failures"]) + int(suite.attrib["errors"])
    if wrong or count < LEAST:
        sys.exit(f"error: {path}: {count} tests, {wrong} of them failed; expected {LEAST} at least, none failed.")
    slowest = max(suite.iter("testcase"), key=lambda case: float(case.attrib["time"]))
    told = f"{slowest.attrib['name']}, {float(slowest.attrib['time']):.0f} s"
    return row(
        NAME,
        float(suite.attrib["time"]),
        "s",
        goal="<= 480",
        why=f"{count} tests on two workers; the slowest: {told}",
        missed="tests that kill, resume and sweep start real processes",
    )

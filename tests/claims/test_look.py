"""What the page of the claims says equals the table that it is drawn from."""

import json

import pytest

from lightning_modules.claims import look, report
from lightning_modules.claims.table import load_all
from lightning_modules.look import page


@pytest.fixture(scope="module")
def committed():
    path = report.RESULTS / "claims.json"
    return {entry["row"]: entry for entry in json.loads(path.read_text())}, look.of_file(path, load_all())


@pytest.mark.slow
def test_every_measured_row_is_there_with_the_numbers_of_the_table(committed):
    entries, rows = committed
    found = look.claims_page(rows)
    assert {row["key"] for row in found["rows"]} == {key for key, entry in entries.items() if entry["seeds"]}
    for row in found["rows"]:
        entry = entries[row["key"]]
        assert (row["verdict"], row["seeds"], row["margin"]) == (entry["verdict"], entry["seeds"], entry["margin"])
        numbers = [row["effect"], row["low"], row["high"]]
        assert numbers == pytest.approx([entry["effect"], entry["ci_low"], entry["ci_high"]], rel=1e-5)
        assert sum(row["effects"]) / len(row["effects"]) == pytest.approx(entry["effect"], rel=1e-4, abs=1e-6)
        for arm in row["arms"]:
            assert arm["values"] == pytest.approx(
                [entry["values"][str(s)][arm["name"]] for s in row["seeds"]], rel=1e-5
            )
            assert arm["runs"] == [entry["runs_of"][str(s)].get(arm["name"]) for s in row["seeds"]]
    told = {v: sum(r["verdict"] == v for r in found["rows"]) for v in found["verdicts"]}
    assert all(f"{count} {verdict}" in found["verdict"] for verdict, count in told.items())


def test_a_row_without_runs_is_counted_and_not_drawn(committed):
    _, rows = committed
    bare = next(row for row in rows if not row.finding)
    one = next(row for row in rows if row.finding)
    found = look.claims_page([one, bare])
    assert [row["key"] for row in found["rows"]] == [one.key]
    assert found["verdict"].startswith("1 of 2 rows have runs")


@pytest.mark.slow
def test_the_command_writes_a_small_page(tmp_path, capsys):
    out = tmp_path / "look.html"
    assert look.main(["--out", str(out)]) == 0
    assert out.stat().st_size < 1_000_000
    assert page.read(out)["kind"] == "claims"
    assert look.main(["--file", str(tmp_path / "none.json"), "--out", str(out)]) == 2
    assert "none.json is not there; expected the claims.json that make report writes" in capsys.readouterr().err

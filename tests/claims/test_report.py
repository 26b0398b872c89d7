import json
import math
from types import SimpleNamespace

import pytest

from lightning_modules.claims import kept, report
from lightning_modules.claims.costs import Planned
from lightning_modules.claims.evidence import finished, rows, settled_later, shares
from lightning_modules.claims.table import load_all
from lightning_modules.claims.views import as_json, view
from tests.claims import claims

SEEDS = claims.FIELDS["seeds"]
STRONG = claims.STRONG


def table(tables, client):
    return rows(load_all(tables=tables), finished(client))


def written(folder, found, client, discussion):
    report.write(found, client=client, out=folder, discussion=discussion)
    return {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_planted_effect_in_mlflow_becomes_a_row(tmp_path, tables):
    client = claims.store(tmp_path, claims.made(tmp_path), STRONG)
    (row,) = table(tables, client)
    assert row.verdict == "reproduced"
    assert row.finding.effect == pytest.approx(0.52)
    assert row.seeds == SEEDS
    assert row.missing == ()
    files = written(tmp_path / "out", [row], client, tmp_path / "none.yaml")
    (entry,) = json.loads(files[next(p for p in files if p.name == "claims.json")])
    assert entry["claim"] == "moe/a_beats_b"
    assert entry["verdict"] == "reproduced"
    assert entry["ci_low"] > 0
    assert len(entry["runs"]) == 10
    assert (entry["commit"], entry["machine"]) == ("0123456789ab", "2 cores, of a toy"), "not where the table is made"
    text = files[next(p for p in files if p.name == "claims.md")].decode()
    assert "python main.py -m experiment=moe/scope balance=global seed=11,12,13,14,15" in text
    assert "10 runs, 0.0 hours one after the other." in text
    assert all(f"/runs/{run})" in text for run in entry["runs"])


def test_a_machine_that_several_runs_shared_is_counted_once():
    def run(name, start, end, **tags):
        info = SimpleNamespace(run_id=name, start_time=60_000 * start, end_time=60_000 * end)
        return SimpleNamespace(info=info, data=SimpleNamespace(tags=tags))

    found = shares([run("long", 0, 6), run("first", 0, 2), run("within", 1, 2), run("alone", 9, 10), run("none", 3, 3)])
    assert found == pytest.approx(
        {"long": 1 / 2 + 1 / 3 + 4, "first": 1 / 2 + 1 / 3, "within": 1 / 3, "alone": 1.0, "none": 0.0}
    )
    assert sum(found.values()) == pytest.approx(7), "six minutes, and one later"
    assert shares([run("stopped for a night", 0, 600, running_seconds="90.0")]) == {"stopped for a night": 1.5}


@pytest.mark.parametrize(("scale", "minutes"), [("small", 15), ("gpu", 30)])
def test_minutes_are_of_two_cores_or_of_one_gpu(tmp_path, tables, scale, minutes):
    (row,) = table(tables, claims.store(tmp_path, claims.made(tmp_path), STRONG))
    trial = row.trial.model_copy(update={"scale": scale})
    lengths = {f"run{n}": 3.0 for n in range(10)}
    shown = row._replace(trial=trial, origin=row.origin._replace(minutes=lengths))
    assert as_json(shown)["minutes"] == minutes


def test_built_twice_from_the_same_runs_it_is_the_same(tmp_path, tables):
    client = claims.store(tmp_path, claims.made(tmp_path), STRONG)
    first = written(tmp_path / "one", table(tables, client), client, tmp_path / "none.yaml")
    second = written(tmp_path / "two", table(tables, client), client, tmp_path / "none.yaml")
    assert first == second
    assert len(first) > 3


@pytest.mark.parametrize("status", ["FAILED", "RUNNING"])
def test_a_run_that_did_not_finish_is_no_evidence(tmp_path, tables, status):
    claim = claims.made(tmp_path)
    claims.store(tmp_path, claim, {"a": {s: v for s, v in STRONG["a"].items() if s < 15}, "b": STRONG["b"]})
    client = claims.store(tmp_path, claim, {"a": {15: 1.0}}, status=status)
    (row,) = table(tables, client)
    assert row.missing == (15,)
    assert row.verdict == "inconclusive"


def test_a_run_without_the_metric_or_with_nan_is_a_missing_seed(tmp_path, tables):
    claim = claims.made(tmp_path)
    values = {"a": {**STRONG["a"], 12: math.nan, 13: math.inf}, "b": STRONG["b"]}
    client = claims.store(tmp_path, claim, values)
    (row,) = table(tables, client)
    assert row.missing == (12, 13), "a database gives infinity back as its largest number"
    assert row.numberless == {12: "a's test/score is nan", 13: "a's test/score is inf"}
    files = written(tmp_path / "out", [row], client, tmp_path / "none.yaml")
    text = files[next(p for p in files if p.name == "claims.md")].decode()
    assert "Run, and without a number: 12 (a's test/score is nan)." in text
    assert "missing: 12" not in text, "it would be the same again"
    claims.write(tables, metric="test/scor")
    (row,) = table(tables, client)
    files = written(tmp_path / "misspelt", [row], client, tmp_path / "none.yaml")
    text = files[next(p for p in files if p.name == "claims.md")].decode()
    assert "11, 12, 13, 14, 15 (a has no test/scor; the nearest is 'test/score')" in text.split("Not run here:")[1]


def test_runs_of_an_edited_config_are_not_one_arm(tmp_path, tables):
    client = claims.store(tmp_path, claims.made(tmp_path), STRONG)
    for folder, run in finished(client).items():
        own = {"seed": folder[-2:], "data.seed": folder[-2:], "data.cache_dir": f"/machine {folder[-2:]}/cache"}
        for key, value in {**own, "trainer.max_steps": "300"}.items():
            client.log_param(run.info.run_id, key, "600" if key[-5:] == "steps" and folder.endswith("15") else value)
    with pytest.raises(ValueError, match=r"of one config: a has trainer.max_steps \(300 in 4 runs, 600 in s15\)"):
        table(tables, client)


def test_the_newest_of_several_runs_is_taken_wherever_it_stands(tmp_path, tables):
    client = claims.store(tmp_path, claims.made(tmp_path), STRONG)
    folder, older = next(iter(finished(client).items()))
    elsewhere = client.create_experiment("moved")
    newer = client.create_run(elsewhere, tags={"folder": folder}, start_time=older.info.start_time + 10).info.run_id
    client.set_terminated(newer)
    client.create_experiment("newest of all, and empty")
    again = client.create_run(older.info.experiment_id, tags={"folder": folder}, start_time=older.info.start_time + 5)
    client.set_terminated(again.info.run_id)
    assert finished(client)[folder].info.run_id == newer


def test_a_trial_reads_the_metric_that_its_experiment_has(tmp_path, tables):
    deeper = {**claims.FIELDS["trials"][0], "metrics": {"a": "test/top"}}
    claims.write(tables, trials=[deeper])
    client = claims.store(tmp_path, claims.made(tmp_path), STRONG)
    (row,) = table(tables, client)
    assert row.missing == tuple(SEEDS)
    for run in finished(client).values():
        client.log_metric(run.info.run_id, "test/top", 3.0)
    (row,) = table(tables, client)
    assert row.arm("a") == [3.0] * 5
    assert row.arm("b") == [0.5] * 5


def test_a_claim_without_runs_says_so(tmp_path, tables):
    client = claims.store(tmp_path, claims.made(tmp_path), {"a": {11: 1.0}})
    (row,) = table(tables, client)
    assert row.finding is None
    files = written(tmp_path / "out", [row], client, tmp_path / "none.yaml")
    text = files[next(p for p in files if p.name == "claims.md")].decode()
    assert (
        "| a beats b | real, small | 0 of 5 | not measured | – | `make claims C=moe/a_beats_b` |"
        in text.split("Not run here:")[1]
    )
    files = written(tmp_path / "out", [row._replace(planned=Planned(90.4, "a GPU"))], client, tmp_path / "none.yaml")
    text = files[next(p for p in files if p.name == "claims.md")].decode()
    assert "| a beats b | real, small | 0 of 5 | 90 | a GPU |" in text
    (entry,) = json.loads(files[next(p for p in files if p.name == "claims.json")])
    assert (entry["minutes_planned"], entry["planned_on"]) == (90.4, "a GPU")


def test_holm_counts_the_claims_of_a_paper(tmp_path, tables):
    claims.write(tables, "another")
    claims.write(tables, "elsewhere", paper="Somebody, 2026")
    client = claims.store(tmp_path, claims.made(tmp_path), STRONG)
    by_name = {row.name: row for row in table(tables, client)}
    raw = by_name["moe/elsewhere"].finding.p_for
    assert by_name["moe/elsewhere"].p_holm == pytest.approx(raw)
    assert by_name["moe/another"].p_holm == pytest.approx(2 * raw)


def test_holm_counts_what_is_declared_and_not_what_happened_to_be_run(tmp_path, tables):
    """One claim of a paper run alone would otherwise be judged as if there were no others."""
    for number in range(30):
        claims.write(tables, f"another{number}", arms={"a": {"run": ["seed=1"]}, "b": {"run": [f"threads={number}"]}})
    client = claims.store(tmp_path, claims.made(tmp_path), STRONG)
    row = next(row for row in table(tables, client) if row.name == "moe/a_beats_b")
    assert row.p_holm == pytest.approx(31 * row.finding.p_for)
    assert row.strength.alpha == pytest.approx(0.05 / 31)


def test_the_side_that_falls_is_not_corrected_and_the_table_says_so(tmp_path, tables):
    """By Holm it would be open beside 30 others; the row has both numbers."""
    for number in range(30):
        claims.write(tables, f"another{number}", arms={"a": {"run": ["seed=1"]}, "b": {"run": [f"threads={number}"]}})
    near = {"a": dict(zip(SEEDS, (0.54, 0.5, 0.57, 0.46, 0.55), strict=True)), "b": STRONG["b"]}
    client = claims.store(tmp_path, claims.made(tmp_path), near)
    found = table(tables, client)
    row = next(row for row in found if row.name == "moe/a_beats_b")
    assert row.verdict == "not reproduced"
    assert row.finding.p_against < 0.05 < row.against_holm == pytest.approx(31 * row.finding.p_against)
    assert report.steady(found)["fallen"] == 1
    assert report.steady(found)["firm"] == 0
    entry = as_json(row)
    assert (entry["p_against"], entry["p_against_holm"]) == (row.finding.p_against, row.against_holm)
    assert f"p = {row.finding.p_against:.2g} against the statement (uncorrected; " in view(row, "")["tests"]


def test_a_confirmation_is_a_family_and_a_row_of_its_own(tmp_path, tables):
    first = claims.FIELDS["trials"][0]
    again = {**first, "series": "confirmation", "seeds": [21, 22, 23, 24, 25, 26]}
    claims.write(tables, trials=[first, again])
    claims.write(tables, "another")
    values = {arm: by_seed | {seed + 10: value for seed, value in by_seed.items()} for arm, by_seed in STRONG.items()}
    client = claims.store(tmp_path, claims.made(tmp_path), values)
    found = {row.key: row for row in table(tables, client)}
    one, two = found["moe/a_beats_b@moe/scope"], found["moe/a_beats_b@moe/scope+confirmation"]
    assert one.p_holm == pytest.approx(2 * one.finding.p_for)
    assert (two.missing, two.verdict) == ((26,), "inconclusive")
    assert math.isnan(two.p_holm), "there is no test of it yet"
    claims.store(tmp_path, claims.made(tmp_path), {arm: {26: by_seed[15]} for arm, by_seed in STRONG.items()})
    two = next(row for row in table(tables, client) if row.key == two.key)
    assert two.p_holm == pytest.approx(two.finding.p_for)
    assert two.verdict == "reproduced"


def test_what_is_declared_later_on_other_seeds_judges_no_earlier_row_anew(tmp_path, tables):
    first = claims.FIELDS["trials"][0]
    later = [{**first, "series": "later", "seeds": list(range(n, n + 5))} for n in (21, 31)]
    claims.write(tables, trials=[first, later[0]])
    claims.write(tables, "another", trials=[first, later[0]])
    claims.write(tables, "afterwards", trials=[first, later[1]])
    values = {
        arm: {seed + shift: value for shift in (0, 10, 20) for seed, value in by_seed.items()}
        for arm, by_seed in STRONG.items()
    }
    client = claims.store(tmp_path, claims.made(tmp_path), values)
    found = {row.key: row for row in table(tables, client)}
    raw = found["moe/a_beats_b@moe/scope"].finding.p_for
    corrected = {key: row.p_holm / raw for key, row in found.items() if "later" in key}
    assert corrected == {
        "moe/a_beats_b@moe/scope+later": pytest.approx(2),
        "moe/another@moe/scope+later": pytest.approx(2),
        "moe/afterwards@moe/scope+later": pytest.approx(1),
    }


def test_a_later_series_settles_what_is_open_on_its_own_kind_of_data_alone(tmp_path, tables):
    first = claims.FIELDS["trials"][0]
    other = {**first, "data": "synthetic", "experiment": "moe/other"}
    series = [{**first, "series": s, "seeds": list(range(n, n + 5))} for s, n in (("confirmation", 21), ("later", 31))]
    claims.write(tables, trials=[first, other, *series])
    weak = {"a": dict(zip(SEEDS, (0.1, 0.9, 0.2, 0.8, 0.6), strict=True)), "b": STRONG["b"]}
    values = {arm: dict(weak[arm]) for arm in weak}
    for arm in values:
        values[arm] |= {seed + 10: weak[arm][seed] for seed in SEEDS}
        values[arm] |= {seed + 20: STRONG[arm][seed] for seed in SEEDS}
    claim = claims.made(tmp_path)
    client = claims.store(tmp_path, claim, values)
    claims.store(
        tmp_path, claim.model_copy(update={"trials": load_all(tables=tables)["moe/a_beats_b"].trials[1:2]}), weak
    )
    found = table(tables, client)
    keys = [f"moe/a_beats_b@moe/{place}" for place in ("scope", "other", "scope+confirmation", "scope+later")]
    assert [row.key for row in found] == keys
    assert [row.verdict for row in found] == ["inconclusive"] * 3 + ["reproduced"]
    assert settled_later(found) == {keys[0], keys[2]}


@pytest.mark.slow
def test_a_table_is_not_replaced_by_one_of_fewer_seeds(tmp_path, tables, monkeypatch, capsys):
    monkeypatch.setattr(report, "RESULTS", tmp_path / "committed")
    monkeypatch.setattr(report, "OWN", tmp_path / "own")
    monkeypatch.setattr(report, "PROJECT", tmp_path)
    monkeypatch.setattr(report, "load_all", lambda: load_all(tables=tables))
    (tmp_path / "README.md").write_text(f"{report.MARKS[0]}\n{report.MARKS[1]}\n")
    # A row without runs, of the same experiment, is no loss.
    first = claims.FIELDS["trials"][0]
    claims.write(tables, trials=[first, {**first, "scale": "gpu", "seeds": [31, 32, 33, 34, 35]}])
    few = tmp_path / "few"
    few.mkdir()
    claims.store(few, claims.made(tmp_path), {arm: {11: by_seed[11]} for arm, by_seed in STRONG.items()})
    claims.store(tmp_path, claims.made(tmp_path), STRONG)
    assert report.main(["--uri", f"sqlite:///{tmp_path}/mlflow.db"]) == 0
    assert report.main(["--uri", f"sqlite:///{tmp_path}/mlflow.db"]) == 0
    assert "left as it is" not in capsys.readouterr().out
    before = {p: p.read_bytes() for p in [tmp_path / "README.md", *(tmp_path / "committed").rglob("*.*")]}
    assert b"of 1 tried, **1** reproduced" in before[tmp_path / "README.md"]
    assert report.main(["--uri", f"sqlite:///{few}/mlflow.db"]) == 0
    assert {p: p.read_bytes() for p in before} == before
    assert (tmp_path / "own" / "claims.md").is_file()
    assert "left as it is, as 1 of its rows have more seeds" in capsys.readouterr().out


@pytest.mark.slow
def test_the_committed_table_follows_from_its_values_by_the_tables_of_today():
    """A margin, rule or seed changed after the runs shows here, as does a verdict that a change of the code would move."""
    path = report.RESULTS / "claims.json"
    committed, known = json.loads(path.read_text()), load_all()
    again = [as_json(row) for row in report.with_planned(rows(known, {}, kept.load(path, known)))]
    told = [{k: v for k, v in entry.items() if k not in ("power",)} for entry in committed]
    assert [{k: v for k, v in entry.items() if k not in ("power",)} for entry in again] == told
    for new, old in zip(again, committed, strict=True):
        assert new["power"] == pytest.approx(old["power"], abs=1e-6)
    assert sum(entry["effect"] is not None for entry in committed) > 50


def test_what_was_decided_before_power_was_told_is_decided_as_it_was():
    """Row -> verdict of the first 77 rows; a later one may be added, none of these may move."""
    committed = json.loads((report.RESULTS / "claims.json").read_text())
    old = [e for e in committed if e["series"] == "first" or e["row"].endswith("@moe/claims+confirmation")]
    said = [entry["verdict"] for entry in old if entry["runs"] and entry["scale"] == "small"]
    assert {v: said.count(v) for v in report.VERDICTS} == {"reproduced": 31, "not reproduced": 20, "inconclusive": 26}


def test_a_discussion_of_no_claim_is_refused(tmp_path, tables):
    client = claims.store(tmp_path, claims.made(tmp_path), STRONG)
    path = tmp_path / "discussion.yaml"
    path.write_text("moe/a_beats_c: why\n")
    with pytest.raises(ValueError, match="moe/a_beats_c is no claim; the nearest is .moe/a_beats_b"):
        report.load_discussion(path, table(tables, client))


def test_a_discussion_stands_beside_what_was_not_reproduced(tmp_path, tables):
    weak = {"a": STRONG["b"], "b": STRONG["a"]}
    client = claims.store(tmp_path, claims.made(tmp_path), weak)
    path = tmp_path / "discussion.yaml"
    path.write_text("moe/a_beats_b: Because of the size.\n")
    files = written(tmp_path / "out", table(tables, client), client, path)
    text = files[next(p for p in files if p.name == "claims.md")].decode()
    assert "not reproduced" in text
    assert "Because of the size." in text


def test_the_readme_keeps_what_stands_around_the_table(tmp_path):
    path = tmp_path / "README.md"
    path.write_text(f"before\n{report.MARKS[0]}\nold\n{report.MARKS[1]}\nafter\n")
    report.put_in_readme(path, "new\n")
    assert path.read_text() == f"before\n{report.MARKS[0]}\nnew\n{report.MARKS[1]}\nafter\n"


def test_without_any_run_the_command_says_what_to_do(tmp_path, capsys):
    claims.store(tmp_path, claims.made(tmp_path), {})
    assert report.main(["--uri", f"sqlite:///{tmp_path}/mlflow.db", "--out", str(tmp_path / "out")]) == 2
    assert "make claims" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()

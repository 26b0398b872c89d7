"""Rows kept from an earlier table, and the commit since which a claim is what it is, on a small git repository."""

import json
import subprocess

import pytest

from lightning_modules.claims import fixed, kept, report
from lightning_modules.claims.evidence import finished, rows
from lightning_modules.claims.table import load_all
from lightning_modules.claims.views import as_json, settled_by, view
from tests.claims import claims

SEEDS = claims.FIELDS["seeds"]
STRONG = claims.STRONG


def put(path, found):
    path.write_text(json.dumps([as_json(row) for row in found]))
    return path


def first_table(tmp_path, tables, values=STRONG):
    client = claims.store(tmp_path, claims.made(tmp_path), values)
    return put(tmp_path / "claims.json", rows(load_all(tables=tables), finished(client)))


@pytest.mark.slow
def test_a_table_read_back_is_the_same_table(tmp_path, tables):
    path, known = first_table(tmp_path, tables), load_all(tables=tables)
    (again,) = rows(known, {}, kept.load(path, known))
    assert [as_json(again)] == json.loads(path.read_text())
    assert again.verdict == "reproduced"
    assert not any(run["url"] for seed in view(again, "")["links"] for run in seed["runs"])


@pytest.mark.slow
def test_verdicts_are_not_read_but_follow_from_the_values(tmp_path, tables):
    path, known = first_table(tmp_path, tables), load_all(tables=tables)
    path.write_text(path.read_text().replace('"reproduced"', '"not reproduced"'))
    assert rows(known, {}, kept.load(path, known))[0].verdict == "reproduced"


def test_more_seeds_take_the_place_of_fewer_and_of_none_else(tmp_path, tables):
    some = {arm: {seed: by_seed[seed] for seed in SEEDS[:3]} for arm, by_seed in STRONG.items()}
    (tmp_path / "few").mkdir()
    path, known = first_table(tmp_path / "few", tables, some), load_all(tables=tables)
    client = claims.store(tmp_path, claims.made(tmp_path), STRONG)
    (row,) = rows(known, finished(client), kept.load(path, known))
    assert row.seeds == SEEDS
    other = {arm: {seed: value + 9 for seed, value in by_seed.items()} for arm, by_seed in STRONG.items()}
    (tmp_path / "other").mkdir()
    path = first_table(tmp_path / "other", tables, other)
    (row,) = rows(known, finished(client), kept.load(path, known))
    assert row.arm("b") == [9.5] * 5, "what was measured before stays"


def test_a_table_of_other_arms_or_seeds_is_refused_by_row(tmp_path, tables):
    path = first_table(tmp_path, tables)
    arms = {"a": {"run": ["balance=global"]}, "c": {"run": ["balance=micro"]}}
    claims.write(tables, arms=arms, contrast={"a": 1, "c": -1})
    with pytest.raises(
        ValueError, match=r"claims.json: moe/a_beats_b@moe/scope has the arms \['a', 'b'\]; the claim has"
    ):
        kept.load(path, load_all(tables=tables))
    claims.write(tables, seeds=[21, 22, 23, 24, 25])
    with pytest.raises(ValueError, match="has seed 11; the claim has"):
        kept.load(path, load_all(tables=tables))


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("rule", {"rule": "equivalence"}),
        ("margin", {"margin": 0.2}),
        ("transform", {"transform": "log"}),
        ("contrast", {"contrast": {"a": 2, "b": -1}}),
        ("metrics", {"metric": "test/other"}),
        ("commands", {"arms": {"a": {"run": ["balance=global"]}, "b": {"run": ["balance=group"]}}}),
    ],
)
def test_kept_numbers_are_those_of_the_claim_as_it_was_fixed(tmp_path, tables, field, changes):
    """Else a margin that was moved after the runs would stand beside the commit in which another was fixed."""
    path = first_table(tmp_path, tables)
    claims.write(tables, **changes)
    with pytest.raises(ValueError, match=f"moe/a_beats_b@moe/scope was measured with {field} .*; the claim has "):
        kept.load(path, load_all(tables=tables))


def test_an_open_row_says_how_many_seeds_it_would_take(tmp_path, tables):
    noisy = {"a": dict(zip(SEEDS, (1.0, 0.2, 0.9, 0.4, 0.8), strict=True)), "b": dict.fromkeys(SEEDS, 0.5)}
    path, known = first_table(tmp_path, tables, noisy), load_all(tables=tables)
    (row,) = rows(known, {}, kept.load(path, known))
    assert row.verdict == "inconclusive"
    assert row.strength.seeds > 5
    assert f"{row.strength.seeds} give 80% power" in settled_by(row)
    slow = row._replace(origin=row.origin._replace(minutes={"one": 600.0}))
    assert "within the 40" in settled_by(row)
    assert "over the 40" in settled_by(slow)
    trial = row.trial.model_copy(update={"run": ("backbone.seed=${seed}",)})
    assert "and the time in which each fresh seed's model is pretrained" in settled_by(row._replace(trial=trial))
    assert settled_by(row, later=True) == "A later series decided it."
    half = row._replace(missing=(16, 17), origin=row.origin._replace(minutes={"one": 20.0}))
    assert settled_by(half).startswith("A verdict wants all of its seeds; missing: 16, 17 (4 minutes on two cores")


def test_a_claim_counts_as_settled_by_its_latest_series(tmp_path, tables):
    first = claims.FIELDS["trials"][0]
    noisy = {"a": dict(zip(SEEDS, (1.0, 0.2, 0.9, 0.4, 0.8), strict=True)), "b": dict.fromkeys(SEEDS, 0.5)}
    claims.write(tables, trials=[{**first, "series": "confirmation", "seeds": [21, 22, 23, 24, 25]}, first])
    again = {arm: {seed + 10: value for seed, value in by_seed.items()} for arm, by_seed in STRONG.items()}
    client = claims.store(tmp_path, claims.made(tmp_path), {arm: noisy[arm] | again[arm] for arm in noisy})
    found = rows(load_all(tables=tables), finished(client))
    assert [row.verdict for row in found] == ["reproduced", "inconclusive"]
    counted = report.steady(found)
    assert (counted["asked"], counted["settled"], counted["decided"], counted["alike"]) == (1, 1, 1, 1)


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A function that commits a table with some changes, in a repository that `fixed` looks at; it gives the commit."""
    root = tmp_path / "repository"
    folder = root / "lightning_modules" / "claims" / "tables"

    def git(*args):
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *args]
        return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False).stdout.strip()

    def commit(**changes):
        claims.write(folder, **changes)
        git("add", ".")
        git("commit", "-m", "a table")
        return git("rev-parse", "HEAD")[: fixed.SHORT]

    root.mkdir()
    git("init")
    monkeypatch.setattr(fixed, "git", git)
    fixed._commits.cache_clear()
    fixed._definitions.cache_clear()
    yield commit
    fixed._commits.cache_clear()
    fixed._definitions.cache_clear()


def since(tmp_path, **changes):
    claim = claims.made(tmp_path / "now", **changes)
    return fixed.fixed_in("moe/a_beats_b", claim, claim.trials[0])


def test_a_claim_is_fixed_by_the_commit_that_changed_what_a_verdict_follows_from(tmp_path, repository):
    repository(margin=0.2)
    wanted = repository(margin=0.1)
    repository(margin=0.1, statement="In other words, A beats B.")
    assert since(tmp_path, margin=0.1) == wanted
    fixed._commits.cache_clear()
    last = repository(margin=0.1, seeds=[11, 12, 13, 14, 16])
    assert since(tmp_path, margin=0.1, seeds=[11, 12, 13, 14, 16]) == last
    assert since(tmp_path, margin=0.1) == "", "what is not committed is not fixed"


def test_a_commit_whose_table_is_refused_is_passed_over(tmp_path, repository):
    repository(margin=0.2)
    wanted = repository(margin=0.1)
    repository(margin=0.1, rule="by a coin")
    repository(margin=0.1)
    assert since(tmp_path, margin=0.1) == wanted


def test_a_shallow_clone_does_not_take_its_edge_for_the_beginning(tmp_path, repository, monkeypatch):
    repository()
    assert since(tmp_path) != ""
    whole = fixed.git
    monkeypatch.setattr(fixed, "git", lambda *a: "true" if "--is-shallow-repository" in a else whole(*a))
    assert since(tmp_path) == ""


def test_a_run_older_than_its_claim_shows(tmp_path, repository):
    old, new = repository(margin=0.2), repository(margin=0.1)
    claim = claims.made(tmp_path / "now", margin=0.1)
    client = claims.store(tmp_path, claim, STRONG)
    (row,) = rows({"moe/a_beats_b": claim}, finished(client))
    told = {at: fixed.with_fixed(row._replace(origin=row.origin._replace(commit=at))).origin for at in (old, new)}
    assert {at: origin.fixed_before_runs for at, origin in told.items()} == {old: False, new: True}
    assert told[old].fixed_in == new


def test_every_row_of_the_committed_table_says_since_when_its_claim_is_fixed():
    committed = json.loads((report.RESULTS / "claims.json").read_text())
    measured = [entry for entry in committed if entry["runs"]]
    assert all(len(entry["fixed_in"]) == fixed.SHORT for entry in measured)
    assert [entry["row"] for entry in measured if not entry["fixed_before_runs"]] == [
        "prompt/upper_layers_are_more_task_specific@prompt/skill_neurons_real"
    ]
    assert all(entry["minutes"] > 0 for entry in measured)


@pytest.mark.slow
def test_beside_every_open_row_stands_why_and_what_it_would_take():
    known = load_all()
    found = rows(known, {}, kept.load(report.RESULTS / "claims.json", known))
    why = report.load_discussion(report.RESULTS / "claims_discussion.yaml", found)
    still_open = [row for row in found if row.finding and row.verdict == "inconclusive"]
    assert still_open
    for row in still_open:
        assert why.get(row.key) or why.get(row.name), row.key
        assert ("missing: " if row.missing else "80% power") in settled_by(row), row.key

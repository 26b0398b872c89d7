import math

import pytest

from lightning_modules.claims.claim import Job, jobs
from lightning_modules.claims.evidence import rows
from lightning_modules.claims.table import load, load_all
from lightning_modules.runtime import config, preflight
from lightning_modules.runtime.sweep import PROJECT
from tests.claims import claims
from tests.runtime import cli

EVERY = load_all()


@pytest.mark.parametrize("field", [field for field in claims.FIELDS if field != "paper"])
def test_a_missing_field_is_refused(tmp_path, field):
    path = claims.write(tmp_path, **{field: None})
    with pytest.raises(ValueError, match=rf"moe\.yaml: a_beats_b: {field} is missing"):
        load(path)


def test_every_problem_of_every_table_is_told_at_once(tmp_path):
    claims.write(tmp_path, "one", margin=-1, seeds=[1, 2])
    claims.write(tmp_path, "two", marginn=1, contrast={"a": 1, "c": -1})
    claims.write(tmp_path, "three", trials=["smal"], table={"trials": {"small": {}}})
    (tmp_path / "svco.yaml").write_text("[1, 2")
    (tmp_path / "prompt.yaml").write_text("claims: {}")
    (tmp_path / "transfer.yaml").write_text("paper: P\nclaims: {a: {}, a: {}}")
    with pytest.raises(ValueError, match="moe.yaml") as told:
        load_all(tables=tmp_path)
    text = str(told.value)
    for expected in (
        "moe.yaml: one: ",
        "margin is -1",
        "seeds is [1, 2]",
        "marginn is no field; the nearest is 'margin'",
        "three: trials names 'smal', which the table has not; the nearest is 'small'",
        "svco.yaml: not YAML",
        "prompt.yaml: paper is missing",
        "transfer.yaml: not YAML (while constructing a mapping",
        "found duplicate key a",
    ):
        assert expected in text, text


def test_a_claim_takes_what_its_table_shares(tmp_path):
    """Its own fields go before; a trial may be named."""
    shared = {"margin": 7.0, "unit": "nats", "trials": ["here"]}
    path = claims.write(
        tmp_path, margin=None, trials=None, table={"shared": shared, "trials": {"here": claims.FIELDS["trials"][0]}}
    )
    (found,) = load(path).values()
    assert (found.system, found.paper, found.margin, found.unit) == ("moe", "Nobody, 2026", 7.0, "points")
    assert found.trials == claims.made(tmp_path / "plain").trials


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"contrast": {"a": 1, "c": -1}}, "contrast.c is no arm"),
        ({"contrast": {"a": 1}}, "arms.b has no weight"),
        ({"contrast": {"a": 0, "b": 0}}, "only zeros"),
        ({"seeds": [1, 2, 3, 4, 4]}, "one twice"),
        (
            {"trials": [{**claims.FIELDS["trials"][0], "series": "later", "seeds": [21, 22, 23, 24, 24]}]},
            "trials.seeds has one twice",
        ),
        (
            {"trials": [claims.FIELDS["trials"][0], {**claims.FIELDS["trials"][0], "run": ["threads=1"]}]},
            "trials has two at moe/scope, small, first",
        ),
        ({"rule": "better"}, "rule is 'better'"),
        (
            {"trials": [{**claims.FIELDS["trials"][0], "metrics": {"aa": "x"}}]},
            "trials.metrics.aa is no arm; the nearest is 'a'",
        ),
    ],
)
def test_a_claim_that_does_not_hold_together_is_refused(tmp_path, changes, problem):
    with pytest.raises(ValueError, match=problem):
        claims.made(tmp_path, **changes)


def test_a_confirmation_takes_seeds_of_its_own(tmp_path):
    trial = {"experiment": "moe/scope", "scale": "small", "data": "real", "series": "confirmation"}
    with pytest.raises(ValueError, match=r"a confirmation takes seeds of its own; found \[11, 12, 13, 14, 15\]"):
        claims.made(tmp_path, trials=[trial])
    with pytest.raises(ValueError, match=r"found \[15\]"):
        claims.made(tmp_path, trials=[{**trial, "seeds": [15, 16, 17, 18, 19]}])


def test_a_later_series_takes_seeds_that_none_before_it_had(tmp_path):
    first = claims.FIELDS["trials"][0]
    again = {**first, "series": "confirmation", "seeds": [21, 22, 23, 24, 25]}
    later = {**first, "series": "later", "seeds": [25, 26, 27, 28, 29]}
    with pytest.raises(ValueError, match=r"a later series takes seeds of its own; found \[25\], which were looked at"):
        claims.made(tmp_path, trials=[later, first, again])
    # Without an earlier series nobody has looked at the claim's own seeds.
    alone = claims.made(tmp_path, trials=[{**later, "seeds": None}])
    assert [job.seed for job in jobs([alone], scale="small", series="later")][::2] == claims.FIELDS["seeds"]


def test_the_effect_is_the_contrast(tmp_path):
    claim = claims.made(tmp_path)
    assert claim.effect({"a": 3.0, "b": 1.0}) == 2.0
    logarithm = claims.made(tmp_path, transform="log")
    assert logarithm.effect({"a": math.e, "b": 1.0}) == pytest.approx(1.0)
    assert math.isnan(logarithm.effect({"a": 0.0, "b": 1.0}))


def test_the_effect_is_the_same_to_the_last_bit_under_every_python(tmp_path):
    """`sum` of floats loses the small one before 3.12 and keeps it from then on."""
    three = {name: {"run": [f"seed={name}"]} for name in "123"}
    claim = claims.made(tmp_path, arms=three, contrast=dict.fromkeys("123", 1))
    assert claim.effect({"1": 1e16, "2": 1.0, "3": -1e16}) == 1.0


def test_jobs_are_unique_and_go_seed_by_seed(tmp_path):
    one = claims.made(tmp_path)
    found = jobs([one, one], scale="small")
    assert [job.seed for job in found] == [11, 11, 12, 12, 13, 13, 14, 14, 15, 15]
    assert jobs([one], scale="gpu") == []
    assert jobs([one], scale="small", series="confirmation") == []


def test_a_job_knows_the_folder_of_its_run(tmp_path):
    """Where it is kept and tracked makes no other run of it."""
    job = Job(("debug=smoke", "optimizer.lr=1e-3", "data.seed=${seed}", "trainer.max_steps=10", *cli.PLAIN), 3)
    done = cli.main(tmp_path, "seed=3", *job.overrides[1:], "logger=none")
    assert list(done.results()) == [job.folder]


SERIES = (("small", "first"), ("gpu", "first"), ("small", "confirmation"), ("small", "later"))
GPU = {job.overrides for job in jobs(EVERY.values(), scale="gpu")}
ARMS = sorted({job.overrides for scale, series in SERIES for job in jobs(EVERY.values(), scale=scale, series=series)})


@pytest.mark.slow
@pytest.mark.parametrize("overrides", ARMS, ids=" ".join)
def test_every_arm_of_this_project_composes(overrides, eight_gpus):
    """Its overrides name keys that are there, it runs under a name of its own, and on a GPU if it says so."""
    config.register_resolvers(project=PROJECT)
    errors, cfg = preflight.examine([*overrides, "seed=11"])
    assert not errors
    assert cfg.seed == 11
    assert cfg.experiment_name != "moe/default"
    assert (cfg.trainer.accelerator == "gpu") == (tuple(overrides) in GPU)


def test_every_row_has_a_key_of_its_own():
    keys = [row.key for row in rows(EVERY, {})]
    assert len(set(keys)) == len(keys)


def test_the_verdicts_take_seeds_that_nobody_explored():
    assert all(min(claim.seeds_of(trial)) > 10 for claim in EVERY.values() for trial in claim.trials)

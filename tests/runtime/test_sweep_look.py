"""What the page of a sweep says equals its table, from its folder and from MLflow."""

import json
import math

import pytest
import yaml
from mlflow import MlflowClient
from omegaconf import OmegaConf

from lightning_modules.common.tables import mean_ci
from lightning_modules.look import page
from lightning_modules.runtime import config, foreign, preflight, sweep, sweep_look, sweep_report
from lightning_modules.runtime import look as look_room
from lightning_modules.runtime.look import look
from tests.runtime.cli import PROJECT
from tests.tracking import database

config.register_resolvers(project=PROJECT)
RATES, ARMS, SEEDS = (0.0001, 0.001, 0.01), ("micro", "global"), (1, 2, 3)
EVIL = "<script>document.title = 'broken'</script>"


def entries(*, failed=True):
    """As sweep.jsonl and the results beside it have them: the more global and the higher the rate, the lower the loss."""
    found = []
    for rate in RATES:
        for arm in ARMS:
            for seed in SEEDS:
                ppl = 60 - 5 * (arm == "global") - math.log10(rate) + 0.3 * seed + (rate == 0.01) * 7
                found.append(
                    {
                        "folder": f"{len(found) // len(SEEDS):08x}-s{seed}",
                        "overrides": [f"balance={arm}", f"optimizer.lr={rate}", "experiment=moe/scope", f"seed={seed}"],
                        "status": "done",
                        "reason": "",
                        "run_id": f"{len(found):032x}",
                        "metrics": {"test/ppl": ppl, "test/top_share": ppl / 100, "test/nan": math.nan},
                    }
                )
    if failed:
        last = {**found.pop(), "status": "failed", "reason": EVIL}
        found.append({k: v for k, v in last.items() if k != "metrics"})
    return found


def drawn(**changes):
    return sweep_look.sweep_page(entries(**changes), objective="test/ppl", shown=["test/top_share"], name="sweep")


def written(folder, found, *, look=None):
    """A sweep's folder as its jobs leave it; look: of their configs."""
    for entry in found:
        job = folder / entry["folder"] / ".hydra"
        job.mkdir(parents=True)
        settings = {"objective_metric": "test/ppl", "shown_metrics": ["test/top_share"]} | (
            {"look": look} if look else {}
        )
        (job / "config.yaml").write_text(yaml.safe_dump(settings))
        if "metrics" in entry:
            (job.parent / "result.json").write_text(json.dumps({k: entry[k] for k in ("metrics", "run_id")}))
        line = {k: entry[k] for k in ("folder", "overrides", "status", "reason")}
        with open(folder / "sweep.jsonl", "a") as file:
            file.write(json.dumps(line) + "\n")
    return folder


def test_estimates_are_those_of_the_seeds():
    found = drawn()
    assert found["metrics"] == ["test/ppl", "test/top_share"], "a metric that is nowhere finite is none"
    assert found["keys"] == ["balance", "optimizer.lr"]
    assert [s["values"]["optimizer.lr"] for s in found["settings"]] == [0.0001, 0.0001, 0.001, 0.001, 0.01, 0.01]
    assert len(found["runs"]) == 17
    for place, setting in enumerate(found["settings"]):
        own = [e for e in entries() if "metrics" in e and set(setting["name"].split()) <= set(e["overrides"])]
        estimate = mean_ci([e["metrics"]["test/ppl"] for e in own])
        mean, half, *seeds = found["estimates"]["test/ppl"][place]
        assert (mean, half, seeds) == (
            pytest.approx(estimate.mean, rel=1e-5),
            pytest.approx(estimate.half_width, rel=1e-5),
            [len(own), len(own)],
        )
        runs = [r for r in found["runs"] if r["setting"] == place]
        assert [r["seed"] for r in runs] == [str(s) for s in SEEDS[: len(own)]]
        assert [r["values"][0] for r in runs] == pytest.approx([e["metrics"]["test/ppl"] for e in own], rel=1e-5)
    assert found["not_done"][0][1:] == ["failed", EVIL]


def test_the_first_sentence_tells_whether_seeds_keep_the_ends_apart():
    said = drawn()["verdict"]
    assert said.startswith("17 of 18 jobs done, in 6 settings. Not compared, as seeds of them failed ")
    assert "test/ppl is lowest with balance=global optimizer.lr=0.001 " in said
    assert said.endswith("their intervals over seeds lie apart.")
    alike = entries(failed=False)
    for number, entry in enumerate(alike):
        entry["metrics"]["test/ppl"] = 50.0 + number % 3 + (number == 0) * 0.1
    assert sweep_look.sweep_page(alike, objective="test/ppl", name="x")["verdict"].endswith("over seeds overlap.")
    single = [e for e in entries() if e["folder"].endswith("-s1")]
    said = sweep_look.sweep_page(single, objective="test/ppl", name="x")["verdict"]
    assert said.endswith("of a setting with one seed nothing tells how far seeds lie apart.")


@pytest.mark.parametrize("how", ["nan", "failed"])
def test_what_is_left_of_a_setting_whose_seeds_diverged_is_not_its_mean(how):
    """The two of three seeds that survive a rate that is too high are the lowest of all."""
    found = entries(failed=False)
    for entry in found:
        if "optimizer.lr=0.01" in entry["overrides"] and "balance=micro" in entry["overrides"]:
            entry["metrics"]["test/ppl"] = 20.0 + entry["folder"].endswith("-s2")
    last = next(e for e in found if e["folder"].endswith("-s3") and e["metrics"]["test/ppl"] == 20.0)
    if how == "nan":
        last["metrics"]["test/ppl"] = math.nan
    else:
        found[found.index(last)] = {k: v for k, v in last.items() if k != "metrics"} | {"status": "failed"}
    drawn = sweep_look.sweep_page(found, objective="test/ppl", name="x")
    told = "Not compared, as seeds of them failed or have no finite test/ppl: balance=micro optimizer.lr=0.01 (2 of 3)."
    assert told in drawn["verdict"]
    assert "lowest with balance=global optimizer.lr=0.001 " in drawn["verdict"]
    place = next(n for n, s in enumerate(drawn["settings"]) if s["name"] == "balance=micro optimizer.lr=0.01")
    assert drawn["estimates"]["test/ppl"][place][2:] == [2, 3 if how == "nan" else 2]


def test_infinity_comes_back_from_a_database_as_infinity(tmp_path):
    """SQLite has none, and MLflow keeps the largest number in its place."""
    client = MlflowClient(database(tmp_path))
    run = client.create_run("0").info.run_id
    for name, value in (("up", math.inf), ("down", -math.inf), ("nan", math.nan), ("one", 1.0)):
        client.log_metric(run, name, value)
    found = foreign.metrics_of(client.get_run(run))
    assert (found["up"], found["down"], found["one"]) == (math.inf, -math.inf, 1.0)
    assert math.isnan(found["nan"])


def test_a_page_of_many_runs_has_a_name_that_a_file_system_takes():
    names = [f"{number:032x}" for number in range(8)]
    assert look_room.folder_of(names[:2]) == "-".join(names[:2])
    assert len(look_room.folder_of(names)) < 255
    assert look_room.folder_of(names) != look_room.folder_of(names[::-1])


def test_many_metrics_are_sampled_and_the_page_says_so(monkeypatch):
    monkeypatch.setattr(sweep_look, "CELLS", 17)
    found = drawn()
    assert (found["metrics"], found["metrics_in_all"]) == (["test/ppl", "test/top_share"], 2)
    found = sweep_look.sweep_page(entries(), objective="test/ppl", name="x")
    assert (found["metrics"], found["metrics_in_all"]) == (["test/ppl"], 2)


@pytest.mark.slow
def test_a_sweep_leaves_its_page_unless_none_is_wanted(tmp_path):
    folder = written(tmp_path / "sweep", entries())
    assert sweep.page(OmegaConf.create({"look": {"page": False}}), folder) is None
    path = sweep.page(OmegaConf.create({"look": {"page": True}, "paths": {"cache": str(tmp_path)}}), folder)
    assert path == folder / page.LOOK
    kept = page.read(path)
    assert kept["kind"] == "sweep"
    assert kept["runs"] == [json.loads(json.dumps(drawn() | {"name": "sweep"}))]
    assert EVIL not in path.read_text()


@pytest.mark.slow
@pytest.mark.parametrize(("asked", "of_jobs"), [("look.text=false", None), ("look.text=true", {"text": False})])
def test_a_reason_may_quote_the_data_and_is_left_out_with_its_text(tmp_path, asked, of_jobs):
    folder = written(tmp_path / "sweep", entries(), look=of_jobs)
    assert look(preflight.check(config.spelled_out([*places(tmp_path), f"look={folder}", asked]))) == 0
    (path,) = (tmp_path / "runs" / "look").glob("*/look.html")
    (found,) = page.read(path)["runs"]
    assert [row[1:] for row in found["not_done"]] == [["failed", "not told (look.text=false)"]]


def test_without_what_draws_pages_the_remedy_is_told_before_anything_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "find_spec", lambda name: None)
    folder = written(tmp_path / "sweep", [e for e in entries() if "metrics" not in e])
    with pytest.raises(ValueError, match="cannot be made here.*`python -m pip install vl-convert-python`"):
        look(preflight.check(config.spelled_out([*places(tmp_path), f"look={folder}"])))


def places(folder):
    return ["debug=smoke", *(f"paths.{name}={folder}/{name}" for name in ("cache", "runs", "tracking"))]


def looked(folder, name):
    assert look(preflight.check(config.spelled_out([*places(folder), f"look={name}"]))) == 0
    (path,) = (folder / "runs" / "look").glob("*/look.html")
    return page.read(path)["runs"][0]


@pytest.mark.slow
def test_its_page_is_made_again_from_its_folder_and_from_the_runs_of_mlflow(tmp_path):
    database(tmp_path / "tracking")
    client = MlflowClient(f"sqlite:///{tmp_path}/tracking/mlflow.db")
    experiment = client.create_experiment("test/sweep", str(tmp_path / "artifacts"))
    parent = client.create_run(experiment, tags={"sweep": "parent"}, run_name="sweep test").info.run_id
    (tmp_path / "config.yaml").write_text(
        yaml.safe_dump({"objective_metric": "test/ppl", "shown_metrics": ["test/top_share"], "paths": {}})
    )
    found = entries()
    for entry in found:
        tags = {
            "mlflow.parentRunId": parent,
            "folder": entry["folder"],
            "mlflow.note.content": f"```bash\npython main.py {' '.join(entry['overrides'])}\n```\n",
        }
        if "metrics" not in entry:
            tags["failure_reason"] = entry["reason"]
        run = entry["run_id"] = client.create_run(experiment, tags=tags, run_name="job").info.run_id
        for name, value in entry.get("metrics", {}).items():
            client.log_metric(run, name, value)
        client.log_artifact(run, str(tmp_path / "config.yaml"))
        client.set_terminated(run, status="FINISHED" if "metrics" in entry else "FAILED")
    from_mlflow = looked(tmp_path, parent)
    expected = sweep_look.sweep_page(found, objective="test/ppl", shown=["test/top_share"], name="sweep test")
    assert from_mlflow == json.loads(json.dumps(expected))
    assert [f.path for f in client.list_artifacts(parent)] == [page.LOOK]
    folder = written(tmp_path / "runs" / "sweep", found)
    assert sweep_report.counts(folder)["done"] == 17
    (tmp_path / "runs" / "look").rename(tmp_path / "before")
    assert looked(tmp_path, folder) == from_mlflow | {"name": "sweep"}
    asked = [*places(tmp_path), f"look={parent}", f"look.text={tmp_path}/config.yaml"]
    cfg = preflight.check(config.spelled_out(asked))
    with pytest.raises(ValueError, match="is a sweep, which reads no text"):
        look(cfg)


def test_a_sweep_of_which_nothing_is_done_is_refused(tmp_path):
    folder = written(tmp_path / "sweep", [e for e in entries() if "metrics" not in e])
    with pytest.raises(ValueError, match="no job of the sweep is done"):
        look(preflight.check(config.spelled_out([*places(tmp_path), f"look={folder}"])))

"""A study that is asked to stop, and one that is watched, replayed, planned and compared."""

import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from mlflow import MlflowClient
from omegaconf import OmegaConf
from torch import nn
from torch.utils.data import DataLoader

from lightning_modules.common.made import made, place_of
from lightning_modules.common.making import Thing, watched_by
from lightning_modules.look import page
from lightning_modules.look.callback import PageCallback
from lightning_modules.runtime import diff, plan, preflight, replay
from lightning_modules.runtime.config import register_resolvers
from lightning_modules.runtime.run import _study, _work, run
from lightning_modules.runtime.study import Desk
from lightning_modules.runtime.teller import Teller
from lightning_modules.runtime.timer import Timer
from lightning_modules.runtime.tracking import Tracker
from lightning_modules.training.inner import inner_trainer, seeded
from lightning_modules.training.stop import Preempted, stoppable
from tests.runtime.cli import PROJECT
from tests.tracking import database


class Line(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def training_step(self, batch):
        return self.layer(batch).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_a_machine_without_what_draws_pages_gets_a_line(tmp_path, monkeypatch, capsys):
    """A GPU machine may bring its own packages: a run of hours must not fail at its last line."""
    monkeypatch.setattr(page, "find_spec", lambda name: None)
    Desk(folder=tmp_path).page("experts", "t", dict)
    assert list(tmp_path.iterdir()) == []
    assert "look.html is not made: vl-convert-python is not installed" in capsys.readouterr().err
    first = SimpleNamespace(is_global_zero=True)
    assert not PageCallback(folder=str(tmp_path)).wants(first)
    assert "look.html is not made" in capsys.readouterr().err
    assert not PageCallback(folder=str(tmp_path), page=False).wants(first)
    Desk(folder=tmp_path, page=False).page("experts", "t", dict)
    assert capsys.readouterr().err == ""


class Asked:
    """Gets a signal, while it trains something or between; `went_on` if it did not stop there."""

    def __init__(self, number, *, training):
        self.number, self.training, self.went_on = number, training, False

    def prepare(self):
        pass

    def run(self, desk):
        def kill(*_):
            os.kill(os.getpid(), self.number)

        if self.training:
            asking = pl.callbacks.LambdaCallback(on_train_batch_start=kill)
            inner_trainer(max_steps=4, callbacks=[asking]).fit(Line(), DataLoader(torch.ones(4, 1)))
        else:
            kill()
        self.went_on = True
        return {}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_where_it_is_and_says_so_by_its_exit_code(tmp_path, number, training):
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    study = Asked(number, training=training)
    with pytest.raises(Preempted) as stopped, stoppable():
        _study(study, Desk(folder=tmp_path))
    assert stopped.value.code == 128 + number
    assert not study.went_on
    assert {n: signal.getsignal(n) for n in before} == before


THREE = [("left", 0), ("left", 1), ("right", 0)]
STEPS = 6


class Trains:
    """Three kept lines of six steps, two of them on one curve; `look` is called in the middle of the last."""

    def __init__(self, cache, look=lambda: None):
        self.cache, self.look = cache, look

    def prepare(self):
        pass

    def fingerprint(self):
        return {"data": "0" * 16}

    def thing(self, name, seed):
        place = place_of(**self.kept(name, seed))
        return Thing("line", name, f"seed {seed}", STEPS, "the test wants it", place, lambda: self.line(name, seed))

    def needs(self):
        return [self.thing(*one) for one in THREE]

    def kept(self, name, seed):
        return {"folder": self.cache / "lines", "key": [name, seed]}

    def line(self, name, seed):
        def make(place):
            def look(trainer, *_):
                if (name, seed) == THREE[-1] and trainer.global_step == 3:
                    self.look()

            looking = pl.callbacks.LambdaCallback(on_train_batch_start=look)
            with seeded(seed):
                inner_trainer(max_steps=STEPS, callbacks=[looking]).fit(Line(), DataLoader(torch.ones(STEPS, 1)))

        return made(**self.kept(name, seed), make=make, thing=self.thing(name, seed))

    def run(self, desk):
        for one in THREE:
            self.line(*one)
        return {"lines": 3.0}


def told(folder, *, look=lambda tracker: None):
    """Run it as `run` does, in `folder`, with MLflow; the tracker."""
    tracker = Tracker(
        folder=folder, uri=database(folder.parent), experiment="test/study", name="s", artifact_location=None, tags={}
    )
    teller = Teller(tracker)
    with watched_by(teller):
        _study(Trains(folder.parent / "cache", lambda: look(tracker)), Desk(folder=folder, tracker=tracker))
        teller.summary()
    tracker.end("FINISHED")
    return tracker


def curves(tracker):
    client = tracker.delivery.client
    names = [n for n in client.get_run(tracker.run_id).data.metrics if not n.startswith("system/")]
    return {n: [(m.step, m.value) for m in client.get_metric_history(tracker.run_id, n)] for n in names}


def test_it_is_live_in_mlflow_while_it_works(tmp_path, capsys):
    seen = {}

    def look(tracker):
        assert tracker.courier.attempt()
        run = tracker.delivery.client.get_run(tracker.run_id)
        seen.update(status=run.info.status, progress=run.data.tags["progress"], curves=curves(tracker))

    tracker = told(tmp_path / "run", look=look)
    assert seen["status"] == "RUNNING"
    assert seen["progress"].startswith("line 3 of 3 (right, seed 0)")
    assert [step for step, _ in seen["curves"]["inner/line/left"]] == list(range(1, 13))
    assert [step for step, _ in seen["curves"]["inner/line/right"]] == [1, 2, 3]
    assert seen["curves"]["progress/of"] == [(0, 3.0)]
    assert seen["curves"]["progress/done"] == [(1, 1.0), (2, 2.0)]
    assert curves(tracker)["progress/done"][-1] == (3, 3.0)
    said = capsys.readouterr().err
    assert "Making line 1 of 3 (left, seed 0), 6 steps. The test wants it; kept in" in said
    assert "line: 3 made in 0:0" in said


def test_a_killed_one_goes_on_and_logs_every_point_once(tmp_path, capsys):
    def die(tracker):
        # As kill -9 leaves it: nothing is ended, what is in the journal stays.
        tracker.courier._stop_asked.set()
        tracker.courier.join()
        raise Preempted(signal.SIGTERM)

    with pytest.raises(Preempted):
        told(tmp_path / "killed" / "run", look=die)
    capsys.readouterr()
    resumed = told(tmp_path / "killed" / "run")
    assert "line left, seed 0: kept from before" in capsys.readouterr().err.replace(" 1 of 3 (", " ").replace(")", "")
    whole = told(tmp_path / "whole" / "run")
    assert curves(resumed) == curves(whole)


SMALL = [
    "experiment=prompt/skill_neurons",
    "experiment_name=test/study",
    "backbone.steps=12",
    "backbone.sentences=300",
    "tuning.steps=6",
    *(f"language.{split}=48" for split in ("train", "val", "test")),
    "study.trials=2",
    "study.permutations=2",
    "study.tasks=[sentiment_film,number_film]",
]


def places(folder):
    return [f"paths.{name}={folder}/{name}" for name in ("cache", "runs", "tracking")]


def composed(folder, *overrides):
    """The config of one job, resolved while Hydra's own node is there, as main.py gets it."""
    database(folder / "tracking")
    ((_, plain),) = [
        (name, OmegaConf.to_container(OmegaConf.masked_copy(cfg, [k for k in cfg if k != "hydra"]), resolve=True))
        for name, cfg in preflight.every_job([*SMALL, *places(folder), *overrides])
    ]
    return OmegaConf.create(plain)


def ran(folder, *overrides):
    """Run id of the small study, run as main.py runs it."""
    cfg = composed(folder, *overrides)
    place = folder / "runs" / f"s{cfg.seed}"
    place.mkdir(parents=True)
    return run(cfg, folder=place, overrides=list(overrides))["run_id"]


def replayed(folder, run_id, *overrides):
    return replay.replay(run_id, here=composed(folder, *overrides))


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """(folder, client, ids of the small study with two seeds); it was planned before it ran."""
    register_resolvers(project=PROJECT)
    folder = tmp_path_factory.mktemp("study")
    plans = planned(folder)
    cache = sorted((folder / "cache").rglob("*"))
    ids = [ran(folder), ran(folder, "seed=2")]
    return folder, MlflowClient(f"sqlite:///{folder}/tracking/mlflow.db"), ids, plans, cache


def planned(folder):
    return [found for _, found in plan.plans(preflight.every_job(["-m", *SMALL, *places(folder), "seed=1,2"]))]


@pytest.mark.slow
def test_a_plan_counts_what_is_missing_and_makes_nothing(two, capsys):
    folder, _, _, before, cache = two
    assert [(p["backbone: to make"], p["prompt: to make"]) for p in before] == [(1, 4), (0, 4)]
    assert [(p["backbone: kept already"], p["prompt: kept already"]) for p in before] == [(0, 0), (1, 0)]
    assert before[0]["steps"] == 12 + 4 * 6
    assert before[0]["seconds"] == pytest.approx(
        before[0]["backbone: seconds each"] + 4 * before[0]["prompt: seconds each"]
    )
    assert 0 < before[0]["prompt: seconds each"] < 30
    assert not [p for p in cache if p.is_file()]
    after = planned(folder)
    assert [(p["prompt: to make"], p["prompt: kept already"], p["seconds"]) for p in after] == [(0, 4, 0)] * 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_plan_for_a_gpu_that_is_not_here_counts_and_times_nothing(tmp_path, monkeypatch):
    """A larger study took nine minutes on the CPU, and then said that the time needs the machine."""
    register_resolvers(project=PROJECT)
    monkeypatch.setattr(Timer, "making", never)
    ((_, found),) = plan.plans(preflight.every_job([*SMALL, *places(tmp_path), "trainer=gpu", "seed=1"]))
    assert (found["backbone: to make"], found["prompt: to make"], found["steps"]) == (1, 4, 12 + 4 * 6)
    assert found["seconds"] == plan.NEEDS_MACHINE
    assert not [name for name in found if "seconds each" in name or "memory" in name]


@pytest.mark.slow
def test_a_replay_trains_all_of_it_again_and_is_bitwise_the_same(two, capsys):
    folder, client, (first, _), *_ = two
    assert replayed(folder, first) == 0
    said = capsys.readouterr().err
    assert "tables: bitwise the same." in said
    assert "backbone: 1 made in" in said and "prompt: 4 made in" in said
    (again,) = client.search_runs([client.get_run(first).info.experiment_id], f"tags.replay_of = '{first}'")
    assert again.data.tags["replay.verdict"] == "bitwise the same"


@pytest.mark.slow
def test_a_faulty_table_or_metric_is_found(two, capsys):
    """Of the second run, so that the other tests have the first."""
    folder, client, (_, second), *_ = two
    path = Path(client.download_artifacts(second, "tables/layers.csv"))
    lines = path.read_text().splitlines()
    lines[3] = lines[3].replace("0.", "0.9", 1)
    client.log_text(second, "\n".join(lines), "tables/layers.csv")
    client.log_metric(second, "prompt/best_neuron", 0.123, step=0, timestamp=2**41)
    assert replayed(folder, second, "replay_from_cache=true") == 1
    said = capsys.readouterr().err
    assert "prompt: 4 kept from before" in said
    assert "layers row 3, 'predictivity of its top neurons': 0.9" in said
    assert "prompt/best_neuron parts at step 0: 0.123 then, 0." in said
    assert "ties row" not in said


@pytest.mark.slow
def test_diff_names_the_tables_that_differ(two):
    _, client, ids, *_ = two
    rows = {(kind, name.split()[0]) for kind, name, _, _ in diff.differences(client, *ids)}
    assert {("table", "layers"), ("table", "best_neurons"), ("metric", "prompt/best_over_null")} <= rows
    assert ("config", "seed") in rows
    assert not [name for _, name in rows if name.startswith(("system/", "progress/"))]
    assert diff.differences(client, ids[0], ids[0]) == []


class Unreadable:
    def prepare_data(self):
        raise ValueError("the file has no rows")


def never(*_):
    raise AssertionError("it takes minutes to make")


def test_data_is_read_before_a_model_is_made(tmp_path):
    places = {"data": {"_target_": f"{__name__}.Unreadable"}, "module": {"_target_": f"{__name__}.never"}}
    cfg = OmegaConf.create({"seed": 1, "study": None, **places})
    with pytest.raises(ValueError, match="the file has no rows"):
        _work(cfg, folder=tmp_path, tracker=None, resume=None)

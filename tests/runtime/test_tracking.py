"""The journal and its delivery: every point once, whatever the server does."""

import json
import os
import socket
import sys
import threading
import time
from functools import partial

import pytest
from mlflow import MlflowClient
from omegaconf import OmegaConf

from lightning_modules.runtime import courier, outcome, owner, sync, tracking
from lightning_modules.runtime.journal import Journal
from tests import forks
from tests.tracking import database

CALM = dict(experiment="test/tracking", name="a run", artifact_location=None, tags={})


def tracker(folder, uri):
    made = tracking.Tracker(folder=folder, uri=uri, **CALM)
    made.courier.interval = 0.2
    return made


@pytest.fixture
def uri(tmp_path):
    return database(tmp_path / "db")


def history(uri, run_id, key):
    return [(m.step, m.value) for m in MlflowClient(uri).get_metric_history(run_id, key)]


def test_points_params_and_the_end_arrive(tmp_path, uri):
    made = tracker(tmp_path / "run", uri)
    made.params({"a": "1"})
    for step in range(300):
        made.log_metrics({"x": step / 3, "y": float("nan") if step == 7 else 1.0}, step)
    made.text("note.txt", "hello")
    made.end("FINISHED")
    run = MlflowClient(uri).get_run(made.run_id)
    assert history(uri, made.run_id, "x") == [(s, s / 3) for s in range(300)]
    assert len(history(uri, made.run_id, "y")) == 300
    assert (run.info.status, run.data.params) == ("FINISHED", {"a": "1"})
    assert run.info.run_name == "a run"


def test_a_pause_between_a_kill_and_the_next_start_is_no_time_of_the_run(tmp_path, uri, monkeypatch):
    now = [10_000.0]
    monkeypatch.setattr(tracking.time, "time", lambda: now[0])
    first = tracker(tmp_path / "run", uri)
    now[0] += 60
    first.log_metrics({"x": 1.0}, 1)
    first.courier._stop_asked.set()
    first.courier.join()
    now[0] += 8 * 3600
    second = tracker(tmp_path / "run", uri)
    now[0] += 30
    second.log_metrics({"x": 2.0}, 2)
    now[0] += 5
    second.end("FINISHED")
    run = MlflowClient(uri).get_run(second.run_id)
    assert float(run.data.tags["running_seconds"]) == pytest.approx(95)


def test_a_resumed_run_logs_no_point_twice_and_notes_changed_parameters(tmp_path, uri):
    first = tracker(tmp_path / "run", uri)
    first.params({"a": "1", "b": "2"})
    for step in range(10):
        first.log_metrics({"x": float(step)}, step)
    # As if killed: neither ended nor closed, the last points perhaps not sent.
    first.courier._stop_asked.set()
    first.courier.join()
    second = tracker(tmp_path / "run", uri)
    assert second.run_id == first.run_id
    second.params({"a": "1", "b": "3"})
    for step in range(5, 15):
        second.log_metrics({"x": float(step)}, step)
    second.end("FINISHED")
    assert history(uri, second.run_id, "x") == [(s, float(s)) for s in range(15)]
    run = MlflowClient(uri).get_run(second.run_id)
    assert run.data.tags["param_drift"] == "b: 2 -> 3"
    assert run.data.params["b"] == "2"


def test_what_was_sent_but_not_marked_is_not_sent_again(tmp_path, uri):
    made = tracker(tmp_path / "run", uri)
    made.log_metrics({"x": 1.0}, 1)
    made.end("FINISHED")
    journal = Journal(tmp_path / "run")
    # The process died between the server's answer and the mark.
    offsets = [0, *(offset for offset, _ in journal.entries())]
    journal.mark(offsets[0])
    assert courier.Delivery(journal, uri=uri, run_id=made.run_id).deliver() > 0
    assert history(uri, made.run_id, "x") == [(1, 1.0)]
    runs = MlflowClient(uri).search_runs(["1"])
    assert len(runs) == 1


def test_a_half_written_line_is_cut_off(tmp_path):
    journal = Journal(tmp_path)
    journal.append("metrics", points=[["x", 1.0, 0, 1]])
    journal.close()
    with open(journal.path, "ab") as file:
        file.write(b'{"kind": "metrics", "poi')
    again = Journal(tmp_path)
    again.append("metrics", points=[["x", 2.0, 0, 2]])
    assert [entry["points"][0][3] for _, entry in again.entries()] == [1, 2]
    assert again.last_steps() == {"x": 2}


def test_a_name_that_mlflow_does_not_take_is_spelled_so_that_it_does(tmp_path, uri):
    """Domains are called as folders are."""
    made = tracker(tmp_path / "run", uri)
    names = {"val/ppl_C++": 1.0, "val/ppl_C#": 2.0, "val/ppl_R (stats)": 3.0, "val/ppl_" + 300 * "x": 4.0}
    made.log_metrics(names, 1)
    made.end("FINISHED")
    found = MlflowClient(uri).get_run(made.run_id)
    assert found.info.status == "FINISHED"
    assert sorted(found.data.metrics.values()) == [1.0, 2.0, 3.0, 4.0]
    assert found.data.metrics["val/ppl_C-2b-2b"] == 1.0


def test_one_parameter_of_a_name_that_mlflow_does_not_take_keeps_no_other_back(tmp_path, uri, capsys):
    given = {"seed": 1, "data": {"hub": {"C++": {"path": "json"}}, "seq_len": 8}, "model": {"_target_": "it"}}
    made = tracker(tmp_path / "run", uri)
    made.params(tracking.short_params(given))
    made.end("FINISHED")
    found = MlflowClient(uri).get_run(made.run_id).data.params
    assert found == {"seed": "1", "data.hub.C-2b-2b.path": "json", "data.seq_len": "8"}
    assert "refuses" not in capsys.readouterr().out


def test_names_and_tags_are_as_long_as_postgresql_takes_them(tmp_path, uri):
    """It has 250 characters for a run's name and 8,000 for a tag's value, and refuses the run that has more."""
    (tmp_path / "run").mkdir()
    calm = CALM | {"name": f"data.hub={300 * 'x'} s17", "tags": {"setting": 9000 * "y"}}
    for _ in range(2):  # the second goes on with it
        made = tracking.Tracker(folder=tmp_path / "run", uri=uri, **calm)
        made.end("FINISHED")
    run = MlflowClient(uri).get_run(made.run_id)
    assert len(run.info.run_name) == 250
    assert run.info.run_name.startswith("data.hub=xxx") and run.info.run_name.endswith("xxx s17")
    assert max(map(len, run.data.tags.values())) <= 8000


def test_what_mlflow_refuses_for_good_keeps_nothing_else_back(tmp_path, uri, capsys):
    made = tracker(tmp_path / "run", uri)
    made.journal.append("metrics", points=[["not+lawful", 1.0, 0, 1]])
    made.tags({"after": "it"})
    made.end("FINISHED")
    said = capsys.readouterr().out
    assert "MLflow refuses what this run tells it: metrics: " in said
    assert "away" not in said
    run = MlflowClient(uri).get_run(made.run_id)
    assert (run.info.status, run.data.tags["after"]) == ("FINISHED", "it")
    (kept,) = map(json.loads, (tmp_path / "run" / "tracking.refused.jsonl").read_text().splitlines())
    assert kept["points"] == [["not+lawful", 1.0, 0, 1]]
    assert sync.sync(tmp_path) == {}


def test_a_journal_that_lost_its_end_with_the_machine_is_delivered_anew(tmp_path, uri):
    """The mark is renamed into place, which a file system may keep before the lines that it counts."""
    first = tracker(tmp_path / "run", uri)
    for step in range(10):
        first.log_metrics({"x": float(step)}, step)
        first.courier.attempt()
    first.courier._stop_asked.set()
    first.courier.join()
    path = tmp_path / "run" / "tracking.jsonl"
    os.truncate(path, int(path.stat().st_size * 0.8))
    assert Journal(tmp_path / "run").torn
    second = tracker(tmp_path / "run", uri)
    for step in range(5, 15):
        second.log_metrics({"x": float(step)}, step)
    second.end("FINISHED")
    assert sorted({step for step, _ in history(uri, second.run_id, "x")}) == list(range(15))
    assert len(history(uri, second.run_id, "x")) == 15
    assert sync.sync(tmp_path) == {}


def test_a_run_goes_to_where_it_was_logged_last(tmp_path, uri):
    first = tracker(tmp_path / "run", "http://127.0.0.1:1")
    first.courier._stop_asked.set()
    first.courier.join()
    first.journal.close()
    second = tracker(tmp_path / "run", uri)
    second.courier._stop_asked.set()
    second.courier.join()
    second.journal.close()
    assert sync.deliver(tmp_path / "run") == 3
    assert len(MlflowClient(uri).search_runs(["1"])) == 1


def test_a_run_that_was_stopped_while_it_told_its_end_is_told_by_the_same_command(tmp_path, uri, capsys):
    made = tracker(tmp_path / "run", uri)
    made.log_metrics({"x": 1.0}, 1)
    made.courier.attempt()
    made.courier._stop_asked.set()
    made.courier.join()
    made.journal.append("end", status="FINISHED")
    made.journal.close()
    assert MlflowClient(uri).get_run(made.run_id).info.status == "RUNNING"
    sync.catch_up(tmp_path / "run")
    assert MlflowClient(uri).get_run(made.run_id).info.status == "FINISHED"
    assert "MLflow had not been told all of it: 1 entries delivered." in capsys.readouterr().err
    sync.catch_up(tmp_path / "run")
    assert "MLflow" not in capsys.readouterr().err


def test_one_journal_that_cannot_be_read_keeps_no_other_back(tmp_path, uri):
    for name in ("a", "b"):
        made = tracker(tmp_path / name, uri)
        made.courier._stop_asked.set()
        made.courier.join()
        made.journal.close()
    (tmp_path / "a" / "tracking.jsonl").write_text("no JSON\n")
    outcome = sync.sync(tmp_path)
    assert "not delivered: JSONDecodeError" in outcome[str(tmp_path / "a")]
    assert outcome[str(tmp_path / "b")] == 1


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    """A real `mlflow server`, on SQLite unless told otherwise, that can be stopped and started on the same port."""

    def __init__(self, folder, store=None):
        self.folder, self.port, self.process = folder, free_port(), None
        self.store = store or database(folder / "server")
        self.uri = f"http://127.0.0.1:{self.port}"

    def start(self):
        command = [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--host",
            "127.0.0.1",
            "--port",
            str(self.port),
            "--workers",
            "1",
        ]
        command += [
            "--backend-store-uri",
            self.store,
            "--artifacts-destination",
            f"{self.folder}/art",
        ]
        log = self.folder / "server.log"
        # Jobs are none of tracking, and seven processes for them begin with every server.
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with log.open("w") as out:
            self.process = forks.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True)
        end = time.monotonic() + 90
        while time.monotonic() < end and self.process.poll() is None:
            with socket.socket() as s:
                if s.connect_ex(("127.0.0.1", self.port)) == 0:
                    try:
                        MlflowClient(self.uri).search_experiments(max_results=1)
                        return
                    except Exception:
                        time.sleep(0.2)
            time.sleep(0.2)
        raise AssertionError(f"the server did not come up:\n{log.read_text()[-2000:]}")

    def stop(self):
        os.killpg(self.process.pid, 9)
        self.process.wait()


@pytest.fixture
def server(tmp_path):
    made = Server(tmp_path)
    yield made
    if made.process and made.process.poll() is None:
        made.stop()


def test_a_server_stopped_and_started_in_the_middle_gets_every_point_once(tmp_path, server):
    server.start()
    made = tracker(tmp_path / "run", server.uri)
    for step in range(100):
        made.log_metrics({"x": float(step)}, step)
        if step == 30:
            time.sleep(1)
            server.stop()
        if step == 70:
            server.start()
        time.sleep(0.01)
    made.text("note.txt", "hello")
    made.end("FINISHED")
    assert history(server.uri, made.run_id, "x") == [(s, float(s)) for s in range(100)]
    assert MlflowClient(server.uri).get_run(made.run_id).info.status == "FINISHED"


def test_a_server_away_from_start_to_end_gets_all_by_sync(tmp_path, server, capsys):
    made = tracker(tmp_path / "runs" / "run", server.uri)
    assert made.run_id is None
    made.params({"a": "1"})
    for step in range(20):
        made.log_metrics({"x": float(step)}, step)
    (tmp_path / "figure.txt").write_text("drawn")
    made.artifacts(tmp_path / "figure.txt", "figures")
    made.end("FINISHED")
    assert "`make sync` delivers" in capsys.readouterr().out
    outcome = sync.sync(tmp_path / "runs")
    assert "not delivered" in outcome[str(tmp_path / "runs" / "run")]
    server.start()
    assert sync.sync(tmp_path / "runs")[str(tmp_path / "runs" / "run")] >= 4
    assert sync.sync(tmp_path / "runs") == {}
    client = MlflowClient(server.uri)
    (run,) = client.search_runs([client.get_experiment_by_name("test/tracking").experiment_id])
    assert history(server.uri, run.info.run_id, "x") == [(s, float(s)) for s in range(20)]
    assert run.info.status == "FINISHED"
    assert json.loads((tmp_path / "runs" / "run" / "run.json").read_text())["run_id"] == run.info.run_id
    assert client.list_artifacts(run.info.run_id, "figures")[0].path == "figures/figure.txt"


def test_a_run_folder_that_was_moved_delivers_its_files(tmp_path, uri):
    folder = tmp_path / "then" / "run"
    made = tracker(folder, "http://127.0.0.1:9")
    (folder / "tables").mkdir()
    (folder / "tables" / "a.csv").write_text("a\n1\n")
    made.artifacts(folder / "tables", "tables")
    made.end("FINISHED")
    (tmp_path / "then").rename(tmp_path / "now")
    sync.sync(tmp_path / "now", uri=uri)
    (run,) = MlflowClient(uri).search_runs(["1"])
    assert [f.path for f in MlflowClient(uri).list_artifacts(run.info.run_id, "tables")] == ["tables/a.csv"]
    assert not Journal(tmp_path / "now" / "run").aside.exists()


@pytest.mark.parametrize(
    "deliver", [tracking.Tracker.artifacts, partial(tracking.Tracker.model, task="text-generation")]
)
def test_a_file_that_went_is_told_and_holds_nothing_up(tmp_path, uri, deliver):
    made = tracker(tmp_path / "run", "http://127.0.0.1:9")
    deliver(made, tmp_path / "run" / "went")
    made.log_metrics({"x": 1.0}, 1)
    made.end("FINISHED")
    told = sync.sync(tmp_path, uri=uri)[str(tmp_path / "run")]
    (run,) = MlflowClient(uri).search_runs(["1"])
    assert f"{tmp_path / 'run' / 'went'} is not there any more" in told
    assert json.loads(Journal(tmp_path / "run").aside.read_text())["path"] == "went"
    assert (run.data.metrics["x"], run.info.status) == (1.0, "FINISHED")


def test_a_dead_process_leaves_no_run_running(tmp_path, uri):
    code = f"""
from pathlib import Path
from tests.runtime.test_tracking import CALM, tracking
made = tracking.Tracker(folder=Path({str(tmp_path)!r}) / "run", uri={uri!r}, **CALM)
assert made.run_id
import os; os._exit(9)
"""
    assert forks.run([sys.executable, "-c", code], cwd=os.getcwd(), timeout=120).returncode == 9
    alive = tracker(tmp_path / "alive", uri)
    alive._here = True  # else it would end the dead one itself, with its first delivery
    assert alive.run_id
    (dead,) = owner.reap(alive.delivery, "test/tracking")
    run = MlflowClient(uri).get_run(dead)
    assert run.info.status == "FAILED"
    assert "died without a word" in run.data.tags["failure_reason"]
    assert MlflowClient(uri).get_run(alive.run_id).info.status == "RUNNING"
    assert owner.reap(alive.delivery, "test/tracking") == []
    alive.end("FINISHED")


@pytest.mark.parametrize("other", ["another container", "a clock that was set", "another process of this number"])
def test_a_process_is_known_by_where_its_number_counts(other):
    tags = owner.owner()
    assert owner.lives(tags)
    if other == "another container":
        assert owner.lives({**tags, "facet.place": "host 1", "facet.pid": "999999999"}), "it cannot be seen from here"
        assert not owner.lives({**tags, "facet.pid": "999999999"})
    elif other == "a clock that was set":
        assert owner.lives({**tags, "facet.started": str(float(tags["facet.started"]) + 2)})
    else:
        assert not owner.lives({**tags, "facet.started": str(float(tags["facet.started"]) - 3600)})


def test_why_a_run_stopped_once_is_no_reason_of_its_end(tmp_path, uri):
    first = tracker(tmp_path / "run", uri)
    first.end("KILLED", reason="SIGTERM")
    second = tracker(tmp_path / "run", uri)
    second.end("FINISHED")
    run = MlflowClient(uri).get_run(second.run_id)
    assert (run.info.status, run.data.tags["failure_reason"]) == ("FINISHED", "")


def test_a_job_killed_before_its_first_delivery_is_a_failed_run_of_its_sweep(tmp_path, uri):
    parent = {"mlflow.parentRunId": "0" * 32}
    made = tracking.Tracker(folder=tmp_path / "run", uri=uri, **{**CALM, "tags": parent})
    made.courier._stop_asked.set()
    made.courier.join()
    assert not list(MlflowClient(uri).search_experiments(filter_string="name = 'test/tracking'")), "delivered at once"
    cfg = OmegaConf.create({"logger": {"tracking_uri": uri}})
    outcome.close_child(tmp_path / "run", cfg, status="failed", reason="killed by SIGKILL")
    (run,) = MlflowClient(uri).search_runs(["1"])
    assert (run.info.status, run.data.tags["failure_reason"]) == ("FAILED", "killed by SIGKILL")
    assert parent.items() <= run.data.tags.items()
    assert tracker(tmp_path / "run", uri).run_id == run.info.run_id, "the sweep again goes on with it"


def test_two_processes_on_a_fresh_database(tmp_path):
    uri = f"sqlite:///{tmp_path}/fresh/mlflow.db"
    code = """
import sys
from pathlib import Path
from tests.runtime.test_tracking import CALM, tracking
made = tracking.Tracker(folder=Path(sys.argv[1]), uri=sys.argv[2], **CALM)
made.log_metrics({"x": 1.0}, 1)
made.end("FINISHED")
assert made.run_id
"""
    command = [sys.executable, "-c", code]
    processes = [forks.Popen([*command, str(tmp_path / str(i)), uri]) for i in range(3)]
    assert [p.wait(timeout=300) for p in processes] == [0, 0, 0]
    assert len(MlflowClient(uri).search_runs(["1"])) == 3


def test_a_stopped_run_does_not_wait_for_ever_for_a_delivery_that_hangs():
    hung, over = threading.Event(), threading.Event()

    class Hanging:
        def deliver(self):
            hung.set()
            over.wait(30)

    one = courier.Courier(Hanging(), interval=0.01)
    one.start()
    assert hung.wait(10)
    assert one.close(patience=0.1) is False
    over.set()

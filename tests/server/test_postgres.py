"""A real `mlflow server` on PostgreSQL: `make test-server` starts and stops both."""

import os
import pwd
import shutil
import subprocess
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.runtime.cli import main
from tests.runtime.test_tracking import Server, free_port

BIN = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """Address of a PostgreSQL of its own, on loopback; it refuses to run as root, so then it runs as `postgres`."""
    assert BIN, "no PostgreSQL: install Debian's package postgresql"
    folder = tmp_path_factory.mktemp("postgres")
    port = free_port()
    prefix = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    data = folder / "data"
    if prefix:
        for place in (folder, *folder.parents[:2]):
            place.chmod(0o755)
        data.mkdir()
        shutil.chown(data, pwd.getpwnam("postgres").pw_name)
    calm = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "check": True, "cwd": "/"}
    subprocess.run([*prefix, BIN / "initdb", "-D", data, "-U", "postgres", "--auth=trust"], **calm)
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories="
    control = [*prefix, BIN / "pg_ctl", "-D", data, "-w"]
    subprocess.run([*control, "-o", options, "start"], **calm)
    yield f"postgresql+psycopg2://postgres@127.0.0.1:{port}/postgres"
    subprocess.run([*control, "-m", "immediate", "stop"], **calm)


@pytest.fixture(scope="module")
def server(database, tmp_path_factory):
    made = Server(tmp_path_factory.mktemp("server"), store=database)
    made.start()
    yield made
    made.stop()


def test_a_sweep_on_a_server_with_postgresql(server, tmp_path):
    settings = ["logger=mlflow_server", f"logger.tracking_uri={server.uri}", "experiment_name=test/server"]
    main(tmp_path, "-m", *settings, "seed=1,2", "trainer.log_every_n_steps=1")
    client = MlflowClient(server.uri)
    experiment = client.get_experiment_by_name("test/server")
    runs = client.search_runs([experiment.experiment_id])
    parents = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    assert (len(parents), len(runs)) == (1, 3)
    for run in runs:
        assert run.info.status == "FINISHED"
    for child in (r for r in runs if r not in parents):
        points = client.get_metric_history(child.info.run_id, "train/loss")
        assert [p.step for p in points] == list(range(20))
        assert "figures" in {f.path for f in client.list_artifacts(child.info.run_id)}


def test_a_replay_from_the_server(server, tmp_path):
    settings = ["logger=mlflow_server", f"logger.tracking_uri={server.uri}", "experiment_name=test/replay"]
    (result,) = main(tmp_path, *settings, "trainer.log_every_n_steps=1").results().values()
    done = main(tmp_path, f"replay={result['run_id']}", *settings)
    assert "0 tables: bitwise the same." in done.text

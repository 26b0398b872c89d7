"""What of this machine is not as a config has it, where files decide."""

import contextlib
import sqlite3

import pytest

from lightning_modules.runtime import courier
from lightning_modules.runtime.preflight import places


def database(path, table):
    with contextlib.closing(sqlite3.connect(path)) as file:
        file.execute(f"CREATE TABLE {table} (x)")
    return path


def test_a_database_of_something_else_is_no_place_for_runs(tmp_path):
    text = tmp_path / "a.txt"
    text.write_text("no database\n")
    assert places.no_database(text).startswith("is no SQLite database")
    assert "with a table addresses" in places.no_database(database(tmp_path / "other.db", "addresses"))
    assert places.no_database(tmp_path) == "is a folder; expected a file in it."
    (tmp_path / "empty.db").touch()
    for mine in (tmp_path / "new.db", tmp_path / "empty.db", database(tmp_path / "mlflow.db", "experiments")):
        assert places.no_database(mine) == ""


def test_a_run_is_not_made_among_the_files_of_somebody(tmp_path):
    assert list(places.not_a_runs(tmp_path / "new")) == []
    assert list(places.not_a_runs(tmp_path)) == []
    (tmp_path / "lock.1").touch()
    assert list(places.not_a_runs(tmp_path)) == [], "the run's own first process holds it"
    (tmp_path / "export").mkdir()
    (said,) = places.not_a_runs(tmp_path)
    assert "it holds export and no run" in said
    (tmp_path / ".hydra").mkdir()
    assert list(places.not_a_runs(tmp_path)) == []


def test_a_database_whose_making_was_cut_off_is_made_anew(tmp_path, monkeypatch):
    """MLflow's migrations cannot go on where a kill stopped them: all runs after it would be without tracking."""
    from mlflow.store.db import utils

    path = tmp_path / "mlflow.db"

    def killed(engine):
        with engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE experiments (x)")
        raise KeyboardInterrupt

    monkeypatch.setattr(utils, "_initialize_tables", killed)
    with pytest.raises(KeyboardInterrupt), courier.database_lock(f"sqlite:///{path}"):
        pass
    assert not path.exists()
    made = []
    monkeypatch.setattr(utils, "_initialize_tables", lambda engine: made.append(database(engine.url.database, "runs")))
    with courier.database_lock(f"sqlite:///{path}"):
        assert path.exists()
    with courier.database_lock(f"sqlite:///{path}"):
        assert len(made) == 1

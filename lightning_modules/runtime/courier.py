"""Carries a run's journal to MLflow, in order and exactly once, in a thread of its own.

A server that is away costs nothing: entries stay in the journal and go when it is back, in this run, when the run
is resumed, or by `make sync`.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock

from lightning_modules.common import credentials
from lightning_modules.runtime import logged_model, naming, quiet
from lightning_modules.runtime.journal import Entry, Journal

# The journal is the retry: one of the client itself takes minutes, and creates a run twice whose first answer was lost.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
# It prints addresses, with the password that stands in one.
os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
# Each table of a new database would be a line.
quiet.loggers()

BATCH = 1000
# Codes of MLflow: a name or value that it does not take, a run that somebody deleted.
REFUSED = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE")
RUN_TAG = "facet.run"
TAG_LIMIT = 5000


class GoneError(FileNotFoundError):
    """What was to be delivered was deleted, or moved out of the run's folder."""


class Delivery:
    """One journal and one MLflow run. `run_id` is None until the run has been created on the server."""

    def __init__(self, journal: Journal, *, uri: str, run_id: str | None = None) -> None:
        self.journal, self.uri, self.run_id = journal, uri, run_id
        self._client: Any = None
        # What MLflow takes neither now nor later, a sentence each.
        self.refused: list[str] = []
        # What was sent last may have arrived although nobody was told so; where the journal lost its end with the machine,
        # all that is told again.
        self._doubtful = journal.existed
        self._always_doubtful = journal.torn

    @property
    def client(self) -> Any:
        if self._client is None:
            from mlflow import MlflowClient

            with database_lock(self.uri):
                client = MlflowClient(credentials.real(self.uri))
                client.search_experiments(max_results=1)
            self._client = client
        return self._client

    def deliver(self) -> int:
        """Deliver all that is pending; returns the number of entries. Raises whatever the server's absence raises."""
        done = 0
        try:
            if self.run_id is None and self.journal.delivered:
                self.run_id = self._created_before()
            for offset, entry in merged(self.journal.pending()):
                try:
                    self._send(entry)
                except Exception as error:
                    if not self._is_refusal(error):
                        raise
                    # It would be refused for ever, and all behind it would wait.
                    told = credentials.masked(" ".join(str(error).split()))[:300]
                    self.refused.append(f"{entry['kind']}: {told}")
                    self.journal.set_aside(entry, told)
                self.journal.mark(offset)
                self._doubtful = self._always_doubtful
                done += 1
        except Exception:
            self._doubtful = True
            raise
        return done

    def _is_refusal(self, error: Exception) -> bool:
        """Whether MLflow itself, not something on the way to it, will never take an entry, or nobody can send it."""
        from mlflow.exceptions import MlflowException, RestException

        if isinstance(error, GoneError):
            return True
        itself = isinstance(error, RestException) or not self.uri.startswith("http")
        return isinstance(error, MlflowException) and itself and error.error_code in REFUSED

    def _send(self, entry: Entry) -> None:
        if "path" in entry:
            path = self.journal.path.parent / entry["path"]
            if not path.exists():
                raise GoneError(f"{path} is not there any more")
            entry = {**entry, "path": str(path)}
        getattr(self, f"send_{entry['kind']}")(entry)

    def _created_before(self) -> str:
        """The run that an earlier delivery of this journal created and had no time to write down."""
        _, start = next(self.journal.kinds("start"))
        experiment = self._experiment(start["experiment"], start["artifact_location"])
        (found,) = self.client.search_runs([experiment], f"tags.`{RUN_TAG}` = '{start['uid']}'")
        return found.info.run_id

    def send_start(self, entry: Entry) -> None:
        if self.run_id is None:
            experiment = self._experiment(entry["experiment"], entry["artifact_location"])
            found = (
                self.client.search_runs([experiment], f"tags.`{RUN_TAG}` = '{entry['uid']}'") if self._doubtful else []
            )
            if found:
                self.run_id = found[0].info.run_id
            else:
                tags = {**_cut(entry["tags"]), RUN_TAG: entry["uid"]}
                name = naming.short(entry["name"])
                self.run_id = self.client.create_run(experiment, run_name=name, tags=tags).info.run_id
        else:
            self.client.update_run(self.run_id, status="RUNNING")

    def _experiment(self, name: str, artifact_location: str | None) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is not None:
            return found.experiment_id
        from mlflow.exceptions import MlflowException

        try:
            # Of this kind the UI opens on the table of runs, not on the overview of chat traces.
            kind = {"mlflow.experimentKind": "custom_model_development"}
            return self.client.create_experiment(name, artifact_location=artifact_location, tags=kind)
        except MlflowException:
            # Another process was faster.
            return self.client.get_experiment_by_name(name).experiment_id

    def send_metrics(self, entry: Entry) -> None:
        from mlflow.entities import Metric

        points = entry["points"]
        if self._doubtful:
            there = {
                k: {m.step for m in self.client.get_metric_history(self.run_id, k)} for k in {p[0] for p in points}
            }
            points = [p for p in points if p[3] not in there[p[0]]]
        if points:
            metrics = [Metric(key, value, time, step) for key, value, time, step in points]
            self.client.log_batch(self.run_id, metrics=metrics)

    def send_params(self, entry: Entry) -> None:
        from mlflow.entities import Param

        params = [Param(key, value) for key, value in entry["params"].items()]
        for i in range(0, len(params), 100):
            self.client.log_batch(self.run_id, params=params[i : i + 100])

    def send_tags(self, entry: Entry) -> None:
        from mlflow.entities import RunTag

        tags = [RunTag(key, value) for key, value in _cut(entry["tags"]).items()]
        for i in range(0, len(tags), 100):
            self.client.log_batch(self.run_id, tags=tags[i : i + 100])

    def send_inputs(self, entry: Entry) -> None:
        from mlflow.entities import Dataset, DatasetInput

        dataset = Dataset(entry["name"], entry["digest"], entry["source_type"], entry["source"])
        self.client.log_inputs(self.run_id, [DatasetInput(dataset)])

    def send_text(self, entry: Entry) -> None:
        self.client.log_text(self.run_id, entry["text"], entry["name"])

    def send_artifacts(self, entry: Entry) -> None:
        path = Path(entry["path"])
        if path.is_dir():
            self.client.log_artifacts(self.run_id, str(path), artifact_path=entry["to"])
        else:
            self.client.log_artifact(self.run_id, str(path), artifact_path=entry["to"])

    def send_model(self, entry: Entry) -> None:
        from mlflow.exceptions import MlflowException

        try:
            logged_model.send(self.client, str(self.run_id), entry)
        except MlflowException as error:
            # A server of MLflow 2 has no logged models.
            if error.error_code != "ENDPOINT_NOT_FOUND":
                raise
            self.send_artifacts({"path": entry["path"], "to": "export"})

    def send_end(self, entry: Entry) -> None:
        self.client.set_terminated(self.run_id, status=entry["status"])


def _cut(tags: dict[str, str]) -> dict[str, str]:
    """A database other than SQLite would refuse a longer one, and all that comes behind it would wait for ever."""
    return {key: value[:TAG_LIMIT] for key, value in tags.items()}


def merged(entries: Iterator[tuple[int, Entry]]) -> Iterator[tuple[int, Entry]]:
    """Neighbouring metrics entries become one, of at most `BATCH` points: a request costs more than its points."""
    points: list[Any] = []
    last = 0
    for offset, entry in entries:
        fits = entry["kind"] == "metrics" and len(points) + len(entry["points"]) <= BATCH
        if points and not fits:
            yield last, {"kind": "metrics", "points": points}
            points = []
        if entry["kind"] == "metrics":
            points, last = points + entry["points"], offset
        else:
            yield offset, entry
    if points:
        yield last, {"kind": "metrics", "points": points}


@contextlib.contextmanager
def database_lock(uri: str) -> Iterator[None]:
    """Of several processes that open a fresh SQLite database at once, one makes its tables and the others wait."""
    if not uri.startswith("sqlite:///"):
        yield
        return
    path = Path(uri.removeprefix("sqlite:///"))
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f"{path.name}.lock")):
        if not path.exists() and "?" not in uri:
            made_whole(path)
        yield


def made_whole(path: Path) -> None:
    """Make MLflow's tables under another name first: its migrations cannot go on where a kill cut them off."""
    from mlflow.store.db import utils

    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    engine = utils.create_sqlalchemy_engine(f"sqlite:///{new}")
    utils._initialize_tables(engine)
    engine.dispose()
    os.replace(new, path)


class Courier(threading.Thread):
    """Delivers every `interval` seconds; tells once when the server is away, and when it is back.

    The first delivery too comes after an interval: MLflow's client takes seconds to import, and training goes first.
    """

    def __init__(
        self,
        delivery: Delivery,
        *,
        interval: float = 5.0,
        before: Callable[[], None] = lambda: None,
        after: Callable[[], None] = lambda: None,
    ) -> None:
        """before: called ahead of every delivery, to write down what is measured at that pace; after: behind each that
        came through, and what it raises counts as the server's absence."""
        super().__init__(daemon=True, name="courier")
        self.delivery, self.interval, self.before, self.after = delivery, interval, before, after
        # Whoever wants something delivered now does it in a thread of its own.
        self._one = threading.Lock()
        self._stop_asked = threading.Event()
        self._told = 0
        self.away = False

    def run(self) -> None:
        while not self._stop_asked.wait(self.interval):
            self.before()
            self.attempt()

    def attempt(self) -> bool:
        """True when nothing is left to deliver."""
        with self._one:
            try:
                self.delivery.deliver()
                if refused := self.delivery.refused[self._told :]:
                    self._told += len(refused)
                    more = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
                    aside = self.delivery.journal.aside
                    print(f"MLflow refuses what this run tells it: {refused[0]}{more}; kept in {aside}.")
                self.after()
            except Exception as error:  # the server's absence has many names, and training goes on under each
                if not self.away:
                    print(f"tracking server not reached ({type(error).__name__}); points are kept and delivered later.")
                self.away = True
                return False
            if self.away:
                print("tracking server is back; all points delivered.")
            self.away = False
            return True

    def close(self, *, patience: float | None = None) -> bool:
        """Stop the thread, try a last time; False when something is left for `make sync`.

        patience: seconds that what it is delivering may take, None for as long as it takes.
        """
        self._stop_asked.set()
        if self.is_alive():
            self.join(patience)
            if self.is_alive():
                return False
        return self.attempt()

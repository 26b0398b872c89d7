"""MLflow as the record of a run. Nothing here waits for the server: all goes through the journal."""

import os
import threading
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from omegaconf import OmegaConf
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from lightning_modules.common import credentials
from lightning_modules.runtime import identity, logged_model, naming, records
from lightning_modules.runtime.courier import Courier, Delivery
from lightning_modules.runtime.journal import RUNNING, Journal
from lightning_modules.runtime.owner import PARENT_RUN, owner, reap

PARAM_LIMIT = 250
PARAM_GROUPS = ("model", "balance", "data", "optimizer", "trainer")
SYSTEM = (
    "system/cpu_utilization_percentage",
    "system/system_memory_usage_megabytes",
    "system/process_memory_megabytes",
)

# Seconds that a stopped run waits for what is being delivered.
PATIENCE = 20.0


class Tracker(Logger):
    """Lightning's logger and the runtime's tracker in one; rank 0 only. A resumed run never logs a point twice.

    expected: tags of the run that this one replays.
    """

    expected: Mapping[str, str] | None = None

    def __init__(
        self, *, folder: Path, uri: str, experiment: str, name: str, artifact_location: str | None, tags: dict[str, str]
    ) -> None:
        super().__init__()
        self.folder, self._experiment = folder, experiment
        self.journal = Journal(folder)
        self._seen = self.journal.last_steps() if self.journal.existed else {}
        known = records.run(folder)
        self.resumed = known is not None
        self._known = known or {"uid": uuid.uuid4().hex, "run_id": None, "params": None}
        self.delivery = Delivery(self.journal, uri=uri, run_id=self._known["run_id"])
        self.courier = Courier(self.delivery, before=self._sample, after=self._arrived)
        self._samples = self._seen.get(SYSTEM[0], -1) + 1
        self._here, self._saving = False, threading.Lock()
        self.journal.append(
            "start",
            time=time.time(),
            experiment=experiment,
            artifact_location=artifact_location,
            name=name,
            uid=self._known["uid"],
            uri=uri,
            # A run that dies in its first seconds must still be found under its parent.
            tags={**tags, **owner(), "folder": folder.name},
        )
        if self.resumed:
            self.journal.append("tags", tags={**tags, **owner()})
        self._save_identity()
        self.courier.start()

    def _sample(self) -> None:
        """What the machine does, under the names that MLflow's UI shows as system metrics."""
        memory = psutil.virtual_memory()
        values = (psutil.cpu_percent(), memory.used / 1e6, psutil.Process().memory_info().rss / 1e6)
        self.log_metrics(dict(zip(SYSTEM, values, strict=True)), self._samples)
        self._samples += 1

    def _arrived(self) -> None:
        """Once: the run's id is written down, and runs that died are ended."""
        if not self._here:
            self._save_identity()
            reap(self.delivery, self._experiment)
            self._here = True

    def _save_identity(self) -> None:
        with self._saving:
            self._known["run_id"] = self.delivery.run_id
            records.write_run(self.folder, self._known)

    @property
    def run_id(self) -> str | None:
        """The MLflow run's. It is asked for now where nothing was delivered yet; None while the server is away."""
        if self.delivery.run_id is None and not self.courier.away:
            self.courier.attempt()
        return self.delivery.run_id

    @property
    def name(self) -> str:
        return self._experiment

    @property
    def version(self) -> str:
        return self.folder.name

    def params(self, params: dict[str, str]) -> None:
        """Log them; on a resumed run note what changed as the tag `param_drift` (MLflow's parameters never change)."""
        before = self._known["params"]
        if before is None:
            self._known["params"] = params
            self._save_identity()
            self.journal.append("params", params=params)
        elif drift := {k: [before.get(k), v] for k, v in params.items() if before.get(k) != v}:
            self.tags({"param_drift": "; ".join(f"{k}: {a} -> {b}" for k, (a, b) in drift.items())[:5000]})

    def tags(self, tags: dict[str, str]) -> None:
        self.journal.append("tags", tags={key: credentials.masked(str(value))[:5000] for key, value in tags.items()})

    def text(self, name: str, text: str) -> None:
        self.journal.append("text", name=name, text=credentials.masked(text))

    def artifacts(self, path: Path, to: str | None = None) -> None:
        """A file or a folder; it is read when it is delivered."""
        self.journal.append("artifacts", path=self._kept(path), to=to)

    def model(self, export: Path, *, task: str) -> None:
        """An exported folder as a logged model with the run's metrics of validation and test; `task`: its pipeline's."""
        kept = dict(self.journal.kinds("start", "inputs"))
        data = kept.get("inputs", {"name": None, "digest": None})
        points = logged_model.last_points(self.journal.entries(), wanted=("val/", "test/"))
        about = {"name": kept["start"]["name"], "dataset": [data["name"], data["digest"]], "points": points}
        self.journal.append("model", path=self._kept(export), task=task, **about)

    def _kept(self, path: Path) -> str:
        """Within the run's folder from there on: the folder may be elsewhere when it is delivered."""
        return str(path.relative_to(self.folder) if path.is_relative_to(self.folder) else path)

    def inputs(self, *, name: str, digest: str, source_type: str, source: str) -> None:
        self.journal.append("inputs", name=name, digest=digest, source_type=source_type, source=source)

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        step = step or 0
        now = int(time.time() * 1000)
        named = {naming.lawful(key): value for key, value in metrics.items()}
        fresh = {key: float(value) for key, value in named.items() if step > self._seen.get(key, -1)}
        if fresh:
            self._seen |= dict.fromkeys(fresh, step)
            self.journal.append("metrics", points=[[key, value, now, step] for key, value in fresh.items()])

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """The runtime logs the parameters; Lightning's own are module hyperparameters, of which there are none."""

    def end(self, status: str, *, reason: str = "") -> None:
        """FINISHED, FAILED or KILLED; tells where to deliver from when the server is away."""
        if reason:
            self.tags({"failure_reason": reason})
        elif self.resumed:
            # Why it stopped before is no reason of how it ended.
            self.tags({"failure_reason": ""})
        self.tags({RUNNING: f"{self.journal.running_seconds(until=time.time()):.1f}"})
        self.journal.append("end", status=status, time=time.time())
        # A Ctrl-C within an import may leave that module's lock taken, and the thread waits for it for ever.
        if not self.courier.close(patience=PATIENCE if status == "KILLED" else None):
            print(f"tracking server away at the end: `make sync` delivers {self.journal.path} when it is back.")
        self.journal.close()


class Shown(NamedTuple):
    """What MLflow shows of a run beside its config: overrides for its name, tags, group -> option chosen, and the commit."""

    overrides: list[str]
    tags: dict[str, str]
    options: dict[str, str]
    commit: str = ""


def open_tracker(cfg: Any, *, folder: Path, shown: Shown, expected: Mapping[str, str] | None = None) -> Tracker | None:
    """The tracker of `conf/logger` on rank 0; None for `logger=none` and on every other rank."""
    if cfg.logger is None or not cfg.logger.get("tracking_uri") or rank_zero_only.rank != 0:
        return None
    tags = {"system": cfg.system_name, **naming.source(shown.overrides, commit=shown.commit), **shown.tags}
    if PARENT_RUN in os.environ:
        tags["mlflow.parentRunId"] = os.environ[PARENT_RUN]
    # What the charts of a sweep are grouped by: a setting's seeds together.
    if setting := naming.setting(shown.overrides, naming.apart()):
        tags["setting"] = setting
    tracker = Tracker(
        tags=tags,
        folder=folder,
        uri=credentials.keep(cfg.logger.tracking_uri),
        experiment=cfg.experiment_name,
        name=cfg.run_name or naming.run_name(shown.overrides, cfg.seed, naming.apart()),
        artifact_location=cfg.logger.artifact_location,
    )
    tracker.expected = expected
    resolved: Any = OmegaConf.to_container(cfg, resolve=True)
    tracker.params(short_params(resolved) | shown.options)
    tracker.text("config.yaml", OmegaConf.to_yaml(OmegaConf.create(resolved)))
    return tracker


def short_params(resolved: dict[str, Any]) -> dict[str, str]:
    """What a person compares runs by: every leaf of the groups that define the science, as short strings."""
    params = {"seed": str(resolved["seed"])}
    for group in PARAM_GROUPS:
        leaves = identity.leaves(resolved.get(group) or {}, group)
        params |= {key: credentials.masked(str(value))[:PARAM_LIMIT] for key, value in leaves}
    # One name that MLflow does not take, as of a domain `C++`, and it would refuse all of them.
    return {naming.lawful(key): value for key, value in params.items() if "_target_" not in key}

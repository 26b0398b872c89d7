"""A multirun: one MLflow parent run, and every job a process of its own.

`main()` of a multirun only starts `main.py` again in RUN mode with the job's overrides and its folder, so DDP works
inside a sweep, and a job that dies, whatever of, takes nothing else with it. Jobs tell how they ended in `sweep.jsonl`
beside their folders; the parent run shows it after every job.

Asked to stop, by Ctrl-C or SIGTERM, the sweep hands it on to its job as SIGTERM and notes the wish: nothing is raised
where the signal meets it, so no outcome is lost, and the wish is seen before the next job and at the end.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console

from lightning_modules.common.files import write_atomically
from lightning_modules.common.lock import HELD, HeldError, held
from lightning_modules.runtime import errors, records
from lightning_modules.runtime.courier import Delivery
from lightning_modules.runtime.journal import Journal
from lightning_modules.runtime.tracking import PARENT_RUN, owner, reap

SWEEP = "FACET_SWEEP"
PROJECT = Path(__file__).parents[2]
console = Console(stderr=True)
STOPPED = {sign * number + more for number in (signal.SIGINT, signal.SIGTERM) for sign, more in ((1, 128), (-1, 0))}


class Stopped(BaseException):
    """The sweep was asked to stop: no further job."""


class Wish:
    """Whether this process was asked to stop, and the job that is to be told."""

    def __init__(self) -> None:
        self.told, self.job = False, None

    def listen(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._hear)

    def _hear(self, number: int, _frame: Any) -> None:
        self.told = True
        self.hand_on()

    def hand_on(self) -> None:
        """To the job, or to the processes that jobs side by side run under."""
        workers = [] if self.job else psutil.Process().children()
        for process in [self.job] if self.job else workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGTERM)


wish = Wish()


def run(cfg: DictConfig, main: Callable[[], None]) -> int:
    """Every job of the sweep; the exit code. Raises HeldError when another process is at the same sweep."""
    with held(Path(cfg.hydra.sweep.dir) / "sweep.lock"):
        wish.listen()
        try:
            start(cfg)
        except ValueError as error:
            errors.leave(error)
        try:
            main()
        except BaseException:
            # Side by side, a worker that was told before it could listen takes the others with it.
            if not wish.told:
                raise
        return finish(cfg)


def start(cfg: DictConfig) -> None:
    """Open the parent run of `cfg.hydra.sweep.dir`, or the one that an earlier command opened there."""
    folder = Path(cfg.hydra.sweep.dir)
    folder.mkdir(parents=True, exist_ok=True)
    os.environ[SWEEP] = str(folder)
    if cfg.logger is None or not cfg.logger.get("tracking_uri"):
        return
    parent = records.sweep(folder) or {"run_id": None}
    delivery = Delivery(Journal(folder / ".sweep"), uri=cfg.logger.tracking_uri, run_id=parent["run_id"])
    try:
        reap(delivery, cfg.experiment_name)
        entry = {"experiment": cfg.experiment_name, "artifact_location": cfg.logger.artifact_location}
        tags = {**owner(), "sweep": "parent", "system": cfg.system_name}
        delivery.send_start({**entry, "name": f"sweep {cfg.experiment_name}", "uid": str(folder), "tags": tags})
        delivery.send_tags({"tags": tags})
    except Exception as error:
        console.print(f"tracking server not reached ({type(error).__name__}): this sweep has no parent run.")
        return
    write_atomically(folder / records.SWEEP, json.dumps({"run_id": delivery.run_id, "uri": cfg.logger.tracking_uri}))
    os.environ[PARENT_RUN] = delivery.run_id


def job(cfg: DictConfig) -> float:
    """Run one job in a process of its own; its objective, or nan when it failed (a search takes that as a failure)."""
    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    overrides = list(hydra_config.overrides.task)
    name = " ".join(overrides)
    together = hydra_config.launcher.get("n_jobs", 1) or 1
    wish.listen()
    if wish.told:
        return leave(together)
    if not cfg.fresh:
        try:
            _, done = records.run(folder), records.result(folder)
        except ValueError as error:  # one of the two is damaged: the job would stop at it
            return note(cfg, folder, overrides, status="failed", reason=str(error))
        if done:
            console.print(f"Already done: {name} ({folder}/{records.RESULT}).")
            return note(cfg, folder, overrides, status="done")
    console.print(f"Job {hydra_config.job.num}: {name}")
    command = [sys.executable, str(PROJECT / "main.py"), *overrides, f"hydra.run.dir={folder}"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "failure.txt").unlink(missing_ok=True)
    # Side by side, jobs would write over each other's progress bars; what they say is in their console.log.
    output = subprocess.DEVNULL if together != 1 else None
    wish.job = subprocess.Popen(command, env=environment(together), stdout=output, stderr=output)
    if wish.told:
        wish.hand_on()
    code = wish.job.wait()
    wish.job = None
    if code == 0:
        objective = note(cfg, folder, overrides, status="done")
    elif code in STOPPED:
        objective = note(cfg, folder, overrides, status="stopped", reason="stopped; the same command goes on")
    elif code == HELD:
        objective = note(cfg, folder, overrides, status="failed", reason=who_is_at(folder), mine=False)
    else:
        objective = note(cfg, folder, overrides, status="failed", reason=why(code, folder))
    return leave(together) if wish.told else objective


def leave(together: int) -> float:
    """Jobs side by side are let come to their end: raising would have joblib kill the ones that still save."""
    if together == 1:
        raise Stopped
    return float("nan")


def who_is_at(folder: Path) -> str:
    try:
        with held(folder / "lock"):
            return "another process was at it, and has ended since; the same command goes on"
    except HeldError as other:
        return str(other)


def environment(together: int) -> dict[str, str]:
    """The job's environment: with `together` jobs side by side (-1: one a core), each gets its share of the cores."""
    if together == 1:
        return dict(os.environ)
    cores = os.cpu_count() or 1
    together = cores if together < 0 else together
    return {**os.environ, "OMP_NUM_THREADS": str(max(1, cores // together))}


def why(code: int, folder: Path) -> str:
    """What a failed job died of: what it said itself, or the signal that killed it."""
    said = folder / "failure.txt"
    if code < 0:
        number = signal.Signals(-code)
        return f"killed by {number.name}" + (" (out of memory?)" if number is signal.SIGKILL else "")
    return said.read_text() if said.is_file() else f"exit code {code}"


def note(
    cfg: DictConfig, folder: Path, overrides: list[str], *, status: str, reason: str = "", mine: bool = True
) -> float:
    """Write the outcome down, bring the parent run up to date; the objective, nan when there is none.

    mine: whether the job ran here, so that its MLflow run is to be ended here.
    """
    from lightning_modules.runtime import sweep_report

    sweep = Path(os.environ[SWEEP])
    if status != "done":
        console.print(f"[red]{status}[/red]: {' '.join(overrides)}: {reason}")
        if mine:
            close_child(folder, cfg, status=status, reason=reason)
    with FileLock(sweep / ".lock"):
        line = {"folder": folder.name, "overrides": overrides, "status": status, "reason": reason}
        with open(sweep / "sweep.jsonl", "a") as file:
            file.write(json.dumps(line) + "\n")
        files = sweep_report.write(sweep, objective=cfg.objective_metric, shown=cfg.shown_metrics)
        if PARENT_RUN in os.environ:
            show(cfg, files, sweep_report.counts(sweep))
    if status != "done":
        return float("nan")
    return records.result(folder)["metrics"].get(cfg.objective_metric, float("nan"))


def show(cfg: DictConfig, files: list[Path], counts: dict[str, int]) -> None:
    """The report as artifacts and the counts as tags of the parent run; a server that is away is passed over."""
    from mlflow import MlflowClient

    client, parent = MlflowClient(cfg.logger.tracking_uri), os.environ[PARENT_RUN]
    try:
        for path in files:
            client.log_artifact(parent, str(path))
        for name, count in counts.items():
            client.set_tag(parent, f"jobs.{name}", str(count))
    except Exception as error:
        console.print(f"sweep report not sent ({type(error).__name__}); it is in {files[0].parent}.")


def close_child(folder: Path, cfg: DictConfig, *, status: str, reason: str) -> None:
    """A killed job could not end its own MLflow run: end it here, with the reason."""
    try:
        known = records.run(folder)
    except ValueError:  # it is damaged, which is the reason then
        return
    run_id = known["run_id"] if known else None
    if run_id is None or not cfg.logger.get("tracking_uri"):
        return
    from mlflow import MlflowClient

    try:
        # What the job wrote down and could not send any more goes first.
        Delivery(Journal(folder), uri=cfg.logger.tracking_uri, run_id=run_id).deliver()
        client = MlflowClient(cfg.logger.tracking_uri)
        if client.get_run(run_id).info.status == "RUNNING":
            client.set_tag(run_id, "failure_reason", reason[:5000])
            client.set_terminated(run_id, status="KILLED" if status == "stopped" else "FAILED")
    except Exception as error:
        # The outcome is written down all the same.
        console.print(f"tracking server not reached ({type(error).__name__}): the job's run was not ended.")


def finish(cfg: DictConfig) -> int:
    """End the parent run; the exit code: 0, 1 when a job is not done, 130 when the sweep was asked to stop."""
    from lightning_modules.runtime import sweep_report

    counts = sweep_report.counts(Path(os.environ[SWEEP]))
    left = counts["failed"] + counts["stopped"]
    if PARENT_RUN in os.environ:
        from mlflow import MlflowClient

        status = "KILLED" if wish.told else "FAILED" if left else "FINISHED"
        try:
            MlflowClient(cfg.logger.tracking_uri).set_terminated(os.environ[PARENT_RUN], status=status)
        except Exception as error:
            console.print(f"tracking server not reached ({type(error).__name__}): the parent run was not ended.")
    if wish.told:
        console.print("Stopped. The same command goes on where it was.")
        return 130
    return 1 if left else 0

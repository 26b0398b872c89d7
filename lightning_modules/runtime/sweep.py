"""A multirun: one MLflow parent run, and every job a process of its own.

`main()` of a multirun only starts `main.py` again in RUN mode with the job's overrides and its folder, so DDP works
inside a sweep, and a job that dies, whatever of, takes nothing else with it. Jobs tell how they ended in `sweep.jsonl`
beside their folders; the parent run shows it after every job.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console

from lightning_modules.common.files import locked, write_atomically
from lightning_modules.runtime import records
from lightning_modules.runtime.courier import Delivery
from lightning_modules.runtime.journal import Journal
from lightning_modules.runtime.tracking import PARENT_RUN, owner, reap

SWEEP = "FACET_SWEEP"
PROJECT = Path(__file__).parents[2]
console = Console(stderr=True)


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
    together = hydra_config.launcher.get("n_jobs", 1) or 1
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "failure.txt").unlink(missing_ok=True)
    # Side by side, jobs would write over each other's progress bars; what they say is in their console.log.
    output = subprocess.DEVNULL if together != 1 else None
    process = subprocess.Popen(command, env=environment(together), stdout=output, stderr=output)
    try:
        code = process.wait()
    except (KeyboardInterrupt, Stopped):
        # Ctrl-C reaches the job too; a SIGTERM does not. Either way it saves, and then the sweep ends.
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait()
        note(cfg, folder, overrides, status="stopped", reason="stopped; the same command goes on")
        raise
    if code == 0:
        return note(cfg, folder, overrides, status="done")
    return note(cfg, folder, overrides, status="failed", reason=why(code, folder))


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


def note(cfg: DictConfig, folder: Path, overrides: list[str], *, status: str, reason: str = "") -> float:
    """Write the outcome down, bring the parent run up to date; the objective, nan when there is none."""
    from lightning_modules.runtime import sweep_report

    sweep = Path(os.environ[SWEEP])
    if status != "done":
        console.print(f"[red]{status}[/red]: {' '.join(overrides)}: {reason}")
        close_child(folder, cfg, status=status, reason=reason)
    with locked(sweep / ".lock"):
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

    # What the job wrote down and could not send any more goes first.
    Delivery(Journal(folder), uri=cfg.logger.tracking_uri, run_id=run_id).deliver()
    client = MlflowClient(cfg.logger.tracking_uri)
    if client.get_run(run_id).info.status == "RUNNING":
        client.set_tag(run_id, "failure_reason", reason[:5000])
        client.set_terminated(run_id, status="KILLED" if status == "stopped" else "FAILED")


class Stopped(BaseException):
    """SIGTERM reached the sweep."""


def finish(cfg: DictConfig, *, stopped: bool = False) -> int:
    """End the parent run; the exit code: 0, 1 when a job failed, 130 when it was stopped."""
    from lightning_modules.runtime import sweep_report

    counts = sweep_report.counts(Path(os.environ[SWEEP]))
    if PARENT_RUN in os.environ:
        from mlflow import MlflowClient

        status = "KILLED" if stopped else "FAILED" if counts["failed"] else "FINISHED"
        MlflowClient(cfg.logger.tracking_uri).set_terminated(os.environ[PARENT_RUN], status=status)
    if stopped:
        console.print("Stopped. The same command goes on where it was.")
        return 130
    return 1 if counts["failed"] else 0

"""A multirun: one MLflow parent run, and every job a process of its own.

`main()` of a multirun only starts `main.py` again in RUN mode with the job's overrides and its folder, so DDP works
inside a sweep, and a job that dies, whatever of, takes nothing else with it. On the CPU it is a fork of a process that has
everything imported (`forks.py`). How each ended is noted in `sweep.jsonl`
beside their folders (`outcome.py`); the parent run shows it after every job. On a SLURM cluster jobs are only submitted
here (`cluster.py`), and their launcher waits for them.

Asked to stop, by Ctrl-C or SIGTERM, the sweep hands it on to its job as SIGTERM and notes the wish: nothing is raised
where the signal meets it, so no outcome is lost, and the wish is seen before the next job and at the end.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import psutil
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.markup import escape

from lightning_modules.common import credentials
from lightning_modules.common.files import write_atomically
from lightning_modules.common.lock import held
from lightning_modules.runtime import (
    begun,
    devices,
    errors,
    forks,
    naming,
    outcome,
    provenance,
    records,
    slurm,
    sweep_report,
    sync,
)
from lightning_modules.runtime.cluster import Cluster, Job, SilentError
from lightning_modules.runtime.courier import Delivery
from lightning_modules.runtime.journal import Journal
from lightning_modules.runtime.load import cores
from lightning_modules.runtime.outcome import SWEEP
from lightning_modules.runtime.owner import PARENT_RUN, owner, reap

PROJECT = Path(__file__).parents[2]
console = Console(stderr=True)


class Stopped(BaseException):
    """The sweep was asked to stop: no further job."""


class Told(Protocol):
    """What can be told to stop: a process, or the jobs of a cluster."""

    def send_signal(self, number: int, /) -> None: ...


class Wish:
    """Whether this process was asked to stop, and the job that is to be told."""

    def __init__(self) -> None:
        self.told = False
        self.job: Told | None = None
        self._not_ours: set[int] = set()

    def listen(self) -> None:
        # What stood under this process before the sweep is no part of it.
        self._not_ours = {child.pid for child in psutil.Process().children()}
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._hear)

    def _hear(self, number: int, _frame: Any) -> None:
        self.told = True
        self.hand_on()

    def hand_on(self) -> None:
        """To the job, or to the processes that jobs side by side run under."""
        workers = [] if self.job else [p for p in psutil.Process().children() if p.pid not in self._not_ours]
        for process in [self.job] if self.job else workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGTERM)


wish = Wish()
cluster = Cluster(told=lambda: wish.told)


def run(cfg: DictConfig, main: Callable[[], None], overrides: Sequence[str] = ()) -> int:
    """Every job of the sweep; the exit code. Raises HeldError when another process is at the same sweep.

    overrides: of the command line, for the names of the jobs.
    """
    with held(Path(cfg.hydra.sweep.dir) / "sweep.lock"):
        wish.listen()
        try:
            if devices.submitted(cfg):
                slurm.is_there()
            os.environ[naming.SWEPT] = ",".join(naming.swept(cfg, overrides))
            start(cfg, overrides)
        except ValueError as error:
            errors.leave(error)
        try:
            main()
        except BaseException as error:
            # Side by side, a worker that was told before it could listen takes the others with it.
            if not wish.told:
                code, done = finish(cfg, whole=False), sweep_report.counts(Path(os.environ[SWEEP]))["done"]
                searches = OmegaConf.select(cfg, "hydra.sweeper.direction")
                if searches and code and not done and isinstance(error, ValueError):
                    # Optuna's "Record does not exist.", of the best of none.
                    console.print("No trial of the search came to a number: there is no best one.")
                    return code
                raise
        return finish(cfg)


def start(cfg: DictConfig, overrides: Sequence[str] = ()) -> None:
    """Open the parent run of `cfg.hydra.sweep.dir`, or the one that an earlier command opened there."""
    folder = Path(cfg.hydra.sweep.dir)
    folder.mkdir(parents=True, exist_ok=True)
    os.environ[SWEEP] = str(folder)
    (folder / outcome.THIS_COMMAND).unlink(missing_ok=True)
    if sought := OmegaConf.select(cfg, "hydra.sweeper.direction"):
        least = {"minimize": "smallest", "maximize": "largest"}.get(str(sought), str(sought))
        console.print(f"A search for the {least} {cfg.objective_metric}.", highlight=False)
    if cfg.logger is None or not cfg.logger.get("tracking_uri"):
        return
    parent = records.sweep(folder) or {"run_id": None}
    delivery = Delivery(Journal(folder / ".sweep"), uri=cfg.logger.tracking_uri, run_id=parent["run_id"])
    try:
        reap(delivery, cfg.experiment_name)
        entry = {"experiment": cfg.experiment_name, "artifact_location": cfg.logger.artifact_location}
        told = naming.source(overrides, commit=provenance.head())
        tags = {**owner(), **told, "sweep": "parent", "system": cfg.system_name}
        delivery.send_start({**entry, "name": f"sweep {cfg.experiment_name}", "uid": str(folder), "tags": tags})
        delivery.send_tags({"tags": tags})
    except Exception as error:
        console.print(f"tracking server not reached ({type(error).__name__}): this sweep has no parent run.")
        return
    write_atomically(folder / records.SWEEP, json.dumps({"run_id": delivery.run_id, "uri": cfg.logger.tracking_uri}))
    assert delivery.run_id is not None
    os.environ[PARENT_RUN] = delivery.run_id


def job(cfg: DictConfig) -> Job | float | None:
    """Run one job in a process of its own; its objective, None when it failed (a search takes that as a failure).

    On a cluster the job is only submitted, and returned itself.
    """
    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    overrides = list(hydra_config.overrides.task)
    name = " ".join(overrides)
    together = hydra_config.launcher.get("n_jobs", 1) or 1
    wish.listen()
    if wish.told:
        leave(together)
        return None
    if not cfg.fresh:
        try:
            begun.check(cfg, folder, here="setup" not in hydra_config.launcher)
            _, done = records.run(folder), records.result(folder)
        except ValueError as error:  # it is another's, or a record is damaged: the job would stop at it
            return outcome.note(cfg, folder, overrides, status="failed", reason=str(error))
        if done:
            sync.catch_up(folder)
            console.print(
                f"Already done: {name} ({folder}/{records.RESULT}).", soft_wrap=True, markup=False, highlight=False
            )
            return outcome.note(cfg, folder, overrides, status="done")
    command = [sys.executable, str(PROJECT / "main.py"), *overrides, f"hydra.run.dir={folder}"]
    folder.mkdir(parents=True, exist_ok=True)
    if "setup" in hydra_config.launcher:
        given: Any = OmegaConf.to_container(hydra_config.launcher)
        return submit(Job(cfg, given, folder, overrides, command))
    console.print(f"Job {hydra_config.job.num}: {name}", soft_wrap=True, markup=False, highlight=False)
    (folder / "failure.txt").unlink(missing_ok=True)
    # Side by side, jobs would write over each other's progress bars; what they say is in their console.log.
    output = subprocess.DEVNULL if together != 1 else None
    if forks.possible(cfg) and forks.up_to_date():
        wish.job = forks.Fork(command, environment=environment(together), silent=together != 1)
    else:
        wish.job = subprocess.Popen(command, env=environment(together), stdout=output, stderr=output)
    if wish.told:
        wish.hand_on()
    code = wish.job.wait()
    wish.job = None
    if code == forks.LOST and (folder / records.RESULT).is_file():
        # How it ended is not known, but it did what it was to do.
        code = 0
    objective = outcome.settle(cfg, folder, overrides, code=code)
    if wish.told:
        leave(together)
        return None
    return objective


def submit(job: Job) -> Job | float | None:
    """A job that SLURM takes: its launcher puts the objective in its place."""
    wish.job = cluster
    try:
        cluster.take(job)
    except ValueError as error:
        # One that may be at work ends its MLflow run itself.
        mine = not isinstance(error, SilentError)
        return outcome.note(job.cfg, job.folder, job.overrides, status="failed", reason=str(error), mine=mine)
    return job


def leave(together: int) -> None:
    """Jobs side by side are let come to their end: raising would have joblib kill the ones that still save."""
    if together == 1:
        raise Stopped


def environment(together: int) -> dict[str, str]:
    """The job's environment: with `together` jobs side by side (-1: one a core), each gets its share of the cores."""
    if together == 1:
        return dict(os.environ)
    own = len(cores())
    together = own if together < 0 else together
    return {**os.environ, "OMP_NUM_THREADS": str(max(1, own // together))}


def page(cfg: DictConfig, folder: Path) -> Path | None:
    """`look.html` beside the report, where one is wanted, can be drawn and has anything to show."""
    from lightning_modules.look.page import LOOK, can_be_drawn, write
    from lightning_modules.runtime import sweep_look

    wanted = (cfg.get("look") or {}).get("page", True) and can_be_drawn()
    if not (wanted and sweep_report.counts(folder)["done"]):
        return None
    data, cache = {"runs": [sweep_look.of_folder(folder)]}, Path(cfg.paths.cache)
    return write(folder / LOOK, kind=sweep_look.KIND, title=sweep_look.TITLE, data=data, cache=cache)


def finish(cfg: DictConfig, *, whole: bool = True) -> int:
    """Tell what is not done and end the parent run; the exit code: 0, 1 when a job is not done, 130 when the sweep was
    asked to stop. whole: whether it came to its end."""
    folder = Path(os.environ[SWEEP])
    mine = outcome.of_this_command(folder)
    undone = sweep_report.not_done(folder)
    left = [entry for entry in undone if entry["folder"] in mine]
    for entry in left:
        console.print(
            escape(f"{entry['status']}: {' '.join(entry['overrides'])}: {entry['reason']}"), style="red", soft_wrap=True
        )
    if left:
        console.print(f"{len(left)} of the sweep's jobs not done; the same command runs them again.")
    if earlier := len(undone) - len(left):
        console.print(f"Of earlier commands {earlier} not done either, which {folder}/report.md names.", soft_wrap=True)
    for sentence in sweep_report.mixed(folder, sweep_report.settings(folder)):
        console.print(escape(f"No mean of these: {sentence}"), style="red", soft_wrap=True)
    if sweep_report.jobs(folder):
        outcome.catch_up(cfg, folder)
    look = None if wish.told else page(cfg, folder)
    if PARENT_RUN in os.environ:
        status = "KILLED" if wish.told else "FAILED" if left or not whole else "FINISHED"
        try:
            client = credentials.client(cfg.logger.tracking_uri)
            if look:
                client.log_artifact(os.environ[PARENT_RUN], str(look))
            client.set_terminated(os.environ[PARENT_RUN], status=status)
        except Exception as error:
            console.print(f"tracking server not reached ({type(error).__name__}): the parent run was not ended.")
    if wish.told:
        console.print("Stopped. The same command goes on where it was.")
        return 130
    return 1 if left else 0

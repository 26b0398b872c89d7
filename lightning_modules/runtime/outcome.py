"""How a job of a sweep ended: noted in `sweep.jsonl`, shown by the parent run, and the job's own MLflow run ended."""

import json
import math
import os
import signal
from pathlib import Path

from filelock import FileLock
from omegaconf import DictConfig
from rich.console import Console
from rich.markup import escape

from lightning_modules.common import credentials
from lightning_modules.common.files import ends_a_line
from lightning_modules.common.lock import HELD, HeldError, held
from lightning_modules.runtime import records, slurm, sweep_report
from lightning_modules.runtime.courier import Delivery
from lightning_modules.runtime.journal import Journal
from lightning_modules.runtime.owner import PARENT_RUN

SWEEP = "FACET_SWEEP"
# Beside a sweep's jobs: the folders of those that the last command went through.
THIS_COMMAND = "this_command.txt"
STOPPED = {sign * number + more for number in (signal.SIGINT, signal.SIGTERM) for sign, more in ((1, 128), (-1, 0))}
# Seconds for which a sweep's picture is good enough while jobs go on ending; at the end it is drawn anew.
DRAWN_WITHIN = 30.0
console = Console(stderr=True)


def settle(cfg: DictConfig, folder: Path, overrides: list[str], *, code: int, how: str = "") -> float | None:
    """Note what an exit code says; the objective, None when there is none. how: what the code does not say."""
    if code == 0:
        return note(cfg, folder, overrides, status="done")
    if code in STOPPED:
        return note(cfg, folder, overrides, status="stopped", reason=f"{how or 'stopped'}; the same command goes on")
    if code == HELD:
        return note(cfg, folder, overrides, status="failed", reason=who_is_at(folder), mine=False)
    return note(cfg, folder, overrides, status="failed", reason=how or why(code, folder))


def who_is_at(folder: Path) -> str:
    try:
        with held(folder / "lock"):
            return "another process was at it, and has ended since; the same command goes on"
    except HeldError as other:
        return str(other)


def why(code: int, folder: Path) -> str:
    """What a failed job died of: what it said itself, the signal that killed it, or the last that is in SLURM's log."""
    said = folder / "failure.txt"
    if said.is_file():
        return said.read_text()
    numbers = {number.value: number for number in signal.Signals}
    if number := numbers.get(-code if code < 0 else code - 128):
        return slurm.killed_by(number)
    log = folder / slurm.LOG
    lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
    last = [line for line in lines if line.strip() and not line.startswith(("srun:", "slurmstepd:"))][-1:]
    return f"exit code {code}" + "".join(f": {line} (more in {log})" for line in last)


def note(
    cfg: DictConfig, folder: Path, overrides: list[str], *, status: str, reason: str = "", mine: bool = True
) -> float | None:
    """Write the outcome down, bring the parent run up to date; the objective, None when there is none.

    To Optuna a search that is told nan is at its end; nothing is a failed trial, and the search goes on.

    mine: whether the job was this sweep's, so that its MLflow run is to be ended here. Of a job that was known to be done
    the parent run learns at the sweep's end: of a hundred it would be told a hundred times the same.
    """
    sweep = Path(os.environ[SWEEP])
    if status != "done":
        console.print(escape(f"{status}: {' '.join(overrides)}: {reason}"), style="red", soft_wrap=True)
        if mine:
            close_child(folder, cfg, status=status, reason=reason)
    line = {"folder": folder.name, "overrides": overrides, "status": status, "reason": reason}
    with FileLock(sweep / ".lock"):
        known = status == "done" and line in sweep_report.said(sweep)
        append(sweep / THIS_COMMAND, folder.name)
        if not known:
            append(sweep / records.JOBS, json.dumps(line))
            tell(cfg, sweep)
    if status != "done":
        return None
    result = records.result(folder)
    assert result is not None, f"{folder} is done and has no {records.RESULT}"
    found = result["metrics"].get(cfg.objective_metric)
    return None if found is None or math.isnan(found) else found


def append(path: Path, line: str) -> None:
    """On a line of its own: what stands before it may be torn, where a machine died while it was written."""
    size = path.stat().st_size if path.is_file() else 0
    torn = size > 0 and not ends_a_line(path, size)
    with open(path, "a") as file:
        file.write("\n" * torn + line + "\n")


def of_this_command(sweep: Path) -> set[str]:
    """Folders of the jobs that it went through; what earlier commands left undone is not its failure."""
    path = sweep / THIS_COMMAND
    return set(path.read_text().split("\n")) if path.is_file() else set()


def tell(cfg: DictConfig, sweep: Path) -> None:
    """The report of all jobs so far, in the sweep's folder and in its run."""
    files = sweep_report.write(
        sweep, objective=cfg.objective_metric, shown=cfg.shown_metrics, drawn_within=DRAWN_WITHIN
    )
    _show(cfg, sweep, files)


def catch_up(cfg: DictConfig, sweep: Path) -> None:
    """Tell once more where the report, or the sweep's run, does not know all: it is new, or jobs were done before it."""
    report = sweep / "report.md"
    before = report.read_text() if report.is_file() else ""
    behind = sweep_report.is_behind(sweep)
    files = sweep_report.write(sweep, objective=cfg.objective_metric, shown=cfg.shown_metrics)
    if behind or report.read_text() != before or not _knows_its_jobs(cfg):
        _show(cfg, sweep, files)


def _knows_its_jobs(cfg: DictConfig) -> bool:
    if PARENT_RUN not in os.environ:
        return True
    try:
        client = credentials.client(cfg.logger.tracking_uri)
        return "jobs.done" in client.get_run(os.environ[PARENT_RUN]).data.tags
    except Exception:  # it is away, which is told elsewhere
        return True


def _show(cfg: DictConfig, sweep: Path, files: list[Path]) -> None:
    """Report, counts and means as artifacts, tags and metrics of the sweep's run, if it has one; a server that is away is
    passed over."""
    if PARENT_RUN not in os.environ:
        return
    counts, means = sweep_report.counts(sweep), sweep_report.means(sweep, cfg)
    client, parent = credentials.client(cfg.logger.tracking_uri), os.environ[PARENT_RUN]
    try:
        for path in files:
            client.log_artifact(parent, str(path))
        for name, count in counts.items():
            client.set_tag(parent, f"jobs.{name}", str(count))
        for name, value in means.items():
            client.log_metric(parent, name, value, step=counts["done"])
    except Exception as error:
        console.print(f"sweep report not sent ({type(error).__name__}); it is in {files[0].parent}.")


def close_child(folder: Path, cfg: DictConfig, *, status: str, reason: str) -> None:
    """A killed job could not end its own MLflow run: end it here, with the reason, or begin it, where it died at once."""
    try:
        known = records.run(folder)
    except ValueError:  # it is damaged, which is the reason then
        return
    if known is None or not cfg.logger.get("tracking_uri"):
        return
    try:
        # What the job wrote down and could not send any more goes first.
        delivery = Delivery(Journal(folder), uri=cfg.logger.tracking_uri, run_id=known["run_id"])
        delivery.deliver()
        run_id = delivery.run_id
        assert run_id is not None
        records.write_run(folder, {**known, "run_id": run_id})
        if delivery.client.get_run(run_id).info.status == "RUNNING":
            delivery.client.set_tag(run_id, "failure_reason", reason[:5000])
            delivery.client.set_terminated(run_id, status="KILLED" if status == "stopped" else "FAILED")
    except Exception as error:
        # The outcome is written down all the same.
        console.print(f"tracking server not reached ({type(error).__name__}): the job's run was not ended.")

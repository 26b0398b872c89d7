"""SLURM as a sweep uses it: what a job needs, `sbatch`, which jobs are still there, and how one ended.

Nothing is asked of SLURM's accounting, which a cluster need not have.
"""

import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig

from lightning_modules.runtime import devices

LOG = "slurm.log"
STARTED = "Started by SLURM as job "
# Keys of the launcher that sbatch has as they are; what a job needs is added to them.
PASSED = ("partition", "account", "qos", "constraint", "exclude", "gres", "comment")
BY_SLURM = ("CANCELLED", "TIMEOUT", "PREEMPTED", "DEADLINE", "OUT_OF_MEMORY", "NODE_FAIL", "BOOT_FAIL")
# Of these the job may be asked for again, and goes on.
STOPPED = ("CANCELLED", "TIMEOUT", "PREEMPTED", "DEADLINE")


class Ended(NamedTuple):
    """code: as a shell gives it. how: what the code does not say. first: which rank ended first, if not the first one."""

    code: int
    how: str = ""
    first: str = ""


def needs(cfg: DictConfig, given: Mapping[str, Any]) -> dict[str, int | None]:
    """`nodes`, `tasks_per_node`, `cpus_per_task` and `gpus_per_node` (None: no GPU) of a job.

    They follow from `cfg.trainer`; a key of the launcher that is `given` wins. ValueError when one cannot be known here.
    """
    gpu = cfg.trainer.accelerator in devices.GPU
    workers = (cfg.get("data") or {}).get("workers", 0) if gpu else 0
    tasks = given["tasks_per_node"] or _devices(cfg, gpus=given["gpus_per_node"] if gpu else None)
    return {
        "nodes": given["nodes"] or cfg.trainer.get("num_nodes", 1),
        "tasks_per_node": tasks,
        "cpus_per_task": given["cpus_per_task"] or max(1, cfg.threads) + workers,
        "gpus_per_node": given["gpus_per_node"] or (tasks if gpu else None),
    }


def _devices(cfg: DictConfig, *, gpus: int | None) -> int:
    if cfg.trainer.accelerator not in devices.GPU or cfg.trainer.devices not in ("auto", -1, "-1"):
        return devices.devices(cfg)
    if not gpus:
        raise ValueError(
            f"trainer.devices is {cfg.trainer.devices}, and how many GPUs a node of the cluster has is not known here; "
            "expected trainer.devices=N, or hydra.launcher.gpus_per_node=N."
        )
    return gpus


def can_be_submitted(cfg: DictConfig) -> Iterator[str]:
    """A check of preflight."""
    if devices.submitted(cfg):
        needs(cfg, cfg.hydra.launcher)
    yield from ()


def is_there() -> None:
    """ValueError where there is no SLURM to submit to."""
    if shutil.which("sbatch") is None:
        raise ValueError(
            "hydra/launcher=slurm submits with sbatch, which is not on PATH; expected a machine that SLURM's jobs are "
            "submitted from, or hydra/launcher=joblib for jobs side by side on this one."
        )


def submit(command: Sequence[str], cfg: DictConfig, *, folder: Path, given: Mapping[str, Any]) -> str:
    """Number of the job that runs `command` once a task. ValueError with what sbatch has against it."""
    asked = needs(cfg, given)
    options = {
        "nodes": asked["nodes"],
        "ntasks_per_node": asked["tasks_per_node"],
        "cpus_per_task": asked["cpus_per_task"],
        "gpus_per_node": asked["gpus_per_node"],
        "mem": f"{given['mem_gb']}G" if given["mem_gb"] else None,
        "time": given["timeout_min"],
        # To the tasks, which save. Not so early that little is left of a short job.
        "signal": f"TERM@{min(given['signal_delay_s'], 15 * given['timeout_min'])}",
        "job_name": given["name"] or cfg.experiment_name,
        "output": folder / LOG,
        "open_mode": "append",
        "export": "ALL",
        **{key: given[key] for key in PASSED},
        **given["additional_parameters"],
    }
    flags = [f"--{key.replace('_', '-')}={value}" for key, value in options.items() if value is not None]
    done = _ask("sbatch", "--parsable", "--requeue", *flags, text=script(command, asked=asked, setup=given["setup"]))
    if done.returncode:
        what = ", ".join(f"{key}={value}" for key, value in asked.items() if value)
        raise ValueError(f"{' '.join(done.stderr.split())} (asked for {what})")
    # `NUMBER;CLUSTER` where there are several clusters.
    return done.stdout.strip().partition(";")[0]


def script(command: Sequence[str], *, asked: Mapping[str, int | None], setup: Iterable[str]) -> str:
    cpus = asked["cpus_per_task"]
    lines = [
        "#!/bin/bash",
        f'echo "{STARTED}$SLURM_JOB_ID on $SLURM_JOB_NODELIST, started again ${{SLURM_RESTART_COUNT:-0}} times"',
        *setup,
        # Tasks of a node would else each take a thread a core of it.
        f"export OMP_NUM_THREADS=${{OMP_NUM_THREADS:-{cpus}}}",
        # Since 22.05 srun does not take the CPUs from sbatch. One task that dies leaves no others to wait for it.
        f"srun --cpus-per-task={cpus} --kill-on-bad-exit=1 {shlex.join(command)}",
    ]
    return "\n".join(lines) + "\n"


def waiting_or_running() -> set[str] | None:
    """Numbers of this user's jobs that are not over; None when SLURM does not answer."""
    done = _ask("squeue", "--me", "--noheader", "--format=%A")
    return None if done.returncode else set(done.stdout.split())


def ended(number: str, log: Path) -> Ended | None:
    """How a job ended; None when it has not, or SLURM does not answer."""
    done = _ask("scontrol", "show", "job", "--oneliner", number)
    if "Invalid job id" in done.stderr:
        # Over for longer than SLURM remembers: its result.json tells.
        return Ended(0)
    found = re.search(r"JobState=(\w+) .*? ExitCode=(\d+):(\d+)", done.stdout)
    state, code, by_signal = found.groups() if found else ("", "0", "0")
    if state == "COMPLETED":
        return Ended(0)
    if state == "FAILED":
        return _first_death(log) or Ended(128 + int(by_signal) if int(by_signal) else int(code))
    if state in BY_SLURM:
        return Ended(128 + signal.SIGTERM if state in STOPPED else 1, how=f"SLURM ended it as {state}")
    return None


def _first_death(log: Path) -> Ended | None:
    """What the first of the tasks died of: srun ends the others then, so what they say is not it."""
    last = log.read_text(errors="replace").rpartition(STARTED)[2] if log.is_file() else ""
    found = re.search(r"^srun: error: (\S+): tasks? (\S+): (.+)$", last, re.MULTILINE)
    if not found:
        return None
    node, tasks, what = found.groups()
    if exited := re.match(r"Exited with exit code (\d+)", what):
        # Only the first rank writes down what it dies of.
        return Ended(int(exited[1]), first="" if tasks[0] == "0" else f"rank {tasks} on {node}, see {log}")
    number = next((n for n in signal.Signals if what.startswith(str(signal.strsignal(n)))), None)
    if number == signal.SIGTERM:
        return Ended(128 + number)
    return Ended(1, how=f"{killed_by(number) if number else what}, rank {tasks} on {node}")


def killed_by(number: signal.Signals) -> str:
    return f"killed by {number.name}" + (" (out of memory?)" if number is signal.SIGKILL else "")


def cancel(numbers: Iterable[str]) -> None:
    """Jobs that run get SIGTERM and time to save, those that wait go."""
    _ask("scancel", *numbers)


def _ask(*command: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    # A session of its own: Ctrl-C is for the sweep, which tells the jobs.
    return subprocess.run(command, input=text, capture_output=True, text=True, check=False, start_new_session=True)

"""What holds between the processes that torchrun, srun or a person starts for one run, before they have met.

The first alone holds the run's folder. One that leaves before the others have met it tells them by a file there: they
would wait for it for half an hour.
"""

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from lightning_modules.common import rank
from lightning_modules.common.files import write_atomically
from lightning_modules.common.lock import HELD, HeldError, place
from lightning_modules.runtime import records
from lightning_modules.training.stop import Preempted

# How often SLURM, or torchrun, has begun the same command again.
AGAIN = ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT")
TORCHRUN = ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT")
LEFT = "lock.left"
LOOK_S = 0.5


def job() -> str:
    """What SLURM or torchrun calls all that it begins again by itself; '' under neither."""
    return os.environ.get("SLURM_JOB_ID") or " ".join(filter(None, map(os.environ.get, TORCHRUN)))


def began(folder: Path) -> bool:
    """Whether the run in `folder` was begun by this very command, which its launcher has begun again since.

    `fresh=true` would take away what it has saved. Not by how often alone: it may have been stopped before it began.
    """
    again = any(int(os.environ.get(name) or 0) for name in AGAIN)
    return again and (records.begun(folder) or {}).get("job") == job()


def going_on(words: Sequence[str]) -> list[str]:
    """`words` of a command, without what would begin its run anew."""
    return [*(word for word in words if word.lstrip("+").partition("=")[0] != "fresh"), "fresh=false"]


@contextlib.contextmanager
def followed(folder: Path) -> Iterator[None]:
    """Around all that a run of several processes does: where the first leaves it, the others leave with its exit code."""
    note, ours = folder / LEFT, start()
    if rank.told():
        over = threading.Event()
        threading.Thread(target=_follow, args=(note, ours, over), daemon=True).start()
        try:
            yield
        finally:
            over.set()
        return
    code = 0
    try:
        yield
    except BaseException as error:
        code = _code(error)
        raise
    finally:
        if not _met():
            with contextlib.suppress(OSError):
                write_atomically(note, json.dumps({"start": ours, "code": code}))


def start() -> list[str]:
    """What the processes of one start have in common, and those of another one that runs at the same time have not."""
    by_srun = "SLURM_STEP_ID" in os.environ and "TORCHELASTIC_RUN_ID" not in os.environ
    names = ("SLURM_JOB_ID", "SLURM_STEP_ID") if by_srun else TORCHRUN
    told = [os.environ.get(name, "") for name in names]
    return [*told, place()] if {"127.0.0.1", "localhost"} & {*told} else told


def _follow(note: Path, ours: list[str], over: threading.Event) -> None:
    began = psutil.Process().create_time()
    while not over.wait(LOOK_S) and not _met():
        left = json.loads(note.read_text()) if note.is_file() else None
        # One of an earlier start is older than this process.
        if left and left["start"] == ours and _age(note) < time.time() - began:
            print(f"the first process has left with exit code {left['code']}; so does this one.", file=sys.stderr)
            sys.stderr.flush()
            os._exit(left["code"])


def _age(note: Path) -> float:
    """In seconds by the file system's clock, which is the only clock that all hosts read."""
    beside = note.with_name(f"{note.name}.{place().split()[0]}.{os.getpid()}.new")
    try:
        beside.touch()
        return beside.stat().st_mtime - note.stat().st_mtime
    finally:
        beside.unlink(missing_ok=True)


def _met() -> bool:
    """From here on they notice each other's end by themselves."""
    torch: Any = sys.modules.get("torch.distributed")
    return bool(torch and getattr(torch, "is_initialized", bool)())


def _code(error: BaseException) -> int:
    if isinstance(error, HeldError):
        return HELD
    code = error.code if isinstance(error, (SystemExit, Preempted)) else 1
    return code if isinstance(code, int) else 1

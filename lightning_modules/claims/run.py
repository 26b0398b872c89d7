"""`make claims`: every run that the claims need, some at a time, each once; then the report.

    python -m lightning_modules.claims.run [--systems moe,svco] [--claims TABLE/NAME] [--scale small|gpu]
        [--series first|confirmation|later] [--jobs N] [--plan]

With --plan nothing is trained but a few steps, and what the runs would take is kept (`claims.costs`).
A run that is done (its result.json is there) is passed over, so the same command goes on where it was stopped.
"""

import argparse
import signal
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from threading import Lock

from omegaconf import DictConfig

from lightning_modules.claims import costs
from lightning_modules.claims.claim import DATA, SERIES, SYSTEMS, Claim, Job, jobs
from lightning_modules.claims.table import load_all
from lightning_modules.common.choices import nearest
from lightning_modules.runtime import records
from lightning_modules.runtime.load import cores
from lightning_modules.runtime.outcome import why
from lightning_modules.runtime.sweep import PROJECT, environment

RUNS = PROJECT / "runs"


class Board:
    """Done, failed and time left, told after every job."""

    def __init__(self, *, total: int, together: int) -> None:
        self.left, self.total, self.together = total, total, together
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.failed: list[tuple[Job, str]] = []
        self.lock = Lock()

    def tell(self, job: Job, *, seconds: float, failure: str, waiting: Sequence[Job]) -> None:
        with self.lock:
            self.left -= 1
            self.seconds[job.overrides[0]].append(seconds)
            if failure:
                self.failed.append((job, failure))
            said = f"failed: {failure}" if failure else "done"
            line = f"[{self.total - self.left}/{self.total}] {job.command}: {said} in {seconds:.0f} s"
            print(f"{line}; about {self.minutes(waiting):.0f} min left", flush=True)

    def minutes(self, waiting: Sequence[Job]) -> float:
        """For `waiting` jobs, by the mean of their experiment so far, or of all where there is none."""
        everything = [s for found in self.seconds.values() for s in found]
        usual = {name: statistics.mean(found) for name, found in self.seconds.items()}
        expected = [usual.get(job.overrides[0], statistics.mean(everything)) for job in waiting]
        return sum(expected) / self.together / 60


def done(runs: Path) -> dict[str, Path]:
    """The run directories below `runs` that have a result, by their names."""
    return {path.parent.name: path.parent for path in runs.rglob(records.RESULT) if records.result(path.parent)}


def begun_otherwise(wanted: Sequence[Job], *, runs: Path = RUNS) -> list[str]:
    """A sentence for each job that is done and was begun with another config than the same command has now.

    A setting is composed once: of its seeds the config differs in `seed` alone.
    """
    from lightning_modules.runtime import begun, config, preflight

    folders = done(runs)
    known = [(job, folder) for job in wanted if (folder := folders.get(job.folder)) and records.begun(folder)]
    config.register_resolvers(project=PROJECT)
    composed: dict[tuple[str, ...], DictConfig] = {}
    found = []
    for job, folder in known:
        if job.overrides not in composed:
            ((_, composed[job.overrides]),) = preflight.every_job([*job.overrides, f"seed={job.seed}"])
        cfg = composed[job.overrides].copy()
        cfg.seed = job.seed
        try:
            begun.check(cfg, folder)
        except ValueError as error:
            found.append(str(error))
    return found


def run_all(wanted: Sequence[Job], *, together: int, runs: Path = RUNS, extra: Sequence[str] = ()) -> Board:
    """Run the jobs that are not done, `together` at a time, and say how it goes; a failed one stops no other.

    extra: overrides of all of them that set no run apart (`threads`, `paths`), for tests and machines.
    """
    there = done(runs)
    left = [job for job in wanted if job.folder not in there]
    print(f"{len(wanted)} runs, {len(wanted) - len(left)} of them done already, {together} at a time.", flush=True)
    board = Board(total=len(left), together=together)
    waiting, running = list(left), []
    stopped, starting = False, Lock()

    def one(job: Job) -> None:
        command = [sys.executable, str(PROJECT / "main.py"), *job.overrides, f"seed={job.seed}", *extra]
        start = time.monotonic()
        with starting:
            if stopped:
                return
            process = subprocess.Popen(
                command, env=environment(together), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
            )
            running.append(process)
        said = process.communicate()[1]
        waiting.remove(job)
        failure = f"{why(process.returncode, Path())}; {_last(said)}" if process.returncode else ""
        board.tell(job, seconds=time.monotonic() - start, failure=failure, waiting=waiting)

    pool = ThreadPoolExecutor(together)
    try:
        for future in as_completed([pool.submit(one, job) for job in left]):
            future.result()
    except BaseException:
        # A run that gets SIGTERM saves before it leaves.
        pool.shutdown(wait=False, cancel_futures=True)
        with starting:
            stopped = True
            for process in running:
                process.send_signal(signal.SIGTERM)
        pool.shutdown(wait=True)
        print("Stopped. The same command goes on where it was.", flush=True)
        raise
    return board


def _last(text: str) -> str:
    """The error that a run told, which may go over several lines, or its last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    first = next((n for n, line in enumerate(lines) if line.startswith("error")), len(lines) - 1)
    return " ".join(lines[max(0, first) :])[:300]


def prepare_database() -> None:
    """Two processes that open a new MLflow database at once break it: it is made or upgraded here, once."""
    from mlflow import MlflowClient

    MlflowClient(f"sqlite:///{PROJECT}/mlflow.db").search_experiments(max_results=1)


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", default=",".join(SYSTEMS), help="of " + ", ".join(SYSTEMS))
    parser.add_argument("--claims", default="", help="table/name of some claims; default: all of the systems")
    parser.add_argument("--scale", default="small", choices=("small", "gpu"))
    parser.add_argument("--series", default="first", choices=SERIES)
    parser.add_argument("--data", default=",".join(DATA), help="kinds of data to run on")
    parser.add_argument("--jobs", type=int, default=None, help="runs at a time; default: one a core, on gpu one")
    parser.add_argument("--plan", action="store_true", help="what the runs would take on this machine; runs none")
    given = parser.parse_args(argv)
    given.systems, given.data = tuple(given.systems.split(",")), tuple(given.data.split(","))
    given.claims = tuple(given.claims.split(",")) if given.claims else ()
    for option, words, expected in (("systems", given.systems, SYSTEMS), ("data", given.data, DATA)):
        if unknown := [word for word in words if word not in expected]:
            parser.error(f"--{option} {unknown[0]}: expected some of {', '.join(expected)}")
    return given


def chosen(claims: dict[str, Claim], names: Sequence[str]) -> dict[str, Claim]:
    """The claims named, or all; ValueError for a name that is none."""
    if wrong := [name for name in names if name not in claims]:
        raise ValueError(f"--claims {wrong[0]}: no such claim{nearest(wrong[0], list(claims))}")
    return {name: claims[name] for name in names or claims}


def elsewhere(claims: Iterable[Claim], given: argparse.Namespace) -> str:
    """Why a command has no run: where its claims are tried."""
    places = sorted({(t.scale, t.series, t.data) for claim in claims for t in claim.trials})
    told = "; ".join(f"SCALE={scale} SERIES={series} on {data} data" for scale, series, data in places)
    return f"no claim asked for has a trial at SCALE={given.scale} SERIES={given.series}; there are {told}."


def main(argv: Sequence[str]) -> int:
    given = arguments(argv)
    try:
        claims = chosen(load_all(given.systems), given.claims)
        wanted = jobs(claims.values(), scale=given.scale, series=given.series, data=given.data)
        if not wanted:
            raise ValueError(elsewhere(claims.values(), given))
        if given.plan:
            costs.plan_all(wanted, scale=given.scale, path=costs.KEPT)
            return 0
        if other := begun_otherwise(wanted):
            raise ValueError("\n".join(other))
        together = given.jobs or (1 if given.scale == "gpu" else len(cores()))
        # A SIGTERM stops it as Ctrl-C does, also where a shell's background ignores that: runs save and end, none is left.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.default_int_handler)
        prepare_database()
        board = run_all(wanted, together=together, extra=["threads=1"] if together > 1 else [])
    except KeyboardInterrupt:
        return 130
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    from lightning_modules.claims import report

    told = report.main([])
    for job, reason in board.failed:
        print(f"failed: {job.command}: {reason}", file=sys.stderr)
    return 1 if board.failed else told


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""`make errors`: every wrong command of `wrong_commands.py` is given and answered; writes docs/results/errors.json.

A process that has imported what main.py does is forked for each command of it: `seconds` is what the fork took and what
a fresh process takes to get there, the median of three; of a processor, as the machine may have other things to do. What
make is asked starts as a user would start it. `python -m tests.robustness.errors KIND ...` tries some kinds, `new` the
commands that have no row yet; the other rows stay, each with its own commit.
"""

import json
import os
import runpy
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from lightning_modules.common.files import write_rows
from lightning_modules.runtime.provenance import commit, machine
from tests.robustness.wrong_commands import COMMANDS, MAKE, SECRET, furnish

PROJECT = Path(__file__).parents[2]
RESULT = PROJECT / "docs" / "results" / "errors.json"
LIMIT = 120


def placed(command, folder):
    """Its words, the last ones where it may write, unless it says so itself."""
    words = shlex.split(command.replace("FOLDER", str(folder)))
    places = [f"paths.{name}={folder}/made/{name}" for name in ("cache", "runs", "tracking")]
    return [*words, *(p for p in places if not any(w.startswith(p.split("=")[0]) for w in words))]


def fork(arguments, folder):
    """(exit code, all it said) of main.py in a copy of this process."""
    with tempfile.TemporaryFile() as said:
        child = os.fork()
        if not child:
            code = 70
            try:
                os.setsid()
                for stream in (1, 2):
                    os.dup2(said.fileno(), stream)
                os.chdir(folder)
                os.environ["COLUMNS"] = "160"
                sys.argv = ["main.py", *arguments]
                runpy.run_path(str(PROJECT / "main.py"), run_name="__main__")
                code = 0
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else int(end.code is not None)
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        code = wait(child)
        said.seek(0)
        return code, said.read().decode()


def wait(child):
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def started(words, folder):
    environment = {**os.environ, "COLUMNS": "160", "PYTHONPATH": str(PROJECT)}
    command = [*words, f"PYTHON={sys.executable}"] if words[0] == "make" else words
    done = subprocess.run(
        command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    return done.returncode, done.stdout + done.stderr


def row(command, code, seconds, said, folder):
    lines = [
        line for line in said.replace(str(folder), "FOLDER").replace(str(PROJECT), ".").splitlines() if line.strip()
    ]
    return {"command": command, "exit": code, "seconds": round(seconds, 1), "said": "\n".join(lines)[:1500]}


def is_clear(found):
    """No traceback, no silence, no success, no password."""
    said = found["said"]
    return (
        found["exit"] in (1, 2)
        and "Traceback" not in said
        and "fault of Facet's" not in said
        and SECRET not in said
        and bool(said)
    )


def warm(folder):
    """Import what main.py imports on its way, each system's part too."""
    from lightning_modules.runtime import config, preflight

    config.register_resolvers(project=PROJECT)
    for experiment in ("moe/scope", "prompt/tune", "prompt/transfer", "svco/compare"):
        preflight.examine(placed(f"experiment={experiment}", folder))


def taken():
    """Seconds of a processor that processes started here have taken: what they take on a machine with nothing else to do."""
    used = os.times()
    return used.children_user + used.children_system


def start_up(folder):
    """Seconds of a fresh process beyond what its fork takes, the median of three."""
    found = []
    for _ in range(3):
        times = [taken()]
        started([sys.executable, "main.py", *placed("model.layer=3", folder)], folder)
        times.append(taken())
        fork(placed("model.layer=3", folder), folder)
        found.append(times[1] - times[0] - (taken() - times[1]))
    return statistics.median(found)


def main_():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        furnish(folder)
        warm(folder)
        before = start_up(folder)
        about = {"made_by": "make errors", "commit": commit(), "machine": machine()}
        rows, load = [], psutil.getloadavg()[0]
        wanted, kept = sys.argv[1:], {row["command"]: row for row in json.loads(RESULT.read_text())}
        for kind, commands in [*COMMANDS.items(), ("make", MAKE)]:
            for command in commands:
                name = command if kind == "make" else f"main.py {command}"
                if name in kept and wanted and kind not in wanted:
                    rows.append(kept[name])
                    continue
                began = taken()
                if kind == "make":
                    code, said = started(shlex.split(command), folder)
                    found = row(command, code, taken() - began, said, folder)
                else:
                    code, said = fork(placed(command, folder), folder)
                    found = row(name, code, taken() - began + before, said, folder)
                rows.append({"kind": kind, **found, **about, "start_seconds": round(before, 1), "load": round(load, 1)})
                print(f"{'' if is_clear(found) else 'NOT CLEAR '}{found['exit']} {found['seconds']} {found['command']}")
                print(f"    {found['said'][:400]}", flush=True)
    bad = [r for r in rows if not is_clear(r)]
    slow = [r for r in rows if r["seconds"] > 10]
    print(
        f"{len(rows)} wrong commands, {len(bad)} not answered clearly, {len(slow)} over ten seconds, "
        f"of which start-up takes {before:.1f}."
    )
    write_rows(RESULT, rows)
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main_())

"""A real SLURM of two nodes on this machine, on loopback, all of it in one temporary folder.

`python -m tests.slurm.cluster` starts it, prints what `SLURM_CONF` is to be, and ends it with its standard input: whatever
becomes of who started it, a killed test run included, no process and no file is left. Needs no root and changes nothing
under /etc: nodes are called by addresses of loopback, so that ranks find the first of them without /etc/hosts.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

PROJECT = Path(__file__).parents[2]
NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")
CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=10
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmctldPort={ports[0]}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmdSpoolDir={folder}/spool.%n
SlurmdLogFile={folder}/slurmd.%n.log
StateSaveLocation={folder}/state
ReturnToService=2
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
KillWait=20
NodeName=127.0.0.2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 RealMemory=4000 State=UNKNOWN
NodeName=127.0.0.3 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def where(name: str) -> str | None:
    """Daemons are in sbin, which a user's PATH need not have."""
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def until(true: Callable[[], bool], what: str, *, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"{what} within {seconds:.0f} s"
        time.sleep(0.1)


def _ask(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def belonging(conf: Path) -> Iterator[psutil.Process]:
    """Processes of this cluster: its daemons and what its jobs run, told by their environment."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get("SLURM_CONF") == str(conf):
                yield process


@contextlib.contextmanager
def started() -> Iterator[Path]:
    """slurm.conf of a cluster that runs as long as the context."""
    # Sockets have short names, so not below a test's own long folder.
    folder = Path(tempfile.mkdtemp(prefix="slurm"))
    conf = folder / "slurm.conf"
    os.environ["SLURM_CONF"] = str(conf)
    try:
        _start(folder, conf)
        yield conf
    finally:
        _stop(conf)
        shutil.rmtree(folder)


def _start(folder: Path, conf: Path) -> None:
    user = psutil.Process().username()
    conf.write_text(CONF.format(host=socket.gethostname().split(".")[0], user=user, folder=folder, ports=free_ports(3)))
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    for path, mode in ((folder, 0o755), (key, 0o600)):
        path.chmod(mode)
    (folder / "state").mkdir()
    files = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
    daemons = [["munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *files]]
    daemons += [["slurmctld", "-D", "-c"], *(["slurmd", "-D", "-N", f"127.0.0.{node}"] for node in (2, 3))]
    for name, *options in daemons:
        with open(folder / f"{name}.out", "ab") as output:
            subprocess.Popen([where(name), *options], stdout=output, stderr=output, stdin=subprocess.DEVNULL)
        if name == "munged":
            until((folder / "munge.socket").exists, "munged listens")
    until(lambda: _ask("sinfo", "-h", "-o", "%T %D").strip() == "idle 2", "two nodes are idle")


def _stop(conf: Path) -> None:
    _ask("scancel", "--user", psutil.Process().username())
    with contextlib.suppress(AssertionError):
        until(lambda: not _ask("squeue", "-h").strip(), "jobs end", seconds=25)
    for number in (signal.SIGTERM, signal.SIGKILL):
        left = list(belonging(conf))
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.send_signal(number)
        psutil.wait_procs(left, timeout=5)


@contextlib.contextmanager
def kept() -> Iterator[str]:
    """The value of SLURM_CONF of a cluster kept by a process of its own, which outlives a killed test run to end it."""
    command = [sys.executable, "-m", "tests.slurm.cluster"]
    keeper = subprocess.Popen(
        command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        conf = keeper.stdout.readline().strip()
        assert conf, "SLURM did not come up"
        yield conf
    finally:
        keeper.stdin.close()
        keeper.wait()


def main() -> None:
    missing = [name for name in NEEDED if where(name) is None]
    if missing:
        sys.exit(f"{', '.join(missing)} not found: apt-get install slurm-wlm munge")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with started() as conf:
        print(conf, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()

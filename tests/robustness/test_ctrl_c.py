"""Ctrl-C before anything is begun, in a download and while a backbone is trained: one line, code 130, nothing half-made."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.runtime.cli import PROJECT

# A pip that never ends, and says that it was called.
PIP = "import os, sys, time; open(os.environ['CALLED'], 'w').close(); time.sleep(300)"
SAID = "stopped by SIGINT; {}\n"


class Command:
    """main.py as a terminal starts it: a shell's background, and so a test's, may have it ignore Ctrl-C."""

    def __init__(self, folder, *arguments):
        (folder / "stub" / "pip").mkdir(parents=True)
        (folder / "stub" / "pip" / "__init__.py").touch()
        (folder / "stub" / "pip" / "__main__.py").write_text(PIP)
        self.called, self.said = folder / "called", folder / "said.txt"
        places = [f"paths.{name}={folder}/{name}" for name in ("cache", "runs", "tracking")]
        with self.said.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, str(PROJECT / "main.py"), *arguments, *places, "logger=none"],
                env={**os.environ, "PYTHONPATH": str(folder / "stub"), "CALLED": str(self.called)},
                stdout=file,
                stderr=file,
                start_new_session=True,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )

    def wait(self, for_what):
        end = time.monotonic() + 180
        while not for_what() and time.monotonic() < end and self.process.poll() is None:
            time.sleep(0.05)
        assert for_what(), self.said.read_text()

    def told(self):
        """All that it says after Ctrl-C, which a terminal tells every process of the command."""
        before = len(self.said.read_text())
        os.killpg(self.process.pid, signal.SIGINT)
        assert self.process.wait(timeout=60) == 130, self.said.read_text()
        return self.said.read_text()[before:]


@pytest.fixture
def start(tmp_path):
    started = []

    def start(*arguments):
        started.append(Command(tmp_path, *arguments))
        return started[-1]

    yield start
    for command in started:
        if command.process.poll() is None:
            os.killpg(command.process.pid, signal.SIGKILL)


def test_in_the_first_moments(start, tmp_path):
    command = start("debug=smoke")
    # Python itself has begun when it has its own handler: before, nothing could be said.
    time.sleep(0.5)
    assert command.told() in (SAID.format("nothing was begun"), SAID.format("the same command goes on from here"))
    assert not [*tmp_path.glob("runs/**/result.json")]


def test_in_a_download(start, tmp_path):
    command = start("experiment=moe/scope", "balance=micro")
    command.wait(command.called.exists)
    assert "Fetching vaderSentiment 3.3.2 with pip, once" in command.said.read_text()
    assert command.told() == SAID.format("the same command goes on from here")
    left = [path for path in (tmp_path / "cache" / "downloads").iterdir() if ".whl" in path.name or path.is_dir()]
    assert left == []


def test_while_a_backbone_is_trained(start, tmp_path):
    command = start("experiment=prompt/tune")
    command.wait(lambda: "Making backbone" in command.said.read_text())
    assert command.told() == SAID.format("the same command goes on from here")
    assert [*tmp_path.glob("cache/backbones/*/model.safetensors")] == []
    # Who asks for it now does not wait for the one that was stopped.
    held = [path for path in tmp_path.rglob("lock.*") if path.read_text()]
    assert held == []

"""Ways in which a tracking server is away while a run logs, and what of the run's points it has in the end.

A real `mlflow server` stands behind a door that misbehaves. How many points were lost or came twice is counted over the
server's own history.
"""

import contextlib
import http.client
import os
import resource
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psutil
from mlflow import MlflowClient

from lightning_modules.runtime import sync, tracking

POINTS, FROM, UNTIL = 60, 20, 40
KINDS = (
    "refuses the connection",
    "accepts and hangs",
    "answers 500",
    "loses its answers",
    "disk full",
    "comes back as another host",
)


class Handler(BaseHTTPRequestHandler):
    def handle_any(self):
        door = self.server.door
        door.met += 1
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if door.fault == "accepts and hangs":
            door.healed.wait()
            return
        if door.fault == "answers 500":
            self.send_error(500)
            return
        # What was written and not answered is in doubt; reading must show it.
        lost = door.fault == "loses its answers" and self.path.endswith(("runs/create", "runs/log-batch"))
        behind = http.client.HTTPConnection("127.0.0.1", door.port_behind)
        behind.request(self.command, self.path, body, {**self.headers, "Host": f"127.0.0.1:{door.port_behind}"})
        answer = behind.getresponse()
        content = answer.read()
        behind.close()
        if lost:
            return
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "content-length", "connection", "date", "server"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any

    def log_message(self, *_):
        """Nobody reads it."""


class Door:
    """`fault`: how requests fail, None when they are handed on. `met`: requests so far."""

    def __init__(self, port_behind):
        self.port_behind, self.port, self.fault, self.met = port_behind, 0, None, 0
        self.healed = threading.Event()
        self.open()

    def open(self):
        self.listening = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.listening.door, self.listening.daemon_threads = self, True
        self.port = self.listening.server_port
        self.uri = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self.listening.serve_forever, args=(0.02,), daemon=True).start()

    def close(self):
        self.healed.set()
        self.listening.shutdown()
        self.listening.server_close()


@contextlib.contextmanager
def full_disk(server):
    """No file of the server's grows any more. (What its processes may write to one file is limited: no disk is filled.)"""
    main = psutil.Process(server.process.pid)
    processes = [main, *main.children(recursive=True)]
    before = [process.rlimit(resource.RLIMIT_FSIZE) for process in processes]
    for process, (_, most) in zip(processes, before, strict=True):
        process.rlimit(resource.RLIMIT_FSIZE, (4096, most))
    yield
    for process, limits in zip(processes, before, strict=True):
        process.rlimit(resource.RLIMIT_FSIZE, limits)


@contextlib.contextmanager
def impatient():
    """Requests to a server that is away are given up after a second; to one that is there, not even on a busy machine."""
    before = os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"]
    os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = "1"
    yield
    os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = before


def break_(door, kind, server, stack):
    stack.enter_context(impatient())
    if kind == "disk full":
        stack.enter_context(full_disk(server))
    elif kind in ("refuses the connection", "comes back as another host"):
        door.close()
    else:
        door.fault = kind


def mend(door, kind, stack):
    stack.close()
    if kind == "refuses the connection":
        door.open()
    if kind != "comes back as another host":
        door.fault = None
        door.healed.set()


def outage(kind, *, server, folder, from_start=False):
    """(points lost, points twice, runs beyond the one) of a run that the server was away from.

    from_start: away already when the run begins, so that even its creation is in doubt.
    """
    door, stack = Door(server.port), contextlib.ExitStack()
    if from_start:
        break_(door, kind, server, stack)
    name = f"outage/{kind}/{from_start}"
    made = tracking.Tracker(folder=folder, uri=door.uri, experiment=name, name="a run", artifact_location=None, tags={})
    made.courier.interval = 0.1
    for step in range(POINTS):
        if step == FROM and not from_start:
            made.courier.attempt()
            break_(door, kind, server, stack)
        if step == UNTIL:
            met = door.met
            assert not made.courier.attempt(), f"{kind}: it was there all the time"
            assert door.met > met or kind in ("refuses the connection", "comes back as another host")
            mend(door, kind, stack)
        made.log_metrics({"x": float(step)}, step)
        time.sleep(0.005)
    made.text("note.txt", "hello")
    made.end("FINISHED")
    if kind == "comes back as another host":
        assert "not delivered" in str(sync.sync(folder)[str(folder)]), "the address that it had leads nowhere"
        moved = Door(server.port)
        assert not isinstance(sync.sync(folder, uri=moved.uri)[str(folder)], str)
        moved.close()
    else:
        door.close()
    return counted(server, name)


def counted(server, name):
    client = MlflowClient(server.uri)
    run, *others = client.search_runs([client.get_experiment_by_name(name).experiment_id])
    steps = [m.step for m in client.get_metric_history(run.info.run_id, "x")]
    assert run.info.status == "FINISHED"
    assert [f.path for f in client.list_artifacts(run.info.run_id)] == ["note.txt"]
    return len(set(range(POINTS)) - set(steps)), len(steps) - len(set(steps)), len(others)

"""Passwords and tokens are in no file, log, tag or message, and what needs them still works."""

import base64
import json
import os
import stat
import sys
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from lightning_modules.common import credentials
from lightning_modules.runtime import preflight, sync
from lightning_modules.runtime.config import register_resolvers
from lightning_modules.runtime.courier import Delivery
from lightning_modules.runtime.journal import Journal
from tests import forks
from tests.runtime.cli import PROJECT, main
from tests.runtime.test_tracking import Server

USER, SECRET, TOKEN = "anna", "verysecret1", "tok-0123456789"
POSTGRES = f"postgresql://{USER}:{SECRET}@host:5432/db"


@pytest.fixture(autouse=True)
def no_address(monkeypatch):
    monkeypatch.delenv(credentials.ADDRESS, raising=False)
    register_resolvers(project=PROJECT)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (POSTGRES, f"postgresql://{USER}:***@host:5432/db"),
        (f"mysql+pymysql://{USER}:p@s/s@host/db", f"mysql+pymysql://{USER}:***@host/db"),
        (f"could not reach https://:{SECRET}@h/x today", "could not reach https://:***@h/x today"),
        (f"https://{TOKEN}@host/x", "https://***@host/x"),
        (f"sqlite:////a/b.db?password={SECRET}&mode=rw", "sqlite:////a/b.db?password=***&mode=rw"),
        (f"http://h/x?Access_Token={TOKEN}", "http://h/x?Access_Token=***"),
        ("http://127.0.0.1:5000/a@b", "http://127.0.0.1:5000/a@b"),
        ("postgresql://anna@host/db", "postgresql://anna@host/db"),
        ("a key AKIAABCDEFGHIJKLMNOP of AWS", "a key *** of AWS"),
    ],
)
def test_what_is_masked(text, shown):
    assert credentials.masked(text) == shown
    assert credentials.masked(shown) == shown


def test_what_the_environment_holds_as_a_secret(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", TOKEN)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRET)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "falsehood")
    monkeypatch.setenv("A_PASSWORD", "a")
    assert credentials.masked(f"falsehood {TOKEN} a {SECRET}") == "falsehood *** a ***"


def test_a_password_of_an_address_is_masked_alone_and_decoded(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://anna:ve%40ry%2Fsecret1@host")
    assert credentials.masked("no way in for ve%40ry%2Fsecret1, ve@ry/secret1") == "no way in for ***, ***"
    with pytest.raises(ValueError, match="a quote or a blank; expected %27") as refused:
        credentials.taken(["logger.tracking_uri=http://anna:very'secret1@host"])
    assert "secret1" not in str(refused.value)
    assert credentials.taken(["logger.tracking_uri='http://127.0.0.1:5000/a@b'"])


def test_the_address_is_whole_where_a_connection_is_opened():
    (shown,) = credentials.taken([f"logger.tracking_uri={POSTGRES}"])
    assert SECRET not in shown
    assert credentials.real(shown.partition("=")[2]) == POSTGRES
    assert credentials.real("http://127.0.0.1:5000") == "http://127.0.0.1:5000"
    (quoted,) = credentials.taken([f"logger.tracking_uri='{POSTGRES}'"])
    assert quoted == f"logger.tracking_uri='postgresql://{USER}:***@host:5432/db'"
    with pytest.raises(ValueError, match="set the environment variable FACET_TRACKING_URI"):
        credentials.real("postgresql://anna:***@other/db")
    with pytest.raises(ValueError, match=r"sweeper\.storage\.url=.*\*\*\*.*oc.env") as refused:
        credentials.taken([f"hydra.sweeper.storage.url={POSTGRES}"])
    assert SECRET not in str(refused.value)


def test_an_address_of_the_environment_is_masked_before_hydra_writes_it(monkeypatch):
    monkeypatch.setenv("MINE", f"http://{USER}:{SECRET}@127.0.0.1:5000")
    argv, cfg = preflight.take(["debug=smoke", "logger.tracking_uri=${oc.env:MINE}"])
    assert argv == ["debug=smoke", f"logger.tracking_uri='http://{USER}:***@127.0.0.1:5000'"]
    assert cfg.logger.tracking_uri == f"http://{USER}:***@127.0.0.1:5000"
    assert credentials.real(cfg.logger.tracking_uri) == os.environ["MINE"]


def test_a_refusal_names_no_password(capsys):
    with pytest.raises(SystemExit, match="2"):
        preflight.take([f"logger.tracking_uri=mysql://{USER}:{SECRET}@host/db", "seed=x"])
    said = capsys.readouterr().err
    assert SECRET not in said
    assert "2 errors" in said
    assert f"mysql://{USER}:***@host/db: mysql needs the Python package MySQLdb" in said


class Guard(BaseHTTPRequestHandler):
    """Hands requests with the right password on to the tracking server, and turns the others away."""

    server_uri, turned_away = "", 0
    expected = "Basic " + base64.b64encode(f"{USER}:{SECRET}".encode()).decode()

    def hand_on(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Authorization") != self.expected:
            type(self).turned_away += 1
            self.send_error(401)
            return
        kept = {k: v for k, v in self.headers.items() if k.lower() in ("content-type", "accept")}
        asked = urllib.request.Request(self.server_uri + self.path, body or None, kept, method=self.command)
        try:
            answer = urllib.request.urlopen(asked)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            content = answer.read()
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.headers.get("Content-Type", "application/json"))
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = hand_on

    def log_message(self, *_):
        """Says nothing."""


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """(folder of a real tracking server, address with the password of the guard before it)."""
    folder = tmp_path_factory.mktemp("server")
    server = Server(folder)
    server.start()
    Guard.server_uri = server.uri
    guard = ThreadingHTTPServer(("127.0.0.1", 0), Guard)
    threading.Thread(target=guard.serve_forever, daemon=True).start()
    yield folder, f"http://{USER}:{SECRET}@127.0.0.1:{guard.server_port}"
    guard.shutdown()
    server.stop()


def holding(secret, *folders):
    """Every file below that holds it, names and contents."""
    files = [p for folder in folders for p in folder.rglob("*") if p.is_file()]
    assert len(files) > 20
    return [p for p in files if secret in str(p) or secret.encode() in p.read_bytes()]


def test_a_run_its_replay_and_a_late_delivery_keep_the_password_to_themselves(tmp_path, guarded, monkeypatch):
    folder, address = guarded
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    shown = credentials.without_passwords(address)
    ran = main(tmp_path, f"logger.tracking_uri={address}", "experiment_name=test/secret")
    (result,) = ran.results().values()
    assert "not reached" not in ran.text
    again = main(tmp_path, f"replay={result['run_id']}", f"logger.tracking_uri={address}")
    assert "bitwise the same" in again.text
    assert SECRET not in ran.text + again.text
    assert holding(SECRET, tmp_path, folder) == []
    assert holding(TOKEN, tmp_path, folder) == []
    (run,) = [p.parent for p in tmp_path.glob("runs/test/secret/*/tracking.jsonl")]
    assert f'"uri": "{shown}"' in (run / "tracking.jsonl").read_text()
    assert stat.S_IMODE((run / "tracking.jsonl").stat().st_mode) == 0o600
    assert stat.S_IMODE((run / "run.json").stat().st_mode) == 0o600
    # What was left is delivered by whoever knows the password, and by nobody else.
    journal = Journal(run)
    journal.append("tags", tags={"late": "yes"})
    journal.close()
    assert "set the environment variable FACET_TRACKING_URI" in str(sync.sync(tmp_path / "runs")[str(run)])
    monkeypatch.setenv(credentials.ADDRESS, address)
    assert sync.sync(tmp_path / "runs") == {str(run): 1}
    tags = Delivery(journal, uri=shown).client.get_run(result["run_id"]).data.tags
    assert tags["late"] == "yes"
    assert Guard.turned_away == 0
    with pytest.raises(Exception, match="401"):
        Delivery(journal, uri=address.replace(SECRET, "wrong")).client.get_run(result["run_id"])


def test_a_fault_of_ours_is_reported_without_the_password(tmp_path):
    """Its traceback would hold the environment's secrets as much as an address."""
    code = (
        "import sys, main; from lightning_modules.runtime import plan\n"
        f"def fail(*_): raise RuntimeError('no way to {POSTGRES} with {TOKEN}')\n"
        "plan.plans = fail\n"
        "sys.argv[1:] = ['debug=smoke', 'plan=true', 'logger=none', 'paths.runs=runs']\n"
        "main.start()"
    )
    environment = {**os.environ, "HF_TOKEN": TOKEN, "PYTHONPATH": str(PROJECT)}
    done = forks.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, timeout=120)
    assert done.returncode == 1
    assert "error: RuntimeError: no way to postgresql://anna:***@host:5432/db with ***" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(
        "This is a fault of Facet's, not of your command: CONTRIBUTING.md says"
    )
    (kept,) = tmp_path.glob("runs/*traceback.txt")
    assert "RuntimeError" in kept.read_text()
    assert SECRET not in kept.read_text()
    assert TOKEN not in kept.read_text()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert json.dumps(done.stdout) == '""'

"""What of this machine is not as the config has it: folders, the tracking address, devices. Nothing is left behind."""

import os
import re
import sqlite3
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from omegaconf import DictConfig

from lightning_modules.common.choices import nearest
from lightning_modules.common.credentials import masked
from lightning_modules.runtime import devices, known, records, system

# Scheme -> module that speaks it, of those that MLflow takes and Facet does not bring.
DATABASES = {"postgresql": "psycopg2", "mysql": "MySQLdb", "mssql": "pyodbc"}
# The same of stores of artifacts.
STORES = {"s3": "boto3", "gs": "google.cloud.storage", "wasbs": "azure", "abfss": "azure", "sftp": "pysftp"}
ADDRESSES = ("sqlite", "http", "https", *DATABASES)
ARTIFACTS = (
    "",
    "file",
    "s3",
    "gs",
    "wasbs",
    "abfss",
    "dbfs",
    "hdfs",
    "ftp",
    "sftp",
    "http",
    "https",
    "mlflow-artifacts",
)


def problems(cfg: DictConfig) -> list[str]:
    return system.asked(CHECKS, cfg) + system.asked(system.checks_of(cfg, "PLACES"), cfg)


def folders_can_be_written(cfg: DictConfig) -> Iterator[str]:
    if cfg.plan:
        return
    for key in ("runs", "cache"):
        yield from unwritable(f"paths.{key}", Path(str(cfg.paths[key])).expanduser())
    for kind in ("run", "sweep"):
        place = Path(cfg.hydra[kind].dir)
        if not place.is_relative_to(Path(str(cfg.paths.runs))):
            yield from unwritable(f"hydra.{kind}.dir", place)
            if kind == "run":
                yield from not_a_runs(place)


def not_a_runs(place: Path) -> Iterator[str]:
    """A run made anew deletes `export`, `figures` and the like in its folder, which may be somebody else's."""
    if place.is_dir() and not (place / ".hydra").is_dir():
        # The first of a run's processes may hold the folder already.
        there = next((path.name for path in place.iterdir() if not path.name.startswith("lock.")), None)
        if there:
            yield f"hydra.run.dir={place}: it holds {there} and no run; expected a new folder, an empty one or a run's."


def unwritable(key: str, path: Path) -> Iterator[str]:
    """Tried on the nearest folder that is there: what a mode says is not what a file system does, to root least of all."""
    there = Path(os.path.abspath(path))
    try:
        while not os.path.lexists(there) and there != there.parent:
            there = there.parent
        if not there.is_dir():
            yield f"{key}={path}: {there} is a file; expected a folder, or a path where one can be made."
            return
        # A file without a name: whoever lists the folder at this moment does not meet it.
        with tempfile.TemporaryFile(dir=there):
            pass
        longest = max((len(os.fsencode(part)) for part in path.parts), default=0)
        if longest > 255:
            yield f"{key}: a name of {longest} bytes in it; a file system takes 255."
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        yield f"{key}={path}: nothing can be written to {there} ({reason}); expected a folder of yours."


def installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of a package above it
        return False


def tracking_address(cfg: DictConfig) -> Iterator[str]:
    if cfg.logger is None or cfg.logger.get("tracking_uri") is None:
        return
    given = str(cfg.logger.tracking_uri)
    if message := wrong_address(given):
        yield f"logger.tracking_uri={masked(given)}: {message}"
    elif given.startswith("sqlite:") and not cfg.plan:
        file = known.database(given)
        yield from unwritable("logger.tracking_uri", file.parent)
        if wrong := no_database(file):
            yield f"logger.tracking_uri={given}: {file} {wrong}"
    if location := str(cfg.logger.get("artifact_location") or ""):
        scheme, key = urlsplit(location).scheme, "logger.artifact_location"
        told = f"{key}={masked(location)}: {scheme}:"
        if scheme not in ARTIFACTS:
            yield f"{told} is no store of MLflow's; expected a folder or one of {', '.join(ARTIFACTS[1:])}."
        elif (package := STORES.get(scheme)) and not installed(package):
            yield f"{told} needs the Python package {package}, which is not installed in .venv."
        elif scheme in ("", "file") and not cfg.plan:
            yield from unwritable(key, Path(urlsplit(location).path))


def run_is_known(cfg: DictConfig) -> Iterator[str]:
    uri = str(cfg.logger.get("tracking_uri") or "") if cfg.logger is not None else ""
    if cfg.replay and uri and not records.wrong_id("replay", cfg.replay):
        yield from filter(None, [known.problem(uri, "replay", cfg.replay)])
    yield from filter(None, [known.not_looked_at(uri or None, str(name)) for name in cfg.look.runs])
    if cfg.look.own and not Path(cfg.look.own).expanduser().is_file():
        yield f"look.text={cfg.look.own} is no file; expected true, false or a text file."


def wrong_address(given: str) -> str:
    """Why MLflow could not track to an address, '' where it could, whether or not somebody answers there."""
    if not given:
        return "it is empty; expected an address, or logger=none: nothing is tracked."
    scheme, rest = given.partition("://")[::2]
    dialect, _, driver = scheme.partition("+")
    if not rest or scheme in ("", "file"):
        return f"MLflow keeps runs in no folder any more; expected sqlite:///{Path(given).absolute()}/mlflow.db, say."
    if dialect not in ADDRESSES:
        near = nearest(dialect, list(ADDRESSES))
        return f"{dialect}: is no address of a tracking server{near}; expected one of {', '.join(ADDRESSES)}."
    try:
        parts = urlsplit(given)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        return f"it cannot be read ({error}); expected http://HOST:PORT."
    if dialect == "sqlite":
        return "" if rest.startswith("/") and len(rest) > 1 else "expected sqlite:////ABSOLUTE/PATH/mlflow.db."
    if not host or re.search(r"\s", host):
        return f"it names no host; expected {dialect}://HOST:PORT."
    module = (driver or DATABASES[dialect]) if dialect in DATABASES else None
    if module and not installed(module):
        return f"{dialect} needs the Python package {module}, which is not installed in .venv."
    return ""


def no_database(path: Path) -> str:
    """Why MLflow cannot keep runs in this file, or should not; '' where it is its own, empty or not there yet."""
    if path.is_dir():
        return "is a folder; expected a file in it."
    if not path.is_file() or not path.stat().st_size:
        return ""
    try:
        tables = known.column(path, "SELECT name FROM sqlite_master WHERE type = 'table'")
    except sqlite3.OperationalError:  # one that is locked just now is one
        return ""
    except sqlite3.DatabaseError:
        return "is no SQLite database; expected one, or a new file."
    if tables and "experiments" not in tables:
        return f"is a database of something else, with a table {min(tables)}; expected MLflow's, or a new file."
    return ""


CHECKS = (
    devices.machine_has_the_devices,
    devices.nodes_know_of_each_other,
    devices.started_as_many,
    devices.slurm_as_lightning_takes_it,
    devices.precision_is_there,
    folders_can_be_written,
    tracking_address,
    run_is_known,
)

"""Databases of MLflow for tests: the tables are made once a process, which takes a second, and copied."""

import tempfile
from functools import cache
from pathlib import Path


@cache
def _empty() -> bytes:
    from mlflow import MlflowClient

    with tempfile.TemporaryDirectory() as folder:
        MlflowClient(f"sqlite:///{folder}/mlflow.db").search_experiments()
        return Path(folder, "mlflow.db").read_bytes()


def database(folder: Path) -> str:
    """Address of `folder`/mlflow.db, which is made unless it is there."""
    path = Path(folder) / "mlflow.db"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_empty())
    return f"sqlite:///{path}"

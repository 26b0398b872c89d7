"""What sets two runs apart: `make diff A=RUN B=RUN`, or `python -m lightning_modules.runtime.diff RUN RUN`."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_modules.common import credentials
from lightning_modules.runtime import identity, known

if TYPE_CHECKING:
    from mlflow import MlflowClient

PROJECT = Path(__file__).parents[2]
# Where and when a run ran is no difference of what it computes.
PLACES = ("paths.", "hydra.", "run_name")


def leaves(client: "MlflowClient", run_id: str) -> dict[str, str]:
    """The resolved config of a run as {dotted key: value}, its folders left out."""
    from lightning_modules.runtime import foreign

    plain = foreign.stored(client, run_id)
    run = str(plain["paths"].get("run"))
    found = identity.leaves(plain)
    return {key: str(value).replace(run, "RUN") for key, value in found if not key.startswith(PLACES)}


def differences(client: "MlflowClient", a: str, b: str) -> list[tuple[str, str, str, str]]:
    """(kind, name, in A, in B) of config, commit, packages and data, then of every metric and table that differs."""
    from lightning_modules.runtime import compare
    from lightning_modules.runtime.replay import get_run

    runs = [get_run(client, run_id, key=key) for key, run_id in (("A", a), ("B", b))]
    configs = [leaves(client, run.info.run_id) for run in runs]
    found = [
        ("config", key, configs[0].get(key, "-"), configs[1].get(key, "-"))
        for key in dict.fromkeys([*configs[0], *configs[1]])
        if configs[0].get(key) != configs[1].get(key)
    ]
    tags = [run.data.tags for run in runs]
    kinds = {"git.": "commit", "package.": "package", "fingerprint.": "data", "machine": "machine"}
    for key in sorted({*tags[0], *tags[1]}):
        kind = next((k for prefix, k in kinds.items() if key.startswith(prefix)), None)
        if kind and tags[0].get(key) != tags[1].get(key):
            found.append((kind, key.partition(".")[2] or key, tags[0].get(key, "-"), tags[1].get(key, "-")))
    records = [compare.record(client, run.info.run_id) for run in runs]
    return found + [(d.kind, f"{d.name} {d.where}", d.a, d.b) for d in compare.differences(*records)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("a", help="a run's id, as the MLflow UI shows it")
    parser.add_argument("b", help="another's")
    parser.add_argument("--uri", default=f"sqlite:///{PROJECT}/mlflow.db")
    given = parser.parse_args()
    uri = credentials.keep(given.uri)
    try:
        wrong = [said for key, run_id in (("A", given.a), ("B", given.b)) if (said := known.problem(uri, key, run_id))]
        if wrong:
            raise ValueError("\n  ".join(wrong))
        # It takes seconds to import.
        from lightning_modules.common.tables import show

        rows = differences(credentials.client(uri), given.a, given.b)
    except ValueError as error:
        print(f"error: {credentials.masked(str(error))}", file=sys.stderr)
        raise SystemExit(2) from None
    if not rows:
        print("No difference in config, commit, packages, data, metrics or tables.")
        return
    show(["", "what", given.a[:8], given.b[:8]], rows)


if __name__ == "__main__":
    main()

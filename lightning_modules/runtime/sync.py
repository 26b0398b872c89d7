"""Delivers what runs could not: `make sync`, or `python -m lightning_modules.runtime.sync runs`.

`--uri` when the tracking server has another address now.
"""

import argparse
import sys
from pathlib import Path

from lightning_modules.common import credentials
from lightning_modules.common.lock import HeldError, held
from lightning_modules.common.say import say
from lightning_modules.runtime import records
from lightning_modules.runtime.courier import Delivery
from lightning_modules.runtime.journal import Journal
from lightning_modules.runtime.preflight.places import wrong_address


def sync(folder: Path, *, uri: str | None = None) -> dict[str, int | str]:
    """{run folder: entries delivered, or why not} of every journal below `folder` that has something pending.

    uri: where to, None for where each run was logged.
    """
    found: dict[str, int | str] = {}
    for path in sorted(folder.rglob("tracking.jsonl")):
        try:
            with held(path.parent / "lock"):
                outcome = deliver(path.parent, uri=uri)
        except HeldError as other:
            outcome = f"not delivered: {other.holder} is at it and delivers by itself"
        if outcome:
            found[str(path.parent)] = outcome
    return found


def deliver(folder: Path, *, uri: str | None = None) -> int | str:
    """What a run's journal still holds, to where it was logged last: the number of entries, or a sentence.

    The run's folder is held by the caller.
    """
    if not (folder / "tracking.jsonl").is_file():
        return 0
    try:
        journal = Journal(folder)
        if next(journal.pending(), None) is None:
            return 0
        *_, (_, start) = journal.kinds("start")
        known = records.run(folder) or {"uid": start["uid"], "run_id": None, "params": None}
        delivery = Delivery(journal, uri=credentials.keep(uri) if uri else start["uri"], run_id=known["run_id"])
        done = delivery.deliver()
        records.write_run(folder, {**known, "run_id": delivery.run_id})
    except Exception as error:
        told = [*credentials.masked(str(error)).splitlines(), ""][0][:200]
        return f"not delivered: {type(error).__name__}: {told}"
    if delivery.refused:
        return f"{done} entries delivered but for {len(delivery.refused)} that MLflow refuses ({delivery.refused[0]})"
    return done


def catch_up(folder: Path) -> None:
    """Deliver what a run that is done was stopped before it had told MLflow, and say so."""
    outcome = deliver(folder)
    if outcome:
        told = outcome if isinstance(outcome, str) else f"{outcome} entries delivered"
        say(f"MLflow had not been told all of it: {told}.")


def main() -> None:
    parser = argparse.ArgumentParser(description="Deliver to MLflow what runs could not.")
    parser.add_argument("folder", nargs="?", default="runs", type=Path)
    parser.add_argument(
        "--uri", help="the tracking server's address, when it is no more the one that runs were logged to"
    )
    given = parser.parse_args()
    if given.uri and (wrong := wrong_address(given.uri)):
        parser.error(f"--uri {credentials.masked(given.uri)}: {wrong}")
    outcome = sync(given.folder, uri=given.uri)
    for folder, what in outcome.items():
        print(f"{folder}: {what if isinstance(what, str) else f'{what} entries delivered'}")
    if not outcome:
        print("Nothing is waiting.")
    sys.exit(any(isinstance(what, str) for what in outcome.values()))


if __name__ == "__main__":
    main()

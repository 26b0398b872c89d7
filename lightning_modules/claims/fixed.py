"""Since which commit a claim is what it is, read from the git history of its table; and whether its runs came after."""

import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

from lightning_modules.claims.claim import Claim, Trial
from lightning_modules.claims.evidence import Row
from lightning_modules.claims.table import TABLES, load
from lightning_modules.runtime.provenance import git

SHORT = 12


def definition(claim: Claim, trial: Trial) -> dict[str, Any]:
    """All that a verdict at a trial follows from; words for readers are not in it."""
    own = claim.model_dump(include={"metric", "transform", "arms", "contrast", "rule", "margin"})
    return {**own, "seeds": claim.seeds_of(trial), "trial": trial.model_dump(exclude={"seeds"})}


def fixed_in(name: str, claim: Claim, trial: Trial) -> str:
    """The first commit of those, up to the checked out one, that all hold the claim and trial as they are; 12 digits.

    One whose table is refused, for the sake of another claim perhaps, is passed over: no run can have been made by it.

    '' where that is not to be known: the claim is not committed as it is, there is no git, or a shallow clone has no
    earlier commit than one that holds it.
    """
    wanted = definition(claim, trial)
    since = ""
    for commit in _commits(claim.system):
        found = _definitions(commit, claim.system)
        if found is None:
            continue
        if wanted not in found.get(name, []):
            return since[:SHORT]
        since = commit
    return "" if git("rev-parse", "--is-shallow-repository") == "true" else since[:SHORT]


def with_fixed(row: Row) -> Row:
    """A row with `fixed_in` and `fixed_before_runs`, as kept or else as the history tells; one without runs has neither."""
    if row.finding is None or row.origin.fixed_in:
        return row
    since = fixed_in(row.name, row.claim, row.trial)
    commits = row.origin.commit.split(", ")
    before = all(git("merge-base", since, commit)[:SHORT] == since for commit in commits) if since else None
    return row._replace(origin=row.origin._replace(fixed_in=since, fixed_before_runs=before))


def _place(system: str) -> str:
    return str((TABLES / f"{system}.yaml").relative_to(Path(__file__).parents[2]))


@lru_cache
def _commits(system: str) -> tuple[str, ...]:
    """Those that touched a table, the newest first."""
    # git is run from another folder of the checkout.
    return tuple(git("log", "--format=%H", "--", f":/{_place(system)}").split())


@lru_cache
def _definitions(commit: str, system: str) -> dict[str, list[dict[str, Any]]] | None:
    """Claim -> a definition a trial, as a commit has them; None where its table is refused, as one of another form."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{system}.yaml"
        path.write_text(git("show", f"{commit}:{_place(system)}"))
        try:
            claims = load(path)
        except ValueError:
            return None
    return {name: [definition(claim, trial) for trial in claim.trials] for name, claim in claims.items()}

"""Tables of claims: a YAML file a paper in `claims/tables`, what its claims have in common said once."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from pydantic import ValidationError

from lightning_modules.claims.claim import SYSTEMS, Claim, Strict, Text
from lightning_modules.common.choices import nearest

TABLES = Path(__file__).parent / "tables"


class Table(Strict):
    """One file; its name is the system.

    Args:
        paper: whose claims these are. shared: fields of every claim that does not say otherwise.
        trials: trials by name; the `trials` of a claim are such names, or a trial that it alone has.
        claims: the other fields of each claim (`Claim`) by its name.
    """

    paper: Text
    shared: dict[str, Any] = {}
    trials: dict[str, dict[str, Any]] = {}
    claims: dict[str, dict[str, Any]]


def load(path: Path) -> dict[str, Claim]:
    """The claims of a table by `table/name`; ValueError names the file, the claims and every field that is wrong."""
    try:
        # OmegaConf refuses a key that stands there twice, of which YAML takes the last.
        content = OmegaConf.to_container(OmegaConf.load(path))
    except (yaml.YAMLError, OSError) as error:
        raise ValueError(f"{path}: not YAML ({error})") from None
    try:
        table = Table.model_validate(content)
    except ValidationError as error:
        raise ValueError(f"{path}: {_problems(error, list(Table.model_fields))}") from None
    found: dict[str, Claim] = {}
    problems = []
    for name, own in table.claims.items():
        try:
            fields = {"system": path.stem, "paper": table.paper, **table.shared, **own}
            if "trials" in fields:
                fields["trials"] = _trials(fields["trials"], table)
            found[f"{path.stem}/{name}"] = Claim.model_validate(fields)
        except ValueError as error:
            problems.append(f"{path}: {name}: {_problems(error, list(Claim.model_fields))}")
    if problems:
        raise ValueError("\n".join(problems))
    return found


def load_all(systems: Iterable[str] = SYSTEMS, *, tables: Path = TABLES) -> dict[str, Claim]:
    """Every claim by `table/name`, in the order of the tables; ValueError lists the problems of all at once."""
    found: dict[str, Claim] = {}
    problems = []
    for path in (tables / f"{system}.yaml" for system in SYSTEMS if system in systems):
        try:
            found |= load(path) if path.is_file() else {}
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ValueError("\n".join(problems))
    return found


def _trials(given: list[Any], table: Table) -> list[Any]:
    """A claim's trials with names replaced by what stands in the table for them."""
    if unknown := [name for name in given if isinstance(name, str) and name not in table.trials]:
        raise ValueError(
            f"trials names {unknown[0]!r}, which the table has not{nearest(unknown[0], list(table.trials))}"
        )
    return [table.trials[trial] if isinstance(trial, str) else trial for trial in given]


def _problems(error: ValueError, fields: list[str]) -> str:
    found = error.errors() if isinstance(error, ValidationError) else ()
    return "; ".join(_problem(problem, fields) for problem in found) or str(error)


def _problem(problem: Any, fields: list[str]) -> str:
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "missing":
        return f"{where} is missing"
    if problem["type"] == "extra_forbidden":
        return f"{where} is no field{nearest(str(problem['loc'][-1]), fields)}"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{where} is {problem['input']!r}: {message}" if where else message

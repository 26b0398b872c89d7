"""What a run is called and where it came from, in the fields in which MLflow shows it."""

import os
import re
import shlex
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from lightning_modules.common.digests import digest
from lightning_modules.runtime.identity import identifies

PROJECT = Path(__file__).parents[2]
# Keys that set the jobs of a sweep apart, with commas between them; the sweep tells its jobs.
SWEPT = "FACET_SWEPT"
# Of a command in MLflow, whose page lets a longer line push the column beside it out of sight.
COLUMNS = 84
# Metrics of a sweep's own run: means over seeds, by metric and setting. MLflow draws a section of charts for each word
# before the last slash, in the order of the alphabet.
MEAN = "sweep/"
# Characters that MLflow takes in the name of a metric, of a parameter and, where PostgreSQL keeps its runs, of a run.
LONGEST = 250


def version() -> str:
    """The project's, from pyproject.toml: it is run from its checkout and never installed."""
    return str(tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"])


def swept(cfg: DictConfig, overrides: Sequence[str]) -> list[str]:
    """Keys that take several values in a sweep: on its command line, or in the experiment's own grid."""
    given = OverridesParser.create().parse_overrides([o for o in overrides if not o.startswith("-")])
    keys = [o.get_key_element() for o in given if o.is_sweep_override()]
    return list(dict.fromkeys([*keys, *((OmegaConf.select(cfg, "hydra.sweeper.params") or {}).keys())]))


def run_name(overrides: Iterable[str], seed: int, apart: Sequence[str] = ()) -> str:
    """What sets a run apart among its experiment's: `balance=micro s1`.

    apart: keys that set it apart within its sweep: it is called by their values alone, shortest first, `s1 micro lr=0.01`,
    since MLflow's list cuts names at the end.
    """
    told = ("experiment=", "debug=", "experiment_name=")
    kept = [o for o in overrides if identifies(o) and not o.startswith(told)]
    if apart:
        return " ".join(filter(None, [f"s{seed}", setting(kept, apart)]))
    return " ".join([*kept, f"s{seed}"])


def short(name: str) -> str:
    """A run's name as every database takes it: a longer one lacks its middle, as the seed stands at either end."""
    end = LONGEST // 5
    return name if len(name) <= LONGEST else f"{name[: LONGEST - end - 1]}…{name[-end:]}"


def setting(overrides: Iterable[str], apart: Sequence[str]) -> str:
    """The values of the keys `apart`, shortest first, whatever the seed: `micro lr=0.01`."""
    within = [o for o in overrides if identifies(o) and o.lstrip("+~").partition("=")[0] in apart]
    return " ".join(sorted(map(_short, within), key=len))


def _short(override: str) -> str:
    """`micro` for an option of a group, `lr=0.01` for a key: its last part says what it is."""
    key, _, value = override.partition("=")
    return f"{key.rpartition('.')[2]}={value}" if "." in key else value


def command(overrides: Iterable[str]) -> str:
    """What computes the run again, without where it was kept and watched: addresses may hold a password."""
    kept = [o for o in overrides if identifies(o) or o.partition("=")[0] in ("seed", "threads")]
    return shlex.join(["python", "main.py", *kept])


def description(overrides: Iterable[str], found: Mapping[str, float] | None = None) -> str:
    """Markdown that MLflow shows at the head of a run: its command and, once it has ended, the numbers that matter.

    Its table of metrics begins with the machine's and with those of training, and has fifty.
    """
    rows = "".join(f"- {name}: **{value:.4g}**\n" for name, value in (found or {}).items())
    lines = [""]
    for word in map(shlex.quote, shlex.split(command(overrides))):
        if len(lines[-1]) + len(word) > COLUMNS and lines[-1].strip():
            lines.append(" ")
        lines[-1] += f" {word}" if lines[-1] else word
    return "```bash\n" + " \\\n".join(lines) + "\n```\n" + (f"\n{rows}" if rows else "")


def overrides_of(description: str) -> list[str] | None:
    """Of the command in it; None where it holds none."""
    told = re.search(r"^python main\.py (.*?)^```", description.replace("\\\n", ""), re.MULTILINE | re.DOTALL)
    return shlex.split(told[1]) if told else None


def source(overrides: Sequence[str], *, commit: str) -> dict[str, str]:
    """Tags that MLflow shows as source, version and description of a run, or of a sweep, whose `-m` is among `overrides`."""
    return {
        "mlflow.source.name": "main.py",
        "mlflow.source.type": "LOCAL",
        "mlflow.note.content": description(overrides),
        "facet.version": version(),
        **({"mlflow.source.git.commit": commit} if commit else {}),
    }


def apart() -> list[str]:
    """Of the sweep that this process is a job of; none outside one."""
    return list(filter(None, os.environ.get(SWEPT, "").split(",")))


@cache
def lawful(metric: str) -> str:
    """A metric's or a parameter's name as MLflow takes it: another character is its number (`ppl_C++`: `ppl_C-2b-2b`),
    a long one is cut.

    So names that differ in such characters, or at their ends, stay apart.
    """
    name = re.sub(r"[^/\w.\- :]", lambda found: f"-{ord(found[0]):x}", metric).strip()
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 17]}-{digest(name)}"


def means(
    groups: Mapping[str, list[dict[str, Any]]], metrics: Sequence[str], *, apart: Sequence[str]
) -> dict[str, float]:
    """`sweep/val/ppl micro` -> the mean over seeds of a setting's runs, under names that MLflow takes.

    groups: runs by what sets them apart so far, which grows with them: a setting is named by the values of `apart`, that its
    name stays the same from the first job on. Where those do not tell two settings apart, by the groups' own names.
    """
    short = {name: setting(runs[0]["overrides"], apart) for name, runs in groups.items()}
    if len(set(short.values())) < len(short):
        short = {name: name for name in groups}
    found = {}
    for name, runs in groups.items():
        for metric in metrics:
            values = [run["metrics"][metric] for run in runs if metric in run["metrics"]]
            told = short[name].replace("=", ":").translate(str.maketrans("", "", "{}[]'\",+~()"))
            if values:
                found[lawful(f"{MEAN}{metric} {told}")] = sum(values) / len(values)
    return found

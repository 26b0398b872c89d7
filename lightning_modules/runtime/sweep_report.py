"""What a sweep has found so far: a table with mean and 95% interval over seeds per setting, a plot, the failures."""

import contextlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from lightning_modules.common.tables import by_seeds, markdown, mean_ci
from lightning_modules.runtime import begun, naming, records
from lightning_modules.runtime.identity import by_setting

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Setting -> what is known of its jobs.
Settings = dict[str, list[dict[str, Any]]]


def said(sweep: Path) -> list[dict[str, Any]]:
    """The last word on every job; a line that a machine which died did not write whole is none."""
    path, found = sweep / records.JOBS, dict[str, dict[str, Any]]()
    for text in path.read_text().splitlines() if path.is_file() else ():
        with contextlib.suppress(ValueError, TypeError, KeyError):
            line = json.loads(text)
            found[line["folder"]] = line
    return list(found.values())


def jobs(sweep: Path) -> dict[str, dict[str, Any]]:
    """The last word on every job of `sweep.jsonl`, by its folder; a done one with its metrics."""
    found = {entry["folder"]: entry for entry in said(sweep)}
    for name, entry in found.items():
        try:
            result = records.result(sweep / name) if entry["status"] == "done" else None
        except ValueError as error:
            entry |= {"status": "failed", "reason": str(error)}
            continue
        entry |= {"metrics": result["metrics"], "run_id": result.get("run_id")} if result else {}
    return found


def counts(sweep: Path) -> dict[str, int]:
    status = [entry["status"] for entry in jobs(sweep).values()]
    return {name: status.count(name) for name in ("done", "failed", "stopped")}


def not_done(sweep: Path) -> list[dict[str, Any]]:
    return [entry for entry in jobs(sweep).values() if entry["status"] != "done"]


def settings(sweep: Path) -> Settings:
    """Jobs that are done, seeds together."""
    return by_setting([entry for entry in jobs(sweep).values() if "metrics" in entry])


def mixed(sweep: Path, groups: Settings) -> list[str]:
    """What forbids to take a setting's runs together, a sentence a setting: its config was edited between them."""
    return begun.mixed({name: [sweep / entry["folder"] for entry in runs] for name, runs in groups.items()})


def write(sweep: Path, *, objective: str, shown: Sequence[str] = (), drawn_within: float = 0.0) -> list[Path]:
    """report.md and, once a job is done, report.png in the sweep's folder; the paths of what was written.

    drawn_within: a picture that is no older, in seconds, is left as it is: of a hundred short jobs drawing takes longer than
    some of them.
    """
    entries = list(jobs(sweep).values())
    done = [entry for entry in entries if "metrics" in entry]
    groups = by_setting(done)
    columns = [name for name in dict.fromkeys((objective, *shown)) if any(name in e["metrics"] for e in done)]
    text = f"# {sweep.name}: {len(done)} of {len(entries)} jobs done\n\nMean ± 95% interval over seeds.\n\n"
    text += markdown(*by_seeds(groups, {name: name for name in columns}))
    if lost := [entry for entry in entries if entry["status"] != "done"]:
        text += "\n## Not done\n\n"
        text += markdown(
            ["job", "status", "reason"], [[" ".join(e["overrides"]), e["status"], e["reason"]] for e in lost]
        )
    if unlike := mixed(sweep, groups):
        text += "\n## Not of one config\n\n" + "".join(f"- {sentence}\n" for sentence in unlike)
    (sweep / "report.md").write_text(text)
    if not done:
        return [sweep / "report.md"]
    picture = sweep / "report.png"
    if picture.is_file() and time.time() - picture.stat().st_mtime < drawn_within:
        return [sweep / "report.md"]
    from lightning_modules.common.style import save

    save(figure(groups, objective), picture)
    return [sweep / "report.md", picture]


def is_behind(sweep: Path) -> bool:
    """Whether jobs were done since the picture was drawn."""
    text, picture = sweep / "report.md", sweep / "report.png"
    return picture.is_file() and text.is_file() and picture.stat().st_mtime_ns < text.stat().st_mtime_ns


def means(sweep: Path, cfg: DictConfig) -> dict[str, float]:
    """Metrics of the parent run, so that sweeps compare in one chart: the shown metrics of every setting, over seeds."""
    groups = settings(sweep)
    shown = list(dict.fromkeys((cfg.objective_metric, *cfg.shown_metrics)))
    return naming.means(groups, shown, apart=naming.apart())


def figure(groups: Settings, objective: str) -> "Figure":
    """The objective of every job as a dot, with mean and interval per setting."""
    # matplotlib takes a second to import.
    from lightning_modules.common.style import COLOURS, panels

    drawn, axes = panels(
        1, 1, size=(6.5, 0.45 * len(groups) + 1.2), title=f"{objective} per setting, 95% interval over seeds"
    )
    axis = axes[0, 0]
    for row, runs in enumerate(groups.values()):
        values = [run["metrics"][objective] for run in runs if objective in run["metrics"]]
        if not values:
            continue
        estimate = mean_ci(values)
        axis.plot(values, [row] * len(values), "o", color=COLOURS[5], alpha=0.6, markersize=4)
        error = None if estimate.n < 2 else estimate.half_width
        axis.errorbar(estimate.mean, row, xerr=error, fmt="D", color=COLOURS[0], capsize=4)
    axis.set(yticks=range(len(groups)), yticklabels=list(groups), xlabel=objective, ylim=(len(groups) - 0.5, -0.5))
    return drawn

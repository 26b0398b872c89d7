"""What the page of a sweep shows: settings against metrics, run by run, with the interval over seeds."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run
from omegaconf import OmegaConf

from lightning_modules.common.tables import mean_ci
from lightning_modules.runtime import foreign, naming, records, sweep_report
from lightning_modules.runtime.identity import by_setting, identifies

KIND, TITLE = "sweep", "What the sweep found"
# Of a page: numbers of runs, so that a thousand jobs of hundreds of metrics stay a few megabytes.
CELLS = 400_000


def sweep_page(
    entries: Sequence[dict[str, Any]], *, objective: str, shown: Sequence[str] = (), name: str, text: bool = True
) -> dict[str, Any]:
    """entries: as `sweep_report.jobs` has them. Numbers have six significant digits. text: False leaves out the reasons of
    jobs that failed, which may quote the data.

    estimates: metric -> for each setting mean, half width of its 95% interval (None for one seed), number of seeds with a
    finite value, and of all that are done.
    """
    done = [entry for entry in entries if "metrics" in entry]
    groups = by_setting(done)
    first = list(dict.fromkeys((objective, *shown)))
    known = sorted({m for entry in done for m, value in entry["metrics"].items() if math.isfinite(value)})
    metrics = [m for m in first if m in known] + [m for m in known if m not in first]
    kept = metrics[: max(len(first), CELLS // max(1, len(done)))]
    common = set.intersection(*(set(e["overrides"]) for e in done)) if done else set()
    settings = [{"name": setting, "values": _apart(runs[0]["overrides"], common)} for setting, runs in groups.items()]
    return {
        "name": name,
        "verdict": verdict(groups, objective, entries=entries),
        "metrics": kept,
        "metrics_in_all": len(metrics),
        "keys": list(dict.fromkeys(key for setting in settings for key in setting["values"])),
        "settings": settings,
        "estimates": {m: [_estimate(_values(runs, m), len(runs)) for runs in groups.values()] for m in kept},
        "runs": [
            {
                "setting": place,
                # As the run's folder has it at its end.
                "seed": run["folder"].rpartition("-s")[2],
                "folder": run["folder"],
                "run_id": run.get("run_id"),
                "values": [_number(run["metrics"].get(m)) for m in kept],
            }
            for place, runs in enumerate(groups.values())
            for run in runs
        ],
        "not_done": [
            [" ".join(e["overrides"]), e["status"], e["reason"] if text else "not told (look.text=false)"]
            for e in entries
            if "metrics" not in e
        ],
    }


def verdict(groups: dict[str, list[dict[str, Any]]], objective: str, *, entries: Sequence[dict[str, Any]]) -> str:
    """The page's first sentences. groups: by setting those of `entries` that are done."""
    done = sum(map(len, groups.values()))
    said = f"{done} of {len(entries)} jobs done, in {len(groups)} settings."
    numbers = {name: _values(runs, objective) for name, runs in groups.items()}
    tried = {name: len(runs) + _failed(entries, runs) for name, runs in groups.items()}
    # Seeds that diverged or died are the worst of a setting: the mean of the others is not its.
    torn = [name for name, values in numbers.items() if values and len(values) < tried[name]]
    if torn:
        told = ", ".join(f"{name} ({len(numbers[name])} of {tried[name]})" for name in torn)
        said += f" Not compared, as seeds of them failed or have no finite {objective}: {told}."
    found = {name: mean_ci(values) for name, values in numbers.items() if values and name not in torn}
    if len(found) < 2:
        return said
    low, high = (pick(found, key=lambda name: found[name].mean) for pick in (min, max))
    said += f" {objective} is lowest with {low} ({found[low]}) and highest with {high} ({found[high]})"
    if min(found[low].n, found[high].n) < 2:
        return f"{said}; of a setting with one seed nothing tells how far seeds lie apart."
    apart = found[low].mean + found[low].half_width < found[high].mean - found[high].half_width
    return f"{said}; their intervals over seeds {'lie apart' if apart else 'overlap'}."


def of_folder(sweep: Path, *, text: bool = True) -> dict[str, Any]:
    """text: as of `sweep_page`; a sweep whose jobs were told look.text=false has none whatever is asked."""
    entries = list(sweep_report.jobs(sweep).values())
    done = [entry["folder"] for entry in entries if "metrics" in entry]
    if not done:
        raise ValueError(f"look={sweep}: no job of the sweep is done.")
    cfg: Any = OmegaConf.to_container(OmegaConf.load(sweep / done[0] / ".hydra" / "config.yaml"))
    shown, text = cfg["shown_metrics"], text and shows_text(cfg)
    return sweep_page(entries, objective=cfg["objective_metric"], shown=shown, name=sweep.name, text=text)


def of_run(client: MlflowClient, parent: Run, *, text: bool = True) -> dict[str, Any]:
    """Of a sweep's own run in MLflow: its folder where this machine has it, else its jobs' runs."""
    run_id, folder = parent.info.run_id, Path(parent.data.tags.get("facet.run", ""))
    if (folder / records.JOBS).is_file() and (records.sweep(folder) or {}).get("run_id") == run_id:
        return of_folder(folder, text=text) | {"name": parent.info.run_name}
    found = foreign.all_runs(client, [parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{run_id}'")
    jobs = {job.data.tags.get("folder", job.info.run_id): job for job in found}
    finished = [job for job in jobs.values() if job.info.status == "FINISHED"]
    if not finished:
        raise ValueError(f"look={run_id}: no job of the sweep is done.")
    cfg = foreign.stored(client, finished[0].info.run_id)
    entries = [_entry(folder, job) for folder, job in jobs.items()]
    shown = cfg.get("shown_metrics") or []
    name, text = parent.info.run_name, text and shows_text(cfg)
    return sweep_page(entries, objective=cfg["objective_metric"], shown=shown, name=name, text=text)


def shows_text(cfg: Mapping[Any, Any]) -> bool:
    """Whether who made a run let text of its data stand on its page."""
    # A run of before has no `look` in its config.
    return (cfg.get("look") or {}).get("text", True)


def _entry(folder: str, job: Run) -> dict[str, Any]:
    """As a line of sweep.jsonl."""
    overrides = naming.overrides_of(job.data.tags.get("mlflow.note.content", "")) or [job.info.run_name]
    entry = {"folder": folder, "overrides": overrides, "run_id": job.info.run_id, "reason": ""}
    if job.info.status == "FINISHED":
        return entry | {"status": "done", "metrics": foreign.metrics_of(job)}
    return entry | {"status": job.info.status.lower(), "reason": job.data.tags.get("failure_reason", "")}


def _apart(overrides: Sequence[str], common: set[str]) -> dict[str, float | str]:
    """Key -> value of what sets a setting apart, numbers as numbers."""
    pairs = (o.lstrip("+").partition("=") for o in overrides if identifies(o) and o not in common)
    return {key: _read(value) for key, _, value in pairs}


def _read(value: str) -> float | str:
    try:
        number = float(value)
    except ValueError:
        return value
    return number if math.isfinite(number) else value


def _failed(entries: Sequence[dict[str, Any]], runs: Sequence[dict[str, Any]]) -> int:
    """How many jobs of the setting of `runs` failed."""
    own = set(filter(identifies, runs[0]["overrides"]))
    return sum(e["status"] == "failed" and set(filter(identifies, e["overrides"])) == own for e in entries)


def _values(runs: Sequence[dict[str, Any]], metric: str) -> list[float]:
    return [v for run in runs if math.isfinite(v := run["metrics"].get(metric, math.nan))]


def _estimate(values: Sequence[float], runs: int) -> list[float | int | None] | None:
    if not values:
        return None
    found = mean_ci(values)
    return [_number(found.mean), _number(found.half_width), found.n, runs]


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")

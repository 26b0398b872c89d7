"""What the page of skill neurons shows: each task's most predictive neurons beside chance, and a portrait of every one.

Source: Wang et al. 2022, sections 3 to 5.
"""

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from lightning_modules.look.finished import Finished
from lightning_modules.skill_neurons.hooks import Neurons
from lightning_modules.skill_neurons.portraits import LEVEL, Labelled, Readings, elsewhere, portraits, top_neurons
from lightning_modules.skill_neurons.significance import Significance

KIND, TITLE = "neurons", "Which neurons tell a task's classes"
# Neurons of a task that are portrayed, and of a page in all.
MOST, OF_PAGE = 10, 600
# Of a portrait: what holds words of the data.
TEXTS = ("highest", "lowest", "drive_up", "drive_down")


class Task(NamedTuple):
    """pred_RLF: predictivity, the first row's with the true labels. read: what some neurons say, under one prompt."""

    name: str
    skill: str
    pred_RLF: Tensor
    significance: Significance | None
    data: Labelled
    read: Callable[[Neurons], Readings]


def neurons_page(
    *,
    name: str,
    tasks: Sequence[Task],
    p_values: int,
    balanced: bool = False,
    text: bool = True,
    done: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """p_values: labellings that they come from, 0 for none. done: what the study did to the neurons (`done_to`)."""
    most = max(1, min(MOST, OF_PAGE // len(tasks)))
    preds = {task.name: task.pred_RLF[0] for task in tasks}
    level = LEVEL / len(tasks)
    found: list[dict[str, Any]] = []
    passes: list[int | None] = []
    for task in tasks:
        top = top_neurons(preds[task.name], task.significance, most=most)
        neurons = [(row["layer"], row["unit"]) for row in top]
        drawn = portraits(task.read(neurons), task.data, tasks=len(tasks), balanced=balanced, text=text)
        passing = int((task.significance.family_LF <= level).sum()) if task.significance else None
        passes.append(passing)
        null = task.pred_RLF[1:].flatten(1).amax(1)
        found.append(
            {
                "task": task.name,
                "skill": task.skill,
                "classes": list(task.data.classes) if text else _numbered(len(task.data.classes)),
                "passing": passing,
                "neurons": preds[task.name].numel(),
                "null": float(null.mean()) if len(null) else None,
                "top": top,
                "portraits": drawn,
                "elsewhere": elsewhere(preds, neurons),
            }
        )
    return {
        "name": name,
        "text": text,
        "verdict": verdict(passes, p_values=p_values),
        "standing_out": standing_out(found),
        "tasks": found,
        "done": dict(done or {}),
    }


def standing_out(tasks: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row a task, its best neuron: first those with neurons beyond chance, surest first."""
    rows = [
        {"task": i, **{key: task["top"][0][key] for key in ("neuron", "predictivity", "family")}, "passing": passing}
        for i, task in enumerate(tasks)
        for passing in [task["passing"]]
    ]
    sure = lambda row: 1.0 if row["family"] is None else row["family"]  # noqa: E731
    return sorted(rows, key=lambda row: (not row["passing"], sure(row), -row["predictivity"]))


def verdict(passing: Sequence[int | None], *, p_values: int) -> str:
    """The page's first sentence."""
    tasks, level = len(passing), LEVEL / len(passing)
    if not p_values:
        return "This study asked for no p-values, so which of these neurons are more than chance is not known here."
    if 1 / (1 + p_values) > level:
        return (
            f"{p_values} labellings give no p-value of {level:.2g} or less ({LEVEL} over {tasks} tasks), so no neuron can "
            f"pass; study.p_values={math.ceil(1 / level) - 1} is the least that can."
        )
    able = sum(bool(count) for count in passing)
    if not able:
        return (
            "No neuron of any task tells its classes apart better than the best neuron of the whole model does under "
            "shuffled labels."
        )
    total = sum(count or 0 for count in passing)
    return (
        f"In {able} of {tasks} tasks neurons tell the classes apart better than the best neuron of the whole model does "
        f"under shuffled labels: {total} neuron{'s' * (total != 1)} in all."
    )


def done_to(table: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """task -> `title`, `columns` and `rows` of what a study did, means over its trials; {} of no table.

    table: `perturbation`, `pruning` or `best_neurons_by_prompt`, a table of the study; rows: its rows.
    """
    if not table:
        return {}
    title, keys, values = _DONE[table]
    found: dict[str, Any] = {}
    for task in dict.fromkeys(row["task"] for row in rows):
        groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
        for row in rows:
            if row["task"] == task:
                groups.setdefault(tuple(row[key] for key in keys), []).append(row)
        means = [[*key, *(sum(r[v] for r in same) / len(same) for v in values)] for key, same in groups.items()]
        found[task] = {"table": table, "title": title, "columns": [*keys, *values], "rows": means}
    return found


_DONE: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "perturbation": ("What noise on neurons did", ("kind", "neurons", "share"), ("accuracy",)),
    "pruning": ("What pruning to neurons did", ("kept", "share"), ("parameters left", "whole", "at once", "tuned on")),
    "best_neurons_by_prompt": (
        "Its best neuron under other prompts",
        (),
        ("tuned", "hard", "random", "random model", "null"),
    ),
}


def without_text(found: Mapping[str, Any]) -> dict[str, Any]:
    """A page's part of a run, every word of the data left out."""
    tasks = [
        {
            **task,
            "classes": _numbered(len(task["classes"])),
            "portraits": [{key: value for key, value in p.items() if key not in TEXTS} for p in task["portraits"]],
        }
        for task in found["tasks"]
    ]
    return {**found, "text": False, "tasks": tasks}


def _numbered(classes: int) -> list[str]:
    return [f"class {c}" for c in range(classes)]


def page(run: Finished) -> dict[str, Any]:
    """The page's part of a finished study: as it made it, else from the prompts and tables that are kept of it.

    Raises ValueError where prompts are not kept: they would be trained again.
    """
    from hydra.utils import instantiate

    if run.own:
        raise ValueError(f"{run.name}: look.text={run.own} works with runs of moe alone; expected true or false.")
    earlier = run.earlier()
    if earlier and earlier["kind"] == KIND:
        found = earlier["runs"][0]
        if found["text"] or not run.text:
            return found if run.text else without_text(found)
    study = instantiate(run.cfg.study)
    study.prepare()
    missing = [thing for thing in study.needs() if not thing.is_kept]
    if missing:
        raise ValueError(
            f"{run.name}: {len(missing)} of what its page is made from are not kept here, {missing[0].kind} "
            f"{missing[0].label} first; the command of the run, given again with fresh=true, trains them and makes the page."
        )
    rows = read_table(run.artifact("tables") / f"{study.outcome}.csv") if study.outcome else []
    return study.portrayed(rows, text=run.text)


def read_table(path: Path) -> list[dict[str, Any]]:
    """Rows of a table that a study wrote, numbers as numbers."""

    def cell(text: str) -> Any:
        try:
            return float(text)
        except ValueError:
            return text

    with open(path, newline="") as file:
        return [{key: cell(value) for key, value in row.items()} for row in csv.DictReader(file)]

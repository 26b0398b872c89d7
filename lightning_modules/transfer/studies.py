"""Studies of prompt transfer: the matrix, what predicts it, across models, as a start for tuning, and retrieval.

Rules fixed beforehand: answers are scored over the target's label words on its test split; trial t of source and target go
together; relative performance is the score over that of the target's own prompt of the same trial.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_modules.common.bounds import Count
from lightning_modules.common.choices import check_choice, check_once
from lightning_modules.common.making import Thing
from lightning_modules.common.tables import mean_ci
from lightning_modules.prompt.prompt_file import PromptFile
from lightning_modules.runtime.study import Desk
from lightning_modules.skill_neurons.prompt_study import PromptStudy, mean
from lightning_modules.transfer import figures as draw
from lightning_modules.transfer import indicators as ind
from lightning_modules.transfer import look
from lightning_modules.transfer.curves import curve, thing
from lightning_modules.transfer.stacked import stack, stacked_accuracy


def known(metrics: dict[str, float]) -> dict[str, float]:
    """Those that are numbers: MLflow keeps no nan."""
    return {name: value for name, value in metrics.items() if value == value}


def relative_to(own: Tensor, scores: Tensor) -> Tensor:
    """`scores` over `own`; nan where a target's own prompt is never right, as nothing can be told relative to that."""
    return torch.where(own > 0, scores / own, torch.nan)


class Matrix(PromptStudy):
    """Zero-shot transfer, targets x sources x trials.

    Args:
        controls: tasks kept out of the means, as the one with flipped labels; they have a table of their own.
    """

    def __init__(self, *, controls: Sequence[str] = (), **shared: Any) -> None:
        super().__init__(**shared)
        for name in controls:
            check_choice("study.controls", name, self.tasks)
        self.controls = set(controls)

    def files(self, task: str) -> list[PromptFile]:
        return self.prompts.of_trials(task, self.seeds())

    @cached_property
    def scores(self) -> dict[str, Tensor]:
        """Test accuracy: `tuned` [targets, sources, trials]; `random` and `hard` (the target's hint) [targets, trials]."""
        files = {task: self.files(task) for task in self.tasks}
        tuned = stack([f for task in self.tasks for f in files[task]])
        rows: dict[str, list[Tensor]] = {"tuned": [], "random": [], "hard": []}
        for target in self.tasks:
            untuned = {kind: self.starts(target, kind, self.backbone) for kind in ("random", "hard")}
            every = torch.cat([tuned, *(torch.stack(p) for p in untuned.values())])
            found = stacked_accuracy(self.backbone, self.prompts.data(target), every)
            own, random, hard = found.split([len(tuned), *(len(p) for p in untuned.values())])
            rows["tuned"].append(own.view(len(self.tasks), self.trials))
            rows["random"].append(random)
            rows["hard"].append(hard.expand(self.trials))
        return {kind: torch.stack(values) for kind, values in rows.items()}

    @cached_property
    def relative(self) -> dict[str, Tensor]:
        """`scores` over that of the target's own prompt."""
        scores = self.scores
        own = torch.stack([scores["tuned"][i, i] for i in range(len(self.tasks))])
        return {
            "tuned": relative_to(own[:, None], scores["tuned"]),
            **{kind: relative_to(own, scores[kind]) for kind in ("random", "hard")},
        }

    @cached_property
    def plain(self) -> np.ndarray:
        """Which tasks are no controls, [tasks]."""
        return np.array([task not in self.controls for task in self.tasks])

    @cached_property
    def cells(self) -> dict[str, np.ndarray]:
        """`indicators.choices` without controls, [targets, sources] each."""
        plain = self.plain[:, None] & self.plain
        return {kind: cells & plain for kind, cells in ind.choices(self.skills, self.tasks).items()}

    def groups(self, relative: dict[str, Tensor]) -> dict[str, list[float]]:
        """Relative performance by kind of source: a value per trial, the mean over the cells that have one."""
        found = {
            "within type": relative["tuned"][self.cells["within"]].nanmean(0),
            "across types": relative["tuned"][self.cells["across"]].nanmean(0),
            "random prompt": relative["random"][self.plain].nanmean(0),
            "hard prompt": relative["hard"][self.plain].nanmean(0),
        }
        return {kind: values.tolist() for kind, values in found.items()}


class Transfer(Matrix):
    """The matrix (figure 3 of Su et al.)."""

    hard_prompts = True

    def run(self, desk: Desk) -> dict[str, float]:
        metrics, means = self.transferred(desk)
        self.page(desk, means)
        return metrics

    def transferred(self, desk: Desk) -> tuple[dict[str, float], dict[str, Any]]:
        """The matrix's tables and figure; (metrics, mean over trials of each measure [targets, sources + 2])."""
        scores, relative = self.scores, self.relative
        means = {}
        for name, values in (("accuracy", scores), ("relative", relative)):
            extra = [values[kind].mean(1)[:, None] for kind in ("random", "hard")]
            means[name] = torch.cat([values["tuned"].mean(2), *extra], 1)
            rows = self.by_task(means[name], "random prompt", "hard prompt")
            desk.table(name, [{"target": row.pop("task"), **row} for row in rows], show=False)
        desk.figure("transfer", draw.matrix_figure(means["relative"], tasks=self.tasks, skills=self.skills))
        groups = self.groups(relative)
        kinds = [{"source": kind, "relative performance": str(mean_ci(v))} for kind, v in groups.items()]
        desk.table("relative_by_kind", kinds)
        rows = []
        for i, control in enumerate(self.tasks):
            if control in self.controls:
                same = [j for j, t in enumerate(self.tasks) if self.skills[t] == self.skills[control] and j != i]
                from_skill, own = float(scores["tuned"][i, same].mean()), float(scores["tuned"][i, i].mean())
                rows.append({"target": control, "accuracy from its skill": from_skill, "its own prompt": own})
        if rows:
            desk.table("controls", rows)
        metrics = {f"prompt/relative_{kind.split()[0]}": mean(values) for kind, values in groups.items()}
        metrics |= {f"prompt/{row['target']}_from_its_skill": row["accuracy from its skill"] for row in rows}
        # Tasks of one skill have nothing across.
        return known(metrics), means

    def page(self, desk: Desk, matrices: Mapping[str, Any]) -> None:
        def make() -> dict[str, Any]:
            words = {t: look.nearest_words(self.backbone, self.tuned(t)[0]) for t in self.tasks} if desk.text else {}
            name = f"prompts of {len(self.tasks)} tasks, {self.trials} trial{'s' * (self.trials > 1)}"
            return look.matrix_page(
                tasks=self.tasks,
                skills=self.skills,
                matrices=matrices,
                words=words,
                name=name,
                controls=self.controls,
            )

        desk.page(look.KIND, look.TITLE, make)


class Indicators(Transfer):
    """The matrix, and each indicator beside it, per target (table 6 of Su et al., section 6.2 of Wang et al.).

    Args:
        names: of `indicators.INDICATORS`; None takes all. draws: permutations and bootstrap samples.
    """

    def __init__(self, *, names: Sequence[str] | None = None, draws: Count = 500, **shared: Any) -> None:
        super().__init__(**shared)
        self.names, self.draws = list(names or ind.INDICATORS), draws
        for name in self.names:
            check_choice("study.names", name, ind.INDICATORS)
        check_once("study.names", self.names)

    def probes(self, trial: int) -> list[ind.Probe]:
        found = []
        for task in self.tasks:
            prompt = self.tuned(task)[trial]
            active = ind.active_LF(self.backbone, self.prompts.data(task), prompt)
            found.append(ind.Probe(task, prompt, active, self.predictivity(task)[0], self.skill_neurons(task)))
        return found

    def run(self, desk: Desk) -> dict[str, float]:
        metrics, means = self.transferred(desk)
        relative = self.relative["tuned"].numpy()
        transfer = relative.mean(2)
        rows, points = [], {}
        # A control is in no mean, nor in the exchanges that a p-value comes from.
        plain = np.ix_(self.plain, self.plain)
        probes = [self.probes(trial) for trial in range(self.trials)]
        for name in self.names:
            matrix = np.mean([ind.indicator_matrix(p, name) for p in probes], axis=0)
            points[name] = (matrix, transfer)
            for kind, cells in self.cells.items():
                found = ind.correlation(matrix[plain], transfer[plain], cells[plain], draws=self.draws, seed=self.seed)
                rows.append({"indicator": name, "cells": kind, **found})
                metrics[f"prompt/rho_{name}_{kind}"] = found["rho"]
            desk.say(f"{name}: rho {metrics[f'prompt/rho_{name}_all']:.3f}")
        desk.table("indicators", rows)
        self.page(desk, means | {name: matrix for name, (matrix, _) in points.items()})
        figure = draw.indicators_figure(
            points,
            within=self.cells["within"],
            across=self.cells["across"],
            rho={n: metrics[f"prompt/rho_{n}_all"] for n in points},
        )
        desk.figure("indicators", figure)
        # There is no correlation where all of a target's sources do alike.
        return known(metrics)


class Suggest(Matrix):
    """Which stored prompt to start a new task from: rank by an indicator, then tune from the best.

    Args:
        target: the new task. indicator: of `indicators.INDICATORS` that needs no predictivity.
        probe_steps: of the short tuning that gives the target a prompt to compare.
        cadence: steps between two evaluations of the tuning that follows.
    """

    starts_from = ("from the suggested prompt", "vanilla")

    def __init__(
        self,
        *,
        target: str | None,
        indicator: str = "on_top",
        probe_steps: Count = 30,
        cadence: Count = 25,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        if target is None:
            raise ValueError(
                f"target is null; expected the task to suggest a prompt for, one of {', '.join(self.tasks)}."
            )
        check_choice("target", target, self.prompts.source.names())
        allowed = [n for n in ind.INDICATORS if n not in ("on_skill", "spearman")]
        check_choice("study.indicator", indicator, allowed)
        self.target, self.indicator, self.probe_steps, self.cadence = target, indicator, probe_steps, cadence
        self.tasks = [task for task in self.tasks if task != target]

    def prepare(self) -> None:
        super().prepare()
        self.prompts.data(self.target).prepare_data()

    def needs(self) -> list[Thing]:
        """Of each stored task one prompt; of the target a short tuning and two whole ones."""
        seed = self.seeds()[0]
        stored = self.prompts.needs(self.tasks, [seed])
        probe = self.prompts.with_tuning(steps=self.probe_steps).thing(self.target, seed=seed)
        tunings = [
            thing(self.prompts, self.target, seed=seed, cadence=self.cadence, arm=arm) for arm in self.starts_from
        ]
        return [*stored, probe, *tunings]

    def run(self, desk: Desk) -> dict[str, float]:
        seed, data = self.seeds()[0], self.prompts.data(self.target)
        stored = [self.prompts.prompt(task, seed=seed) for task in self.tasks]
        short = self.prompts.with_tuning(steps=self.probe_steps).prompt(self.target, seed=seed).weight
        zero_shot = stacked_accuracy(self.backbone, data, stack(stored), split="val")
        probe = ind.Probe(self.target, short, ind.active_LF(self.backbone, data, short))
        rank = {}
        for task, file in zip(self.tasks, stored, strict=True):
            active = ind.active_LF(self.backbone, data, file.weight)
            rank[task] = ind.INDICATORS[self.indicator](probe, ind.Probe(task, file.weight, active))
        order = sorted(rank, key=rank.__getitem__, reverse=True)
        val = dict(zip(self.tasks, zero_shot.tolist(), strict=True))
        rows = [{"stored prompt": t, self.indicator: rank[t], "zero-shot val accuracy": val[t]} for t in order]
        desk.table("suggested", rows)
        named = order[0]
        best = stored[self.tasks.index(named)]
        starts = dict(zip(self.starts_from, (best.weight, None), strict=True))
        curves = {
            name: [curve(self.prompts, self.target, seed=seed, start=start, cadence=self.cadence, arm=name)]
            for name, start in starts.items()
        }
        desk.figure("tuning", draw.curves_figure({self.target: curves}))
        place = best.save(desk.folder / "export" / "prompt.safetensors")
        untuned = curves["vanilla"][0][0]
        verdict = f"prompt.file={place} starts from it" if val[named] > untuned else "do not start from it"
        desk.say(
            f"{self.target}: the best stored prompt is {named}'s; untouched it scores {val[named]:.3f}, an untuned one "
            f"{untuned:.3f}: {verdict}."
        )
        own = {name: list(found[0].values())[-1] for name, found in curves.items()}
        return {
            "prompt/suggested_zero_shot": val[named],
            "prompt/best_zero_shot": max(val.values()),
            "prompt/suggested_final": own["from the suggested prompt"],
            "prompt/vanilla_final": own["vanilla"],
        }

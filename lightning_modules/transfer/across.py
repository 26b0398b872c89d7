"""Transferred prompts as the start of tuning, and across models (sections 4.3 and 5 of Su et al.)."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lightning_modules.common.bounds import Count, Positive, Share
from lightning_modules.common.choices import check_choice, check_once
from lightning_modules.common.making import Thing, watcher
from lightning_modules.common.tables import mean_ci
from lightning_modules.prompt.prompts import Prompts
from lightning_modules.runtime.study import Desk
from lightning_modules.skill_neurons.prompt_study import mean
from lightning_modules.transfer import figures as draw
from lightning_modules.transfer import projector as pj
from lightning_modules.transfer.curves import Curve, curve, speed_ups, thing
from lightning_modules.transfer.stacked import stack, stacked_accuracy
from lightning_modules.transfer.studies import Matrix, relative_to


class Across(Matrix):
    """What the two studies of cross-model transfer share.

    Args:
        source_prompts: of the other model. train_tasks: whose prompts the projector learns from.
        hidden, projector_lr, steps: of the projector.
    """

    def __init__(
        self,
        *,
        source_prompts: Prompts,
        train_tasks: Sequence[str],
        hidden: Count = 64,
        projector_lr: Positive = 3e-3,
        steps: Count = 400,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        if source_prompts.length != self.prompts.length:
            raise ValueError(
                f"source_prompts.length is {source_prompts.length}; expected prompt.length={self.prompts.length}: a "
                "projected prompt has as many tokens as its source."
            )
        for name in train_tasks:
            check_choice("study.train_tasks", name, self.tasks)
        check_once("study.train_tasks", train_tasks)
        self.source_prompts, self.train_tasks = source_prompts, list(train_tasks)
        self.hidden, self.projector_lr, self.steps = hidden, projector_lr, steps

    def sources(self, task: str) -> Tensor:
        """The other model's prompts of `task`, [trials, P, H]."""
        return stack(self.source_prompts.of_trials(task, self.seeds()))

    def projector(self, *, objective: str, variant: str) -> pj.Projector:
        data = [self.prompts.datamodule(t, seed=s) for t in self.train_tasks for s in self.seeds()]
        targets_NPG = stack([f for t in self.train_tasks for f in self.files(t)])
        prompts_NPH = torch.cat([self.sources(t) for t in self.train_tasks])
        with watcher().making(self.projecting(objective=objective, variant=variant)):
            return pj.train_projector(
                steps=self.steps,
                seed=self.seed,
                variant=variant,
                hidden=self.hidden,
                backbone=self.backbone,
                prompts_NPH=prompts_NPH,
                targets_NPG=targets_NPG,
                data=data,
                objective=objective,
                lr=self.projector_lr,
            )

    def projecting(self, *, objective: str, variant: str) -> Thing:
        why = "it takes the other model's prompts to this one"
        ask = partial(self.projector, objective=objective, variant=variant)
        return Thing("projector", f"{variant} {objective}", f"seed {self.seed}", self.steps, why, ask=ask)

    def kind(self, task: str) -> str:
        if task in self.train_tasks:
            return "trained on"
        similar = self.skills[task] in {self.skills[t] for t in self.train_tasks}
        return "unseen, same skill" if similar else "unseen, other skill"


class Project(Across):
    """Zero-shot transfer across models by projector, by objective and variant, on seen and unseen tasks (table 4)."""

    def needs(self) -> list[Thing]:
        return [
            *super().needs(),
            *self.source_prompts.needs(self.tasks, self.seeds()),
            *(self.projecting(objective=objective, variant=variant) for variant, objective in pj.WAYS),
        ]

    def run(self, desk: Desk) -> dict[str, float]:
        own = {t: stacked_accuracy(self.backbone, self.prompts.data(t), stack(self.files(t))) for t in self.tasks}
        found: dict[tuple[str, str], dict[str, list[float]]] = {}
        rows: list[dict[str, Any]] = []
        metrics: dict[str, float] = {}

        def note(variant: str, objective: str, task: str, prompts_KPH: Tensor) -> None:
            scores = stacked_accuracy(self.backbone, self.prompts.data(task), prompts_KPH)
            accuracy, relative = float(scores.mean()), float(relative_to(own[task], scores).mean())
            about = {"projector": variant, "objective": objective, "task": task, "kind": self.kind(task)}
            rows.append({**about, "accuracy": accuracy, "relative": relative})
            if task not in self.controls:
                found.setdefault((variant, objective), {}).setdefault(self.kind(task), []).append(relative)

        for task in self.tasks:
            note("random prompt", "-", task, torch.stack(self.starts(task, "random", self.backbone)))
        for variant, objective in pj.WAYS:
            projector = self.projector(objective=objective, variant=variant)
            for task in self.tasks:
                note(variant, objective, task, projector(self.sources(task)))
            shown = ", ".join(f"{k} {mean(v):.3f}" for k, v in found[variant, objective].items())
            desk.say(f"{variant}, {objective}: {shown}")
        desk.table("projected", rows, show=False)
        kinds = list(dict.fromkeys(self.kind(t) for t in self.tasks))
        table = []
        for (variant, objective), values in found.items():
            cells = {kind: str(mean_ci(values[kind])) if kind in values else "-" for kind in kinds}
            table.append({"projector": variant, "objective": objective, **cells})
        desk.table("projected_means", table)
        desk.figure("projected", draw.projector_figure({" ".join(arm): v for arm, v in found.items()}, kinds=kinds))
        for (variant, objective), values in found.items():
            name = variant.replace(" ", "_") if objective == "-" else f"{variant}_{objective}"
            metrics |= {f"prompt/{name}_{k.replace(',', '').replace(' ', '_')}": mean(v) for k, v in values.items()}
        return metrics


class Tpt(Across):
    """Tuning from transferred prompts against vanilla, at one cadence (figure 4 and table 5 of Su et al.).

    Args:
        targets: tasks tuned. cadence: steps between evaluations. tolerance: below the best that counts as converged.
        other_model: whether tuning from its projected prompts is tried too; without it nothing of that model is made.
        variant: of the projector.
    """

    def __init__(
        self,
        *,
        targets: Sequence[str],
        cadence: Count = 10,
        tolerance: Share = 0.01,
        other_model: bool = True,
        variant: str = "flat",
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        check_choice("study.variant", variant, pj.VARIANTS)
        for name in targets:
            check_choice("study.targets", name, self.tasks)
        check_once("study.targets", targets)
        self.targets, self.cadence, self.tolerance = list(targets), cadence, tolerance
        self.other_model, self.variant = other_model, variant

    def similar(self, target: str) -> str | None:
        """The task whose prompts it is started from, of the same skill; None when there is none."""
        others = (t for t in self.tasks if t not in (target, *self.controls))
        return next((t for t in others if self.skills[t] == self.skills[target]), None)

    def needs(self) -> list[Thing]:
        here = [t for target in self.targets if (t := self.similar(target))]
        elsewhere = []
        if self.other_model:
            here = [*self.train_tasks, *here]
            there = list(dict.fromkeys([*self.train_tasks, *self.targets]))
            projector = self.projecting(objective="task", variant=self.variant)
            elsewhere = [*self.source_prompts.needs(there, self.seeds()), projector]
        tunings = [
            thing(self.prompts, target, seed=seed, cadence=self.cadence, arm=arm)
            for target in self.targets
            for arm in ("vanilla", *["TPT task"] * bool(self.similar(target)), *["TPT model"] * self.other_model)
            for seed in self.seeds()
        ]
        return [
            *self.prompts.needs(list(dict.fromkeys(here)), self.seeds()),
            *elsewhere,
            *tunings,
        ]

    def run(self, desk: Desk) -> dict[str, float]:
        projector = self.projector(objective="task", variant=self.variant) if self.other_model else None
        curves: dict[str, dict[str, list[Curve]]] = {}
        rows: list[dict[str, Any]] = []
        for target in self.targets:
            starts: dict[str, list[Tensor | None]] = {"vanilla": [None] * self.trials}
            if similar := self.similar(target):
                starts["TPT task"] = [f.weight for f in self.files(similar)]
            if projector is not None:
                starts["TPT model"] = list(projector(self.sources(target)))
            curves[target] = {
                arm: [
                    curve(self.prompts, target, seed=seed, start=start, cadence=self.cadence, arm=arm)
                    for seed, start in zip(self.seeds(), prompts, strict=True)
                ]
                for arm, prompts in starts.items()
            }
            for arm, found in curves[target].items():
                for trial, (vanilla, one) in enumerate(zip(curves[target]["vanilla"], found, strict=True)):
                    speed = speed_ups(vanilla, one, tolerance=self.tolerance)
                    last = list(one.values())[-1]
                    rows.append(
                        {"start": arm, "target": target, "trial": trial, "step 0": one[0], "last": last, **speed}
                    )
            desk.say(
                f"{target}: "
                + ", ".join(f"{a} starts at {mean([c[0] for c in f]):.3f}" for a, f in curves[target].items())
            )
        desk.table("speed_ups", rows, show=False)
        steps = [
            {"target": target, "start": start, "trial": trial, "step": step, "accuracy": accuracy}
            for target, starts in curves.items()
            for start, trials in starts.items()
            for trial, found in enumerate(trials)
            for step, accuracy in found.items()
        ]
        desk.table("curves", steps, show=False)
        desk.figure("tuning", draw.curves_figure(curves))
        summary = []
        metrics: dict[str, float] = {}
        for arm in dict.fromkeys(row["start"] for row in rows):
            own = [row for row in rows if row["start"] == arm]
            there = [row["comparable"] for row in own if row["comparable"] is not None]
            cells = {key: mean([row[key] for row in own]) for key in ("step 0", "last", "convergence")}
            never = len(own) - len(there)
            summary.append({"start": arm, **cells, "comparable": mean(there), "never there": f"{never} of {len(own)}"})
            name = arm.replace(" ", "_").lower()
            metrics |= {f"prompt/{name}_{key.replace(' ', '')}": value for key, value in cells.items()}
            if there:
                metrics[f"prompt/{name}_comparable"] = mean(there)
            metrics[f"prompt/{name}_censored"] = float(never)
        desk.table("speed_up_means", summary)
        return metrics

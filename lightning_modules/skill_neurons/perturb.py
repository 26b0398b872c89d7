"""Perturbing skill neurons (section 4 of Wang et al.), and what every intervention shares.

Rules fixed beforehand: arms of a task share prompts, examples, noise seeds and per-layer counts of neurons; what is chosen
is chosen on validation examples, what is reported is the test split's.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from lightning_modules.common.bounds import Count, Positive, Share
from lightning_modules.common.choices import check_choice, check_once
from lightning_modules.common.tables import mean_ci
from lightning_modules.prompt.backbone import Backbone
from lightning_modules.runtime.study import Desk
from lightning_modules.skill_neurons import figures as draw
from lightning_modules.skill_neurons import predictivity as sn
from lightning_modules.skill_neurons.hooks import KINDS, Perturbation
from lightning_modules.skill_neurons.prompt_study import PromptStudy, accuracy, mean

Curves = dict[str, dict[str, dict[float, list[float]]]]


class Intervention(PromptStudy):
    """Perturbations with their controls.

    Args:
        shares: of each layer's neurons perturbed. alpha: of the noise, in `unit`: `std` of each neuron, or `absolute`.
        kinds: of perturbation. draws: random choices of neurons, at least 5 for an interval.
        examples: test examples of an evaluation.
    """

    def __init__(
        self,
        *,
        shares: Sequence[Share] = (0.0, 0.02, 0.05, 0.1, 0.2),
        alpha: Positive = 2.0,
        unit: str = "std",
        kinds: Sequence[str] = KINDS,
        draws: Count = 5,
        examples: Count = 256,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        check_choice("study.unit", unit, ("std", "absolute"))
        for kind in kinds:
            check_choice("study.kinds", kind, KINDS)
        check_once("study.kinds", kinds)
        check_once("study.shares", shares)
        self.shares, self.alpha, self.unit, self.kinds = list(shares), alpha, unit, list(kinds)
        self.draws, self.examples = draws, examples

    def masks(self, task: str, *, share: float) -> dict[str, list[Tensor]]:
        """arm -> masks [L, F] of equal counts per layer: the task's, random ones, those of tasks of other skills."""
        own = self.skill_neurons(task, share=share)
        others = [other for other in self.tasks if self.skills[other] != self.skills[task]]
        # One task of each other skill: more of one skill would say the same again.
        firsts = list({self.skills[other]: other for other in reversed(others)}.values())
        return {
            "skill neurons": [own],
            "random neurons": [sn.random_like(own, seed=self.drawn(task, draw)) for draw in range(self.draws)],
            "other skills' neurons": [sn.select_like(self.predictivity(other)[0], own) for other in firsts],
        }

    def perturbed(
        self, model: Backbone, task: str, prompt: Tensor | None, masks: Sequence[Tensor], kind: str, found: sn.Moments
    ) -> float:
        """Test accuracy, mean over an arm's masks; `found` are the neurons' moments in this model with this prompt."""
        scale, data = found.std_LF if self.unit == "std" else None, self.prompts.data(task)
        shared = dict[str, Any](kind=kind, alpha=self.alpha, scale_LF=scale, mean_LF=found.mean_LF)
        values = []
        for number, mask in enumerate(masks):
            see = Perturbation(mask_LF=mask, seed=self.drawn(task, number), **shared)
            values.append(accuracy(model, data, prompt, see=see, examples=self.examples))
        return mean(values)


class Perturb(Intervention):
    """Curves of accuracy against the share perturbed, for each kind of perturbation (figures 4 and 5 of Wang et al.)."""

    outcome = "perturbation"

    def run(self, desk: Desk) -> dict[str, float]:
        curves: Curves = {k: {} for k in self.kinds}
        rows: list[dict[str, Any]] = []
        for task in self.tasks:
            data = self.prompts.data(task)
            for prompt in self.tuned(task):
                found = sn.moments(self.backbone, data.fixed("val"), prompt)
                whole = accuracy(self.backbone, data, prompt, examples=self.examples)
                for share in self.shares:
                    for arm, masks in self.masks(task, share=share).items():
                        for kind in self.kinds:
                            value = whole
                            if share > 0:
                                value = self.perturbed(self.backbone, task, prompt, masks, kind, found)
                            curves[kind].setdefault(arm, {}).setdefault(share, []).append(value)
                            rows.append({"task": task, "kind": kind, "neurons": arm, "share": share, "accuracy": value})
            own = [row for row in rows if row["task"] == task and row["share"] > 0]
            shown = {
                arm: mean([row["accuracy"] for row in own if row["neurons"] == arm]) for arm in curves[self.kinds[0]]
            }
            desk.say(f"{task}: " + ", ".join(f"{arm} {value:.3f}" for arm, value in shown.items()))
        desk.table("perturbation", rows, show=False)
        desk.figure("perturbation", draw.perturbation_figure(curves))
        summary: list[dict[str, Any]] = []
        metrics: dict[str, float] = {}
        for kind, arms in curves.items():
            for share in self.shares:
                estimates = {arm: mean_ci(points[share]) for arm, points in arms.items()}
                summary.append({"kind": kind, "share": share, **{arm: str(e) for arm, e in estimates.items()}})
                metrics |= {f"prompt/{kind}_{arm.split()[0]}_{share:g}": value.mean for arm, value in estimates.items()}
        desk.table("perturbation_means", summary)
        over = [s for s in self.shares if s > 0]
        for kind in self.kinds:
            for control in ("random", "other"):
                drops = [
                    metrics[f"prompt/{kind}_{control}_{s:g}"] - metrics[f"prompt/{kind}_skill_{s:g}"] for s in over
                ]
                metrics[f"prompt/{kind}_drop_over_{control}"] = mean(drops)
        self.show_neurons(desk, rows)
        return metrics

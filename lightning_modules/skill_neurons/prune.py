"""Pruning to a task's skill neurons (section 6.1 of Wang et al.). The rules are those of `perturb`."""

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_modules.common.bounds import Count, Share
from lightning_modules.common.choices import check_once
from lightning_modules.common.making import Thing, watcher
from lightning_modules.common.tables import mean_ci
from lightning_modules.prompt.backbone import Backbone
from lightning_modules.prompt.module import PromptTuning
from lightning_modules.prompt.tuners import SoftPrompt
from lightning_modules.runtime.study import Desk
from lightning_modules.skill_neurons import figures as draw
from lightning_modules.skill_neurons import predictivity as sn
from lightning_modules.skill_neurons.prompt_study import PromptStudy, accuracy, mean
from lightning_modules.skill_neurons.removal import keep_mask, parameters_left, pruned
from lightning_modules.training.inner import inner_trainer, seeded


class Prune(PromptStudy):
    """Keep a task's skill neurons in the top layers, remove the others, tune the prompt on (section 6.1).

    Args:
        keep: shares of neurons kept. top_layers: pruned; the paper's are 9 of 12. retune: steps of tuning after it.
        batch: of the speed measured, of `rounds` alternating forwards.
    """

    outcome = "pruning"

    def __init__(
        self,
        *,
        keep: Sequence[Share] = (0.02, 0.05, 0.1),
        top_layers: Count = 9,
        retune: Count = 100,
        rounds: Count = 15,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        check_once("study.keep", keep)
        self.keep, self.top_layers, self.retune, self.rounds = list(keep), top_layers, retune, rounds

    def prepare(self) -> None:
        """ValueError for more layers than the backbone has."""
        super().prepare()
        if self.top_layers > (there := self.prompts.spec.layers):
            raise ValueError(
                f"study.top_layers is {self.top_layers}; expected at most {there}, the layers of the backbone."
            )

    def needs(self) -> list[Thing]:
        """Every prompt again on every pruned model."""
        return super().needs() + [
            self.thing(task, seed, share, arm)
            for task in self.tasks
            for seed in self.seeds()
            for share in self.keep
            for arm in ("skill neurons", "random neurons")
        ]

    def thing(self, task: str, seed: int, share: float, arm: str) -> Thing:
        detail = f"seed {seed}, {arm}, share {share:g}"
        why, trial = "the prompt adapts to the pruned model", self.seeds().index(seed)

        def ask() -> Tensor:
            # The whole model takes at least as long as a pruned one.
            prompt = self.prompts.prompt(task, seed=seed, trial=trial).weight
            return self.retuned(self.backbone, task, prompt, seed, share=share, arm=arm)

        return Thing("prompt tuned on", task, detail, self.retune, why, ask=ask)

    def run(self, desk: Desk) -> dict[str, float]:
        found: dict[tuple[str, float], list[float]] = {}
        left: dict[float, list[float]] = {}
        speed: dict[float, list[float]] = {}
        whole: list[float] = []
        rows: list[dict[str, Any]] = []
        for task in self.tasks:
            data = self.prompts.data(task)
            # The whole model's phrases, which the pruned ones take.
            self.backbone.embed_phrases(data.common)
            for trial, (seed, prompt) in enumerate(zip(self.seeds(), self.tuned(task), strict=True)):
                means = sn.moments(self.backbone, data.fixed("train"), prompt).mean_LF
                whole.append(accuracy(self.backbone, data, prompt))
                for share in self.keep:
                    own = self.skill_neurons(task, share=share)
                    arms = {"skill neurons": own, "random neurons": sn.random_like(own, seed=self.drawn(task, trial))}
                    for arm, mask in arms.items():
                        keep = keep_mask(mask, layers=self.top_layers)
                        small = pruned(self.backbone.model, keep_LF=keep, mean_LF=means)
                        size = parameters_left(self.backbone.model, small)
                        # Tasks differ in it where neurons are ranked within the whole model.
                        left.setdefault(share, []).append(size)
                        smaller = self.backbone.with_model(small)
                        at_once = accuracy(smaller, data, prompt)
                        again = self.retuned(smaller, task, prompt, seed, share=share, arm=arm)
                        after = accuracy(smaller, data, again)
                        found.setdefault((arm, share), []).append(after)
                        found.setdefault((f"{arm}, not tuned on", share), []).append(at_once)
                        rows.append(
                            {
                                "task": task,
                                "kept": arm,
                                "share": share,
                                "parameters left": size,
                                "whole": whole[-1],
                                "at once": at_once,
                                "tuned on": after,
                            }
                        )
                        if arm == "skill neurons":
                            speed.setdefault(share, []).append(self.speed_up(smaller, task, prompt))
            last = {row["kept"]: row["tuned on"] for row in rows}
            desk.say(
                f"{task}: whole {whole[-1]:.3f}, pruned {last['skill neurons']:.3f}, "
                f"random kept {last['random neurons']:.3f}"
            )
        desk.table("pruning", rows, show=False)
        sizes = {share: mean(found) for share, found in left.items()}
        points = [(arm, share, sizes[share], values) for (arm, share), values in found.items()]
        desk.figure("pruning", draw.pruning_figure(points, whole=whole))
        summary: list[dict[str, Any]] = []
        metrics: dict[str, float] = {"prompt/accuracy_whole": mean(whole)}
        for share in self.keep:
            values = {arm: v for (arm, s), v in found.items() if s == share}
            summary.append(
                {
                    "kept": share,
                    "parameters left": sizes[share],
                    "speed-up": mean(speed[share]),
                    **{arm: str(mean_ci(v)) for arm, v in values.items()},
                }
            )
            metrics |= {
                f"prompt/parameters_left_{share:g}": sizes[share],
                f"prompt/speed_up_{share:g}": mean(speed[share]),
                f"prompt/pruned_skill_{share:g}": mean(values["skill neurons"]),
                f"prompt/pruned_random_{share:g}": mean(values["random neurons"]),
            }
        desk.table("pruning_means", summary)
        self.show_neurons(desk, rows)
        return metrics

    def retuned(self, smaller: Backbone, task: str, prompt: Tensor, seed: int, *, share: float, arm: str) -> Tensor:
        """The prompt after `retune` more steps on the pruned model."""
        tuner = SoftPrompt(length=len(prompt), seed=seed)
        with seeded(seed), watcher().making(self.thing(task, seed, share, arm)):
            module = PromptTuning(backbone=smaller, tuner=tuner, lr=self.prompts.tuning["lr"])
            with torch.no_grad():
                tuner.weight.copy_(prompt)
            data = self.prompts.datamodule(task, seed=seed)
            inner_trainer(max_steps=self.retune).fit(module, datamodule=data)
        return tuner.weight.detach()

    @torch.no_grad()
    def speed_up(self, smaller: Backbone, task: str, prompt: Tensor) -> float:
        """Median time of a test batch in the whole model over that in the pruned one, taken in turns."""
        batch = self.backbone.placed(next(iter(self.prompts.data(task).fixed("test"))))
        times: dict[str, list[float]] = {"whole": [], "pruned": []}
        for _ in range(self.rounds):
            for name, model in (("whole", self.backbone), ("pruned", smaller)):
                start = time.perf_counter()
                # A device has computed when the host has a number of it.
                model.scores(batch, prompt).sum().item()
                times[name].append(time.perf_counter() - start)
        medians = {name: sorted(values)[len(values) // 2] for name, values in times.items()}
        return medians["whole"] / medians["pruned"]

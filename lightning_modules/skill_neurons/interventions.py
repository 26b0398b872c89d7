"""Studies that act on skill neurons: perturb them, ask where they come from, prune all others (sections 4 to 6).

Rules fixed beforehand: arms of a task share prompts, examples, noise seeds and per-layer counts of neurons; what is chosen
is chosen on validation examples, what is reported is the test split's.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_modules.common.bounds import Count, Positive, Share
from lightning_modules.common.choices import check_choice
from lightning_modules.common.making import Thing, watcher
from lightning_modules.common.tables import mean_ci
from lightning_modules.prompt.backbone import Backbone
from lightning_modules.prompt.prompts import Loaded
from lightning_modules.prompt.tuners import Adapter, BitFit, LoRA, SoftPrompt, Tuner
from lightning_modules.runtime.study import Desk
from lightning_modules.skill_neurons import figures as draw
from lightning_modules.skill_neurons import predictivity as sn
from lightning_modules.skill_neurons import pruning
from lightning_modules.skill_neurons.hooks import KINDS, Perturbation
from lightning_modules.skill_neurons.studies import PromptStudy, accuracy, mean

Curves = dict[str, dict[str, dict[float, list[float]]]]
TUNERS: dict[str, type[Tuner]] = {"bitfit": BitFit, "adapter": Adapter, "lora": LoRA}


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
            "random neurons": [sn.random_like(own, seed=draw) for draw in range(self.draws)],
            "other skills' neurons": [self.skill_neurons(other, share=share) for other in firsts],
        }

    def perturbed(
        self, model: Backbone, task: str, prompt: Tensor | None, mask: Tensor, kind: str, found: Any
    ) -> float:
        """Test accuracy; `found` are the neurons' moments in this model with this prompt."""
        scale = found.std_LF if self.unit == "std" else None
        see = Perturbation(mask_LF=mask, kind=kind, alpha=self.alpha, scale_LF=scale, mean_LF=found.mean_LF)
        return accuracy(model, self.prompts.data(task), prompt, see=see, examples=self.examples)


class Perturb(Intervention):
    """Curves of accuracy against the share perturbed, for each kind of perturbation (figures 4 and 5 of Wang et al.)."""

    def run(self, desk: Desk) -> dict[str, float]:
        curves: Curves = {k: {} for k in self.kinds}
        rows = []
        for task in self.tasks:
            data = self.prompts.data(task)
            for prompt in self.tuned(task):
                found = sn.moments(self.backbone, data.fixed("val"), prompt)
                whole = accuracy(self.backbone, data, prompt, examples=self.examples)
                for share in self.shares:
                    for arm, masks in self.masks(task, share=share).items():
                        for kind in self.kinds:
                            values = (
                                [whole]
                                if share == 0
                                else [self.perturbed(self.backbone, task, prompt, mask, kind, found) for mask in masks]
                            )
                            curves[kind].setdefault(arm, {}).setdefault(share, []).append(mean(values))
                            rows.append(
                                {"task": task, "kind": kind, "neurons": arm, "share": share, "accuracy": mean(values)}
                            )
            own = [row for row in rows if row["task"] == task and row["share"] > 0]
            shown = {
                arm: mean([row["accuracy"] for row in own if row["neurons"] == arm]) for arm in curves[self.kinds[0]]
            }
            desk.say(f"{task}: " + ", ".join(f"{arm} {value:.3f}" for arm, value in shown.items()))
        desk.table("perturbation", rows, show=False)
        desk.figure("perturbation", draw.perturbation_figure(curves))
        summary, metrics = [], {}
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
        return metrics


class Origin(Intervention):
    """Are skill neurons there before tuning (section 5.2)? Prompts never tuned, a model never trained, other tuners.

    Args:
        learning_rates: of the tuners whose models the prompt's skill neurons are perturbed in.
    """

    def __init__(self, *, learning_rates: Mapping[str, Positive], **shared: Any) -> None:
        super().__init__(**shared)
        for name in learning_rates:
            check_choice("study.learning_rates", name, TUNERS)
        self.learning_rates = dict(learning_rates)

    def needs(self) -> list[Thing]:
        """A tuned model per task and tuner too."""
        return super().needs() + [
            self.prompts.thing(task, seed=self.seeds()[0], tuner=TUNERS[name](), lr=lr)
            for task in self.tasks
            for name, lr in self.learning_rates.items()
        ]

    def run(self, desk: Desk) -> dict[str, float]:
        best: dict[str, list[float]] = {}
        hurt: dict[str, dict[str, list[float]]] = {}
        rows, metrics = [], {}
        untrained = self.prompts.untrained()
        for task in self.tasks:
            tops = {kind: self.predictivity(task, kind=kind) for kind in ("tuned", "hard", "random")}
            tops["random model"] = self.predictivity(task, kind="random", backbone=untrained)
            own = {kind: float(pred[0].max()) for kind, pred in tops.items()}
            own["null"] = float(tops["tuned"][1:].flatten(1).amax(1).mean())
            for kind, value in own.items():
                best.setdefault(kind, []).append(value)
            alike = {k: float(sn.spearman([tops["tuned"][0], tops[k][0]])[0, 1]) for k in ("hard", "random")}
            rows.append({"task": task, **own, **{f"Spearman tuned, {k}": value for k, value in alike.items()}})
            for name, lr in self.learning_rates.items():
                data = self.prompts.data(task)
                module = self.prompts.tuned(task, seed=self.seeds()[0], tuner=TUNERS[name](), lr=lr)
                found = sn.moments(module.backbone, data.fixed("val"), None)
                whole = accuracy(module.backbone, data, None, examples=self.examples)
                hurt.setdefault(name, {}).setdefault("unperturbed", []).append(whole)
                for arm, masks in self.masks(task, share=self.share).items():
                    values = [self.perturbed(module.backbone, task, None, m, self.kinds[0], found) for m in masks]
                    hurt[name].setdefault(arm, []).append(mean(values))
            desk.say(f"{task}: best neuron " + ", ".join(f"{kind} {value:.3f}" for kind, value in own.items()))
        desk.table("best_neurons_by_prompt", rows)
        tuners = [{"tuner": n, **{arm: str(mean_ci(v)) for arm, v in arms.items()}} for n, arms in hurt.items()]
        if tuners:
            desk.table("other_tuners", tuners)
        desk.figure("origin", draw.origin_figure({"best neuron's accuracy, by prompt": best, **hurt}))
        metrics |= {f"prompt/best_neuron_{kind.replace(' ', '_')}": mean(values) for kind, values in best.items()}
        for name, arms in hurt.items():
            metrics |= {f"prompt/{name}_{arm.split()[0]}": mean(values) for arm, values in arms.items()}
        return metrics


class Prune(Intervention):
    """Keep a task's skill neurons in the top layers, remove the others, tune the prompt on (section 6.1).

    Args:
        keep: shares of neurons kept. top_layers: pruned; the paper's are 9 of 12. retune: steps of tuning after it.
        batch: of the speed measured, of `rounds` alternating forwards.
    """

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
        self.keep, self.top_layers, self.retune, self.rounds = list(keep), top_layers, retune, rounds

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
        left: dict[float, float] = {}
        speed: dict[float, list[float]] = {}
        whole, rows = [], []
        for task in self.tasks:
            data = self.prompts.data(task)
            for seed, prompt in zip(self.seeds(), self.tuned(task), strict=True):
                means = sn.moments(self.backbone, data.fixed("train"), prompt).mean_LF
                whole.append(accuracy(self.backbone, data, prompt))
                for share in self.keep:
                    own = self.skill_neurons(task, share=share)
                    arms = {"skill neurons": own, "random neurons": sn.random_like(own, seed=seed)}
                    for arm, mask in arms.items():
                        keep = pruning.keep_mask(mask, layers=self.top_layers)
                        small = pruning.pruned(self.backbone.model, keep_LF=keep, mean_LF=means)
                        left[share] = pruning.parameters_left(self.backbone.model, small)
                        smaller = Backbone(small, self.backbone.tokenizer)
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
                                "parameters left": left[share],
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
        points = [(arm, share, left[share], values) for (arm, share), values in found.items()]
        desk.figure("pruning", draw.pruning_figure(points, whole=whole))
        summary, metrics = [], {"prompt/accuracy_whole": mean(whole)}
        for share in self.keep:
            values = {arm: v for (arm, s), v in found.items() if s == share}
            summary.append(
                {
                    "kept": share,
                    "parameters left": left[share],
                    "speed-up": mean(speed[share]),
                    **{arm: str(mean_ci(v)) for arm, v in values.items()},
                }
            )
            metrics |= {
                f"prompt/parameters_left_{share:g}": left[share],
                f"prompt/speed_up_{share:g}": mean(speed[share]),
                f"prompt/pruned_skill_{share:g}": mean(values["skill neurons"]),
                f"prompt/pruned_random_{share:g}": mean(values["random neurons"]),
            }
        desk.table("pruning_means", summary)
        return metrics

    def retuned(self, smaller: Backbone, task: str, prompt: Tensor, seed: int, *, share: float, arm: str) -> Tensor:
        """The prompt after `retune` more steps on the pruned model."""
        from lightning_modules.prompt.module import PromptTuning
        from lightning_modules.training.inner import inner_trainer, seeded

        tuner = SoftPrompt(length=len(prompt), seed=seed)
        with seeded(seed), watcher().making(self.thing(task, seed, share, arm)):
            module = PromptTuning(backbone=Loaded(smaller), tuner=tuner, lr=self.prompts.tuning["lr"])
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

"""Where skill neurons come from (section 5.2 of Wang et al.). The rules are those of `perturb`."""

from collections.abc import Mapping
from typing import Any

from lightning_modules.common.bounds import Positive
from lightning_modules.common.choices import check_choice
from lightning_modules.common.making import Thing
from lightning_modules.common.tables import mean_ci
from lightning_modules.prompt.tuners import Adapter, BitFit, LoRA, Tuner
from lightning_modules.runtime.study import Desk
from lightning_modules.skill_neurons import figures as draw
from lightning_modules.skill_neurons import predictivity as sn
from lightning_modules.skill_neurons.perturb import Intervention
from lightning_modules.skill_neurons.prompt_study import accuracy, mean

TUNERS: dict[str, type[Tuner]] = {"bitfit": BitFit, "adapter": Adapter, "lora": LoRA}


class Origin(Intervention):
    """Are skill neurons there before tuning (section 5.2)? Prompts never tuned, a model never trained, other tuners.

    Args:
        learning_rates: of the tuners whose models the prompt's skill neurons are perturbed in.
    """

    outcome = "best_neurons_by_prompt"
    hard_prompts = True

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
        rows: list[dict[str, Any]] = []
        metrics: dict[str, float] = {}
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
                    value = self.perturbed(module.backbone, task, None, masks, self.kinds[0], found)
                    hurt[name].setdefault(arm, []).append(value)
            desk.say(f"{task}: best neuron " + ", ".join(f"{kind} {value:.3f}" for kind, value in own.items()))
        desk.table("best_neurons_by_prompt", rows)
        tuners = [{"tuner": n, **{arm: str(mean_ci(v)) for arm, v in arms.items()}} for n, arms in hurt.items()]
        if tuners:
            desk.table("other_tuners", tuners)
        desk.figure("origin", draw.origin_figure({"best neuron's accuracy, by prompt": best, **hurt}))
        metrics |= {f"prompt/best_neuron_{kind.replace(' ', '_')}": mean(values) for kind, values in best.items()}
        for name, arms in hurt.items():
            metrics |= {f"prompt/{name}_{arm.split()[0]}": mean(values) for arm, values in arms.items()}
        self.show_neurons(desk, rows)
        return metrics

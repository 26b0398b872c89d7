"""Studies of objectives on one base model: compare (and ablate), and gain against visual dependency.

The rules of arms and of their learning rates stand in `arms`.
"""

from typing import Any

from datamodules.scenes.pairs import scene_pairs
from lightning_modules.common.bounds import Count
from lightning_modules.runtime.study import Desk
from lightning_modules.svco import figures as draw
from lightning_modules.svco import grounding, look
from lightning_modules.svco.arms import Arms, tried_row
from lightning_modules.svco.evaluation import Found, dependency, evaluate
from lightning_modules.svco.models import VLM
from lightning_modules.training.inner import device

SHOWN = {
    "svco/paired_all": "paired",
    "svco/hallucination_rate": "hallucination",
    "svco/caption_accuracy_unbiased": "caption accuracy",
    "svco/accuracy_counterfactual": "counterfactual",
    "svco/pope_adversarial": "POPE adversarial",
    "svco/ppl_caption": "PPL caption",
    "svco/ppl_text": "PPL text",
    "svco/order_right": "order",
}


class Base:
    """The base model alone: what it says with the image, and what it would say without."""

    def __init__(self, *, model: VLM, pixels: Count = 48, scenes_each: Count = 60, test_pairs: Count = 240) -> None:
        self.vlm, self.pixels, self.scenes_each, self.test_pairs = model, pixels, scenes_each, test_pairs

    def prepare(self) -> None:
        """Nothing to fetch."""

    def fingerprint(self) -> dict[str, str]:
        return {"data": self.vlm.fingerprint()}

    def run(self, desk: Desk) -> dict[str, float]:
        pairs = scene_pairs(count=self.test_pairs, seed=0, split="test", prior=0.0, describe=0.5)
        found = evaluate(self.vlm.to(device()), pairs=pairs, scenes_each=self.scenes_each, pixels=self.pixels)
        rows = [
            {"benchmark": n, "with the image": score, "without": without, "dependency": score - without}
            for n, score, without in ((n, score, found.without[n]) for n, score in found.with_image.items())
        ]
        desk.table("base", rows)
        desk.figure("log_probabilities", draw.conditions_figure(before=found.scores, after=found.scores))
        return found.metrics


class Compare(Arms):
    """Every objective at its own learning rate, on paired accuracy, hallucination and what must not be lost."""

    @property
    def shown(self) -> dict[str, str]:
        """Metric -> its word: what only scenes can tell is not asked of other pairs."""
        return SHOWN if self.on_scenes else {name: SHOWN[name] for name in ("svco/paired_all", "svco/order_right")}

    def run(self, desk: Desk) -> dict[str, float]:
        found = {"base": self.base_measured(desk)}
        rates = {"base": float("nan")}
        tried = [tried_row("base", rates["base"], self.base_val)] if self.chosen_by == "kept" else []
        for name in self.objectives:
            chosen = self.chosen(name, desk)
            rates[name] = chosen.lr
            tried += chosen.tried
            found[name] = self.measured(chosen.vlm)
        desk.table("learning_rates", tried, show=False)
        rows = [
            {"objective": n, "lr": f"{rates[n]:.0e}", **{word: f.metrics[m] for m, word in self.shown.items()}}
            for n, f in found.items()
        ]
        desk.table("comparison", rows)
        begin = "svco/paired_"
        categories = [n.removeprefix(begin) for n in found["base"].metrics if n.startswith(begin)]
        by_category = [
            {"objective": name, **{c: f.metrics[f"svco/paired_{c}"] for c in categories}} for name, f in found.items()
        ]
        desk.table("paired_by_category", by_category, show=False)
        values = {name: f.metrics for name, f in found.items()}
        desk.figure("objectives", draw.objectives_figure(values=values, shown=self.shown))
        last = "svco" if "svco" in found else list(found)[-1]
        desk.figure("log_probabilities", draw.conditions_figure(before=found["base"].scores, after=found[last].scores))
        desk.page(look.KIND, look.TITLE, lambda: self.page(found, text=desk.text))
        return {f"{m}_{name}": f.metrics[m] for name, f in found.items() for m in self.shown} | self.more(
            found, last, desk
        )

    def page(self, found: dict[str, Found], *, text: bool) -> dict[str, Any]:
        return look.pairs_page(
            pairs=self.test_set(),
            models={name: f.scores for name, f in found.items()},
            pixels=self.settings.pixels,
            name=f"{len(self.objectives)} objectives",
            text=text,
        )

    def more(self, found: dict[str, Found], last: str, desk: Desk) -> dict[str, float]:
        """What only scenes can tell: captions, scenes as in pretraining, gain against dependency."""
        if not self.on_scenes:
            return {}
        before, after = found["base"].captions, found[last].captions
        desk.figure("examples", draw.examples_figure(before=before, after=after, pixels=self.settings.pixels))
        metrics = {f"svco/accuracy_biased_{name}": f.metrics["svco/accuracy_biased"] for name, f in found.items()}
        for name in self.objectives:
            metrics[f"svco/dependency_rho_{name}"] = correlated(*dependency(found["base"], found[name]))["rho"]
        return metrics


def correlated(depends: dict[str, float], gain: dict[str, float]) -> dict[str, Any]:
    """The rank correlation of a gain with what it is held against, benchmark by benchmark."""
    return grounding.correlation(list(depends.values()), [gain[n] for n in depends])


class Dependency(Arms):
    """Does an objective gain most where the base model depends on the image most (section 5 of the paper)?"""

    def run(self, desk: Desk) -> dict[str, float]:
        base = self.base_measured(desk)
        if len(base.with_image) < 3:
            raise ValueError(
                f"{self.settings.source.name} has pairs of {len(base.with_image)} categories, too few for a correlation; "
                "expected three at least in the records' 'category', or study.judged_on=scenes."
            )
        metrics: dict[str, float] = {}
        rows: list[dict[str, Any]] = []
        for name in self.objectives:
            depends, gain = dependency(base, self.measured(self.chosen(name, desk).vlm))
            fit = correlated(depends, gain)
            metrics |= {f"svco/dependency_rho_{name}": fit["rho"], f"svco/dependency_p_{name}": fit["p"]}
            title = f"{name}: gain against visual dependency (Spearman {fit['rho']:.2f}, p = {fit['p']:.2g})"
            desk.figure(f"gain_{name}", draw.dependency_figure(dependency=depends, gain=gain, title=title))
            rows += [
                {
                    "objective": name,
                    "benchmark": n,
                    "base": base.with_image[n],
                    "base, no image": base.without[n],
                    "dependency": depends[n],
                    "gain": gain[n],
                }
                for n in depends
            ]
        desk.table("dependency", rows)
        return metrics

"""Studies of objectives on one base model: compare (and ablate), and gain against visual dependency.

Rules fixed beforehand: every arm trains equally many steps on the same pairs in the same order; test scenes are read once.
An objective's learning rate is chosen on validation pairs, the smaller one when two tie. By `paired` it is the one with the
highest paired accuracy. By `kept` it is that among the rates whose fitting answers cost at most `KEPT` nats a token more
than the untrained model's, half of them whole descriptions; where no rate keeps that, the one whose answers cost least.
"""

import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from datamodules.scenes.datamodule import Source
from datamodules.scenes.encodings import encoded
from datamodules.scenes.pairs import scene_pairs
from lightning_modules.common import metric_names as names
from lightning_modules.common.bounds import Count, Positive, Whole
from lightning_modules.common.choices import check_choice
from lightning_modules.common.digests import digest
from lightning_modules.common.making import Thing
from lightning_modules.runtime.study import Desk
from lightning_modules.svco import figures as draw
from lightning_modules.svco import grounding, look
from lightning_modules.svco.evaluation import Found, evaluate, judged, judges, judging
from lightning_modules.svco.models import VLM
from lightning_modules.svco.tuning import Arm, Settings, untrained
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


CHOSEN_BY = ("paired", "kept")
# A perplexity 5% above the base's.
KEPT = math.log(1.05)


class Trained(NamedTuple):
    """An arm at one learning rate, and what its training measured on validation pairs."""

    lr: float
    vlm: VLM
    val: dict[str, float]


class Chosen(NamedTuple):
    """A trained arm, its learning rate, and a row for every rate tried."""

    vlm: VLM
    lr: float
    tried: list[dict[str, Any]]


def tried_row(name: str, lr: float, val: dict[str, float]) -> dict[str, Any]:
    """Of an objective at one learning rate what the choice goes by."""
    return {
        "objective": name,
        "lr": f"{lr:.0e}",
        "val paired": val[names.VAL_PAIRED],
        "val nll": val[names.VAL_PAIR_NLL],
    }


class Arms:
    """What the studies share: the base, the arms with their learning rates chosen, and their evaluation.

    Args:
        model: the base `VLM`. objectives: `Objective` by name. learning_rates: tried for each objective.
        source: of the pairs. steps, global_batch: of each arm. scenes_each, test_pairs: of the evaluation.
        seed: of pairs, order and training.
        judged_on: toy `scenes` or test `pairs` of the source; `auto`: scenes where these are trained on.
        chosen_by: validation's paired accuracy alone, `paired`, or that of the rates at which likelihood is kept, `kept`.
    """

    def __init__(
        self,
        *,
        model: VLM,
        objectives: dict[str, Any],
        learning_rates: list[Positive],
        source: Source,
        cache_dir: str,
        steps: Count = 120,
        global_batch: Count = 16,
        pixels: Count = 48,
        scenes_each: Count = 60,
        test_pairs: Count = 240,
        seed: Whole = 1,
        judged_on: str = "auto",
        chosen_by: str = "paired",
    ) -> None:
        check_choice("study.chosen_by", chosen_by, CHOSEN_BY)
        self.chosen_by = chosen_by
        self.vlm, self.objectives, self.learning_rates = model, objectives, sorted(learning_rates)
        self.settings = Settings(cache_dir, source, steps, global_batch, seed, pixels)
        self.scenes_each, self.test_pairs, self.judged_on = scenes_each, test_pairs, judged_on

    @property
    def on_scenes(self) -> bool:
        return judges(self.settings.source, self.judged_on) == "scenes"

    @cached_property
    def base_digest(self) -> str:
        return self.vlm.fingerprint()

    @cached_property
    def base_val(self) -> dict[str, float]:
        """What validation measures of the base."""
        return untrained(self.vlm, self.settings)

    def rank(self, val: dict[str, float]) -> tuple[bool, float]:
        """What a learning rate is chosen by, the larger the better."""
        if self.chosen_by == "kept" and val[names.VAL_PAIR_NLL] > self.base_val[names.VAL_PAIR_NLL] + KEPT:
            return False, -val[names.VAL_PAIR_NLL]
        return True, val[names.VAL_PAIRED]

    def prepare(self) -> None:
        """Nothing to fetch: the base is made with the model."""

    def fingerprint(self) -> dict[str, str]:
        return {"data": digest(self.settings.source.description()), "base": self.base_digest}

    def needs(self) -> list[Thing]:
        """An arm per objective and learning rate."""
        return self.arms(self.settings)

    def arms(self, settings: Settings) -> list[Thing]:
        return [
            Arm(self.vlm, self.base_digest, name, objective, lr, settings).thing()
            for name, objective in self.objectives.items()
            for lr in self.learning_rates
        ]

    def test_set(self) -> Sequence[Any]:
        """The pairs that arms are judged by."""
        return judging(self.settings.source, judged_on=self.judged_on, pairs=self.test_pairs)

    def measured(self, vlm: VLM) -> Found:
        source, pixels, place = self.settings.source, self.settings.pixels, self.settings.cache_dir
        read = (
            None if self.on_scenes else encoded(source, "test", vlm.reader, pixels=pixels, keep=False, cache_dir=place)
        )
        return judged(
            vlm.to(device()),
            source=source,
            encoded=read,
            judged_on=self.judged_on,
            scenes_each=self.scenes_each,
            pairs=self.test_pairs,
            pixels=self.settings.pixels,
        )

    def base_measured(self, desk: Desk) -> Found:
        """Of the base; says what it and the arms are judged on."""
        found = self.measured(self.vlm)
        where = "toy scenes" if self.on_scenes else f"{len(found.categories)} test pairs of {self.settings.source.name}"
        desk.say(f"Judged on {where} (study.judged_on={self.judged_on}).")
        return found

    def each_rate(self, name: str, desk: Desk, *, source: Source | None = None) -> Iterator[Trained]:
        """The arm at every learning rate, ascending; `source`: of other pairs than the study's."""
        settings = self.settings._replace(source=source) if source else self.settings
        for lr in self.learning_rates:
            vlm, val = Arm(self.vlm, self.base_digest, name, self.objectives[name], lr, settings).tuned()
            desk.say(f"{name} at {lr:g}: validation paired accuracy {val[names.VAL_PAIRED]:.3f}")
            yield Trained(lr, vlm, val)

    def chosen(self, name: str, desk: Desk, *, source: Source | None = None) -> Chosen:
        """The arm at its best learning rate."""
        tried: list[dict[str, Any]] = []
        best: Trained | None = None
        for arm in self.each_rate(name, desk, source=source):
            tried.append(tried_row(name, arm.lr, arm.val))
            # Rates ascend: the smaller of two that tie stays.
            if best is None or self.rank(arm.val) > self.rank(best.val):
                best = arm
        assert best
        return Chosen(vlm=best.vlm, lr=best.lr, tried=tried)


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
        categories = [n.rpartition("_")[2] for n in found["base"].metrics if n.startswith("svco/paired_")]
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
            _, _, fit = dependency(found["base"], found[name])
            metrics[f"svco/dependency_rho_{name}"] = fit["rho"]
        return metrics


def dependency(base: Found, after: Found) -> tuple[dict[str, float], dict[str, float], dict[str, Any]]:
    """Of each benchmark the base's visual dependency and the gain; their rank correlation."""
    depends = grounding.dependency(with_image=base.with_image, without=base.without)
    gain = {n: score - base.with_image[n] for n, score in after.with_image.items()}
    return depends, gain, grounding.correlation(list(depends.values()), [gain[n] for n in depends])


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
            depends, gain, fit = dependency(base, self.measured(self.chosen(name, desk).vlm))
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

"""Tuned prompts, and other tuners, on demand: each trained once, kept by content, and taken by every later study."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from datamodules.tasks.datamodule import Source, TaskDataModule
from lightning_modules.common.bounds import Count, Positive
from lightning_modules.common.choices import check_choice
from lightning_modules.common.digests import number_of
from lightning_modules.common.made import made, manifest, place_of
from lightning_modules.common.making import Thing
from lightning_modules.common.say import say
from lightning_modules.prompt.backbone import Backbone
from lightning_modules.prompt.module import PromptTuning
from lightning_modules.prompt.prompt_file import PromptFile
from lightning_modules.prompt.together import TunedTogether
from lightning_modules.prompt.tuners import DRAWN, SoftPrompt, Tuner
from lightning_modules.training.inner import device, inner_trainer, precision, seeded

VERSION = 2


def refuse_no_place(template: str) -> None:
    """ValueError for a template in which a soft prompt would be put over the first words."""
    if "{prompt}" not in template:
        raise ValueError(
            f"data.template is {template!r}; expected {{prompt}} in it, before {{text}}, where the soft prompt stands."
        )


class Prompts:
    """What `experiment=prompt/tune` would train for a task and a seed, bitwise.

    Args:
        backbone: spec of the frozen model. source: of the tasks.
        length, init, start: of the soft prompt, P; `start` has its text, file or from_run.
        starts: `shared`: all tasks of a seed start from the same drawn words or numbers, as `prompt/tune` does; `own`: each
            from others, so that how far two prompts lie apart says less of where they started.
        template, verbaliser: how a task is asked. eval_batch: examples of a forward that trains nothing.
        tuning: steps, batch, lr and the schedule of `tuning` in the config.
        together: most soft prompts that share a training's forwards; above 1 they are equal to those tuned alone up to
            rounding, not to the bit, and kept apart from them.
        cache: git-ignored folder; prompts lie in `cache`/prompts.
        runs: task -> ids of finished prompt/tune runs; their prompts are taken before any is trained.
        tracking_uri: where `runs` are looked up.
    """

    def __init__(
        self,
        *,
        backbone: Any,
        source: Source,
        tuning: dict[str, Any],
        cache: str,
        length: Count = 16,
        init: str = "vocabulary",
        start: dict[str, str | None] | None = None,
        starts: str = "shared",
        template: str | None = None,
        verbaliser: str | None = None,
        eval_batch: Count = 256,
        together: Count = 1,
        runs: dict[str, list[str]] | None = None,
        tracking_uri: str | None = None,
    ) -> None:
        self.spec, self.source, self.tuning, self.cache = backbone, source, dict(tuning), Path(cache)
        self.length, self.init, self.template, self.verbaliser = length, init, template, verbaliser
        check_choice("prompts.starts", starts, ("shared", "own"))
        if template is not None:
            refuse_no_place(template)
        self.eval_batch, self.together, self.starts = eval_batch, together, starts
        self.start, self.runs, self.tracking_uri = start or {}, runs or {}, tracking_uri
        given = [f"prompt.{key}" for key, value in self.start.items() if value is not None]
        if init not in DRAWN:
            given.append(f"prompt.init={init}")
        if starts == "own" and given:
            raise ValueError(
                f"prompts.starts is 'own' with {given[0]}: that start is one for all tasks; "
                "expected prompt.init=vocabulary or random, which are drawn, or prompts.starts=shared."
            )
        for task in self.runs:
            check_choice("prompts.runs", task, source.names())
        self._data: dict[str, TaskDataModule] = {}
        self._expected: list[tuple[str, int]] = []
        self._tuned: dict[tuple[str, int], PromptTuning] = {}

    @cached_property
    def backbone(self) -> Backbone:
        return self.spec.load().to(device())

    @cached_property
    def _weights(self) -> str:
        """What the backbone is: its key only names how it was made, and made elsewhere it rounds otherwise."""
        return self.backbone.fingerprint()

    def untrained(self) -> Backbone:
        """The same architecture with random weights: the control that shows what pretraining brings."""
        spec = copy.copy(self.spec)
        spec.random_init = True
        return spec.load().to(device())

    def with_tuning(self, **settings: Any) -> "Prompts":
        """The same with other settings of tuning, from no run."""
        other = copy.copy(self)
        other.tuning, other.runs = self.tuning | settings, {}
        other._expected, other._tuned = [], {}
        return other

    def data(self, task: str) -> TaskDataModule:
        """For evaluation: its training order is that of seed 0."""
        if task not in self._data:
            self._data[task] = TaskDataModule(
                source=self.source,
                task=task,
                backbone=self.spec,
                template=self.template,
                prompt_length=self.length,
                verbaliser=self.verbaliser,
                batch=self.tuning["batch"],
                eval_batch=self.eval_batch,
            )
        return self._data[task]

    def datamodule(self, task: str, *, seed: int) -> TaskDataModule:
        """For tuning: what is read of a task once serves all its seeds."""
        return self.data(task).ordered(seed=seed, batch=self.tuning["batch"])

    def soft(self, *, seed: int, init: str | None = None) -> SoftPrompt:
        """A prompt that is not tuned yet, started as the config says or from another `init`."""
        start = {} if init else self.start
        return SoftPrompt(
            length=self.length, init=init or self.init, **start, tracking_uri=self.tracking_uri, seed=seed
        )

    def started(self, task: str, *, seed: int) -> SoftPrompt:
        """The prompt that tuning of `task` starts from."""
        return self.soft(seed=seed if self.starts == "shared" else number_of(f"{task}|{seed}", size=4))

    def prompt(self, task: str, *, seed: int, trial: int = 0) -> PromptFile:
        """The tuned prompt of `task`: of a run when `runs` names one for this trial, else trained on demand."""
        if trial < len(self.runs.get(task, ())):
            run = self.runs[task][trial]
            found = PromptFile.of_run(run, self.tracking_uri)
            self._refuse_other(found, task, run)
            found.check(self.backbone, length=self.length)
            return found
        return PromptFile.load(self.path(task, seed=seed))

    def of_trials(self, task: str, seeds: Sequence[int]) -> list[PromptFile]:
        """The tuned prompt of each trial, whose seed it is."""
        return [self.prompt(task, seed=seed, trial=trial) for trial, seed in enumerate(seeds)]

    def _refuse_other(self, found: PromptFile, task: str, run: str) -> None:
        """ValueError where a run tuned another task, or asked it otherwise than its prompt is asked here."""
        if (tuned := found.about.get("task")) != task:
            raise ValueError(f"prompts.runs: run {run} tuned {tuned}; expected a run of {task}.")
        data = self.data(task)
        asked = {
            "template": ("data.template", data.template.pattern),
            "verbaliser": ("data.verbaliser", data.verbaliser),
            "data": ("data.source", data.task.fingerprint()),
        }
        for name, (key, here) in asked.items():
            if (there := found.about.get(name)) != here:
                raise ValueError(
                    f"prompts.runs: run {run} tuned {task} with another {key} ({there!r}; here it is {here!r}): its prompt "
                    f"is none of this study's. Expected a run with the same, or {key} as that run has it."
                )

    def path(self, task: str, *, seed: int, tuner: Tuner | None = None, lr: Positive | None = None) -> Path:
        """Folder with what `tuner` (a soft prompt) trained; trains it when it is not there."""
        return self._asked(task, seed, tuner, lr)[1]()

    def thing(self, task: str, *, seed: int, tuner: Tuner | None = None, lr: Positive | None = None) -> Thing:
        """What `path` trains."""
        return self._asked(task, seed, tuner, lr)[0]

    def _asked(self, task: str, seed: int, other: Tuner | None, lr: float | None) -> tuple[Thing, Callable[[], Path]]:
        """What is trained, of the task's soft prompt or an `other` tuner, and what gives the folder with it."""
        own = other is None and lr is None
        tuner, data = other or self.started(task, seed=seed), self.datamodule(task, seed=seed)
        soft, tuning = isinstance(tuner, SoftPrompt), self.tuning | ({} if lr is None else {"lr": lr})
        key: dict[str, Any] = {
            "prompt": VERSION,
            "backbone": self.spec.key(),
            "data": data.fingerprint(),
            "tuner": tuner.description(),
            "tuning": tuning,
            "seed": seed,
            **({"together": True} if own and self.together > 1 else {}),
            **({} if precision() == "32-true" else {"precision": precision()}),
        }
        kept: dict[str, Any] = {"folder": self.cache / "prompts", "key": key}
        thing = Thing(
            kind="prompt" if soft else "tuned model",
            name=task if soft else f"{key['tuner']['tuner']} {task}",
            detail=f"seed {seed}",
            steps=tuning["steps"],
            why="tuned once for all studies",
            place=place_of(**kept),
            ask=lambda: self.path(task, seed=seed, tuner=other, lr=lr),
        )

        def make(place: Path) -> dict[str, Any]:
            if thing.is_kept:
                say(
                    f"{thing.kind} {thing.label}: kept of another backbone than this one ({self._weights}); tuned anew."
                )
            if self.together > 1 and own and (task, seed) not in self._tuned:
                self._tune_together(task, seed)
            module = self._tuned.pop((task, seed), None) if own else None
            if module is None:
                with seeded(seed):
                    module = self.module(tuner, tuning)
                    inner_trainer(max_steps=tuning["steps"]).fit(module, datamodule=data)
            module.export(place, datamodule=data, tell=False)
            return {"backbone": module.before}

        def fits(place: Path) -> bool:
            about = PromptFile.load(place).about if soft else manifest(place)
            return about.get("backbone") == self._weights

        return thing, partial(made, **kept, make=make, thing=thing, fits=fits)

    def _tune_together(self, task: str, seed: int) -> None:
        """Tune this prompt, and with it what else is expected and not kept, in one training; they wait in `_tuned`."""
        datas = {(task, seed): self.datamodule(task, seed=seed)}
        while self._expected and len(datas) < self.together:
            other = self._expected.pop(0)
            if other not in self._tuned and not self.thing(other[0], seed=other[1]).is_kept:
                datas.setdefault(other, self.datamodule(other[0], seed=other[1]))
        modules = {each: self.module(self.started(each[0], seed=each[1]), self.tuning) for each in datas}
        with seeded(seed):
            training = TunedTogether(list(modules.values()), list(datas.values()))
            inner_trainer(max_steps=self.tuning["steps"]).fit(training, range(self.tuning["steps"]))
        self._tuned |= modules

    def needs(self, tasks: Sequence[str], seeds: Sequence[int]) -> list[Thing]:
        """The backbone, where it is pretrained here, and a prompt per task and seed, those of `runs` left out.

        What was listed here is what `together` has to choose from.
        """
        asked = [(task, seed) for task in tasks for seed in seeds[len(self.runs.get(task, ())) :]]
        self._expected = list(dict.fromkeys([*self._expected, *asked]))
        prompts = [self.thing(task, seed=seed) for task, seed in asked]
        at_once = max(1, min(self.together, sum(not prompt.is_kept for prompt in prompts)))
        return [*self.spec.needs(), *(replace(prompt, together=at_once) for prompt in prompts)]

    def tuned(self, task: str, *, seed: int, tuner: Tuner, lr: Positive | None = None) -> PromptTuning:
        """A module with what `tuner` trained in it, on a backbone of its own."""
        folder = self.path(task, seed=seed, tuner=tuner, lr=lr)
        module = self.module(tuner, self.tuning)
        module.backbone.embed_phrases(self.data(task).common)
        module.load_export(folder)
        return module.to(device())

    def module(self, tuner: Tuner, tuning: dict[str, Any]) -> PromptTuning:
        """What trains `tuner` with these settings."""
        # A prompt stands beside the model and changes nothing in it; the others do, and a trainer that casts weights.
        beside = isinstance(tuner, SoftPrompt) and (precision() == "32-true" or precision().endswith("-mixed"))
        backbone = self.backbone if beside else self.spec
        settings = {name: value for name, value in tuning.items() if name not in ("steps", "batch")}
        return PromptTuning(backbone=backbone, tuner=tuner, **settings)

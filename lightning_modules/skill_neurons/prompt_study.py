"""What studies of tuned prompts share: tasks, trials of prompts, each task's predictivity, kept by content, and its page.

Rules fixed beforehand: neurons are chosen on the validation split and judged on the test split; a task's predictivity is the
mean over `trials` prompts tuned from different seeds; the null permutes the validation labels.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from datamodules.tasks.datamodule import TaskDataModule
from lightning_modules.common.bounds import Count, Share, Whole
from lightning_modules.common.choices import check_once
from lightning_modules.common.digests import digest, digest_of_weights, number_of
from lightning_modules.common.made import made
from lightning_modules.common.making import Thing
from lightning_modules.prompt.backbone import Backbone
from lightning_modules.prompt.prompts import Prompts
from lightning_modules.prompt.tuners import text_prompt
from lightning_modules.runtime.study import Desk
from lightning_modules.skill_neurons import look
from lightning_modules.skill_neurons import portraits as drawn
from lightning_modules.skill_neurons import predictivity as sn
from lightning_modules.skill_neurons.hooks import Neurons, See, activations_NKP, hooked
from lightning_modules.skill_neurons.significance import Significance

# Raised when predictivity or its p-values are computed otherwise.
VERSION = 1


class PromptStudy:
    """What the studies share: tasks, trials of tuned prompts, and each task's predictivity.

    Args:
        tasks: names; None takes all of the source's. trials: prompts per task.
        share: of neurons selected; rank_within: each `layer` (the paper's) or the whole `model`.
        balanced: balanced accuracy. permutations: labellings of the null.
        seed: trial t of this study is prompt seed 1000 x seed + t.
    """

    # Labellings that p-values come from, and the table of what the study does to neurons.
    p_values, outcome = 0, ""
    # Whether it asks with the words of each task's hint too.
    hard_prompts = False

    def __init__(
        self,
        *,
        prompts: Prompts,
        tasks: Sequence[str] | None = None,
        trials: Count = 5,
        share: Share = 0.05,
        rank_within: Literal["layer", "model"] = "layer",
        balanced: bool = False,
        permutations: Whole = 20,
        seed: Whole = 1,
    ) -> None:
        self.prompts, self.trials, self.seed = prompts, trials, seed
        self.tasks = list(tasks or prompts.source.names())
        check_once("study.tasks", self.tasks)
        self.share, self.rank_within, self.balanced, self.permutations = share, rank_within, balanced, permutations
        # A backbone itself is in the key: its number in memory would be another's once it is gone.
        self._found: dict[tuple[str, str, Backbone | None], Tensor] = {}
        self._baselines: dict[tuple[str, str, Backbone], Tensor] = {}

    def prepare(self) -> None:
        """ValueError for what is wrong with a task, before anything is tuned."""
        for task in self.tasks:
            self.prompts.data(task).prepare_data()
            if self.hard_prompts and not self.prompts.data(task).task.hint.strip():
                raise ValueError(
                    f"task {task}: data.source.hint is empty; expected the words that this study takes for its hard prompt, "
                    "such as 'it was'."
                )

    def needs(self) -> list[Thing]:
        """All that is trained for it, in the order it is asked for."""
        return self.prompts.needs(self.tasks, self.seeds())

    def fingerprint(self) -> dict[str, str]:
        tasks = [self.prompts.data(task).fingerprint() for task in self.tasks]
        return {"data": digest(tasks), "backbone": self.backbone.fingerprint()}

    @property
    def backbone(self) -> Backbone:
        return self.prompts.backbone

    @cached_property
    def skills(self) -> dict[str, str]:
        return {task: self.prompts.data(task).task.skill for task in self.tasks}

    def by_task(self, matrix: Tensor, *more: str) -> list[dict[str, Any]]:
        """A matrix [tasks, tasks + more] as a row for every task: its name, its skill, a column for every task."""
        columns = (*self.tasks, *more)
        return [
            {"task": task, "skill": self.skills[task], **dict(zip(columns, values, strict=True))}
            for task, values in zip(self.tasks, matrix.tolist(), strict=True)
        ]

    def seeds(self) -> list[int]:
        return [1000 * self.seed + trial for trial in range(self.trials)]

    def drawn(self, task: str, draw: int) -> int:
        """The seed of a random choice: other in every task and study, the same in all arms that are compared."""
        return number_of(f"{self.seed}|{task}|{draw}")

    def tuned(self, task: str) -> list[Tensor]:
        """A prompt [P, H] per trial."""
        return [prompt.weight for prompt in self.prompts.of_trials(task, self.seeds())]

    def baseline_LPF(self, task: str, prompt: Tensor, backbone: Backbone) -> Tensor:
        """Of the task's training texts under `prompt`: a pass over them, once."""
        key = (task, digest_of_weights({"prompt": prompt}), backbone)
        if key not in self._baselines:
            self._baselines[key] = sn.baseline_LPF(backbone, self.prompts.data(task).fixed("train"), prompt)
        return self._baselines[key]

    def predictivity(self, task: str, *, kind: str = "tuned", backbone: Backbone | None = None) -> Tensor:
        """[1 + permutations, L, F], mean over trials; row 0 with the true labels, the others the null.

        A permutation is the same in every trial: the mean over independent ones is a narrower null than that of one prompt.

        kind: `tuned`, `random` (untrained vocabulary words) or `hard` (the task's hint in words). It is kept by content
        under `cache`/neurons, and taken by every later study.
        """
        key = (task, kind, backbone)
        if key not in self._found:
            model = backbone or self.backbone
            starts = self.starts(task, kind, model)
            (self._found[key],) = self.kept(
                "predictivity",
                task,
                starts,
                model,
                self.permutations,
                lambda: [self.measured(task, kind, starts, model)],
            )
        return self._found[key]

    def kept(
        self,
        name: str,
        task: str,
        prompts: Sequence[Tensor],
        backbone: Backbone,
        permutations: int,
        compute: Callable[[], Sequence[Tensor]],
    ) -> list[Tensor]:
        """What `compute` gives of the task's neurons under these prompts; computed once for all studies."""
        key = {
            name: VERSION,
            # What the weights are, and what is done with them.
            "backbone": [self.prompts.spec.key(), backbone.fingerprint()],
            "data": self.prompts.data(task).content,
            "prompts": [digest_of_weights({"prompt": prompt}) for prompt in prompts],
            "balanced": self.balanced,
            "seed": self.seed,
            "permutations": permutations,
            # Another device rounds otherwise.
            **({} if backbone.device.type == "cpu" else {"device": backbone.device.type}),
        }

        def make(place: Path) -> None:
            found = compute()
            save_file({str(n): x.cpu().contiguous() for n, x in enumerate(found)}, place / "neurons.safetensors")

        saved = load_file(made(folder=self.prompts.cache / "neurons", key=key, make=make) / "neurons.safetensors")
        return [saved[str(n)] for n in range(len(saved))]

    def measured(self, task: str, kind: str, prompts: Sequence[Tensor], backbone: Backbone) -> Tensor:
        """`predictivity`, which is kept, by the finder's two passes for each prompt."""
        data = self.prompts.data(task)
        found = [
            sn.find(
                backbone,
                train=data.fixed("train"),
                dev=data.fixed("val"),
                labels_N=data.examples("val").labels,
                prompt=prompt,
                classes=len(data.task.classes),
                permutations=self.permutations,
                balanced=self.balanced,
                seed=self.seed,
                baseline=self.baseline_LPF(task, prompt, backbone),
            )
            for prompt in prompts
        ]
        return torch.stack(found).mean(0)

    def starts(self, task: str, kind: str, backbone: Backbone) -> list[Tensor]:
        """The prompts of a kind; a hard prompt is the same in every trial, so there is one."""
        if kind == "tuned":
            return self.tuned(task)
        if kind == "hard":
            return [text_prompt(backbone, self.prompts.data(task).task.hint, self.prompts.length).cpu()]
        tuners = [self.prompts.soft(seed=seed, init="vocabulary") for seed in self.seeds()]
        for tuner in tuners:
            tuner.attach(backbone)
        return [tuner.weight.detach().cpu() for tuner in tuners]

    def skill_neurons(self, task: str, *, share: float | None = None) -> Tensor:
        """Bool mask [L, F] of the task's most predictive neurons. ValueError for a share, above 0, that is no neuron."""
        share, pred_LF = self.share if share is None else share, self.predictivity(task)[0]
        chosen_LF = sn.select(pred_LF, share=share, rank_within=self.rank_within)
        if share > 0 and not chosen_LF.any():
            of = pred_LF.shape[1] if self.rank_within == "layer" else pred_LF.numel()
            raise ValueError(
                f"study: a share of {share:g} of the {of} neurons of a {self.rank_within} is none; expected at least "
                f"{1 / of:.2g}."
            )
        return chosen_LF

    def significance(self, task: str) -> Significance | None:
        """Of the mean predictivity over the trials' prompts, where p-values are asked for."""
        return None

    def portrayed(self, outcome: Sequence[Mapping[str, Any]], *, text: bool) -> dict[str, Any]:
        """What its page shows. outcome: rows of the table `outcome`."""

        def of_task(task: str) -> look.Task:
            data, prompt = self.prompts.data(task), self.tuned(task)[0]
            base_LPF = self.baseline_LPF(task, prompt, self.backbone).cpu()

            def read(neurons: Neurons) -> drawn.Readings:
                baseline_KP = torch.stack([base_LPF[layer, :, unit] for layer, unit in neurons])
                seen = {s: activations_NKP(self.backbone, data.fixed(s), prompt, neurons) for s in ("val", "test")}
                return drawn.Readings(seen["val"], seen["test"], baseline_KP)

            examples = drawn.Labelled(
                data.task.classes, data.examples("val").labels, data.examples("test").labels, data.task.texts["test"]
            )
            return look.Task(task, self.skills[task], self.predictivity(task), self.significance(task), examples, read)

        return look.neurons_page(
            name=f"neurons of {len(self.tasks)} tasks, {self.trials} prompt{'s' * (self.trials > 1)} each",
            tasks=[of_task(task) for task in self.tasks],
            p_values=self.p_values,
            balanced=self.balanced,
            text=text,
            done=look.done_to(self.outcome, outcome),
        )

    def show_neurons(self, desk: Desk, outcome: Sequence[Mapping[str, Any]] = ()) -> None:
        desk.page(look.KIND, look.TITLE, lambda: self.portrayed(outcome, text=desk.text))


@torch.no_grad()
def accuracy(
    backbone: Backbone,
    data: TaskDataModule,
    prompt: Tensor | None,
    *,
    split: str = "test",
    see: See | None = None,
    examples: int | None = None,
) -> float:
    """Share of `split` answered right, with `see` on the neurons when given; of its first `examples` when given."""
    right, seen = torch.zeros((), dtype=torch.long, device=backbone.device), 0
    there = data.examples(split)
    for batch in backbone.batches(data.each_once(there, range(len(there))[:examples])):
        with hooked(backbone.sites(), see) if see else contextlib.nullcontext():
            scores_BC = backbone.scores(batch, prompt)
        right += (scores_BC.argmax(1) == batch["labels"]).sum()
        seen += len(scores_BC)
    return int(right) / seen


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")

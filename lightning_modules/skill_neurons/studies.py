"""Studies of skill neurons: which they are, how alike tasks are, what they say (sections 3 to 5 of Wang et al.).

Rules fixed beforehand: neurons are chosen on the validation split and judged on the test split; a task's predictivity is the
mean over `trials` prompts tuned from different seeds; the null permutes the validation labels.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from datamodules.tasks.datamodule import TaskDataModule
from lightning_modules.common.bounds import Count, Share, Whole
from lightning_modules.common.digests import digest, digest_of_weights
from lightning_modules.common.making import Thing
from lightning_modules.prompt.backbone import Backbone
from lightning_modules.prompt.prompts import Prompts
from lightning_modules.runtime.study import Desk
from lightning_modules.skill_neurons import figures as draw
from lightning_modules.skill_neurons import look
from lightning_modules.skill_neurons import portraits as drawn
from lightning_modules.skill_neurons import predictivity as sn
from lightning_modules.skill_neurons.hooks import See, hooked
from lightning_modules.skill_neurons.significance import Significance, of_labellings, signs
from lightning_modules.skill_neurons.single_neurons import neuron_accuracy, neuron_name, top_by_layer, word_activation


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
        self.share, self.rank_within, self.balanced, self.permutations = share, rank_within, balanced, permutations
        # A backbone itself is in the key: its number in memory would be another's once it is gone.
        self._found: dict[tuple[str, str, Backbone | None], Tensor] = {}
        self._baselines: dict[tuple[str, str, Backbone], Tensor] = {}

    def prepare(self) -> None:
        for task in self.tasks:
            self.prompts.data(task).prepare_data()

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

    def tuned(self, task: str) -> list[Tensor]:
        """A prompt [P, H] per trial."""
        return [self.prompts.prompt(task, seed=seed, trial=t).weight for t, seed in enumerate(self.seeds())]

    def baseline_LPF(self, task: str, prompt: Tensor, backbone: Backbone) -> Tensor:
        """Of the task's training texts under `prompt`: a pass over them, once."""
        key = (task, digest_of_weights({"prompt": prompt}), backbone)
        if key not in self._baselines:
            self._baselines[key] = sn.baseline_LPF(backbone, self.prompts.data(task).fixed("train"), prompt)
        return self._baselines[key]

    def predictivity(self, task: str, *, kind: str = "tuned", backbone: Backbone | None = None) -> Tensor:
        """[1 + permutations, L, F], mean over trials; row 0 with the true labels, the others the null.

        kind: `tuned`, `random` (untrained vocabulary words) or `hard` (the task's hint in words).
        """
        key = (task, kind, backbone)
        if key not in self._found:
            data, backbone = self.prompts.data(task), backbone or self.backbone
            split = data.examples("val")
            found = [
                sn.find(
                    backbone,
                    train=data.fixed("train"),
                    dev=data.fixed("val"),
                    labels_N=split.labels,
                    prompt=prompt,
                    classes=len(data.task.classes),
                    permutations=self.permutations,
                    balanced=self.balanced,
                    seed=seed,
                    baseline=self.baseline_LPF(task, prompt, backbone),
                )
                for prompt, seed in zip(self.starts(task, kind, backbone), self.seeds(), strict=False)
            ]
            self._found[key] = torch.stack(found).mean(0)
        return self._found[key]

    def starts(self, task: str, kind: str, backbone: Backbone) -> list[Tensor]:
        """The prompts of a kind; a hard prompt is the same in every trial, so there is one."""
        from lightning_modules.prompt.tuners import text_prompt

        if kind == "tuned":
            return self.tuned(task)
        if kind == "hard":
            return [text_prompt(backbone, self.prompts.data(task).task.hint, self.prompts.length).cpu()]
        found = []
        for seed in self.seeds():
            tuner = self.prompts.soft(seed=seed, init="vocabulary")
            tuner.attach(backbone)
            found.append(tuner.weight.detach().cpu())
        return found

    def skill_neurons(self, task: str, *, share: float | None = None) -> Tensor:
        """Bool mask [L, F] of the task's most predictive neurons."""
        share = self.share if share is None else share
        return sn.select(self.predictivity(task)[0], share=share, rank_within=self.rank_within)

    def significance(self, task: str) -> Significance | None:
        """Of the mean predictivity over the trials' prompts, where p-values are asked for."""
        return None

    def portrayed(self, outcome: Sequence[Mapping[str, Any]], *, text: bool) -> dict[str, Any]:
        """What its page shows. outcome: rows of the table `outcome`."""

        def of_task(task: str) -> look.Task:
            data, prompt = self.prompts.data(task), self.tuned(task)[0]
            base_LPF = self.baseline_LPF(task, prompt, self.backbone).cpu()

            def read(neurons: drawn.Neurons) -> drawn.Readings:
                baseline_KP = torch.stack([base_LPF[layer, :, unit] for layer, unit in neurons])
                seen = {
                    s: drawn.activations_NKP(self.backbone, data.fixed(s), prompt, neurons) for s in ("val", "test")
                }
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
    sites: Sequence[nn.Module] | None = None,
    see: See | None = None,
    examples: int | None = None,
) -> float:
    """Share of `split` answered right, with `see` on the neurons when given; of its first `examples` when given."""
    right, seen = torch.zeros((), dtype=torch.long, device=backbone.device), 0
    for batch in backbone.batches(data.fixed(split)):
        if examples is not None and seen >= examples:
            break
        with hooked(sites or backbone.sites(), see or (lambda layer, x: None)):
            scores_BC = backbone.scores(batch, prompt)
        right += (scores_BC.argmax(1) == batch["labels"]).sum()
        seen += len(scores_BC)
    return int(right) / seen


class SkillNeurons(PromptStudy):
    """Predictivity against its null, the likeness of tasks, where the neurons are, and the words that go with them.

    Args:
        p_values: labellings that p-values come from, one more than 1 / the smallest p-value; 0: none are given.
    """

    def __init__(self, *, p_values: Whole = 999, **shared: Any) -> None:
        super().__init__(**shared)
        self.p_values = p_values
        self._significance: dict[str, Significance] = {}

    def significance(self, task: str) -> Significance | None:
        if task not in self._significance and self.p_values:
            data = self.prompts.data(task)
            trials = [
                signs(
                    self.backbone,
                    data.fixed("val"),
                    prompt,
                    baseline_LPF=self.baseline_LPF(task, prompt, self.backbone),
                )
                for prompt in self.tuned(task)
            ]
            self._significance[task] = of_labellings(
                trials,
                data.examples("val").labels,
                classes=len(data.task.classes),
                permutations=self.p_values,
                seed=self.seed,
                balanced=self.balanced,
            )
        return self._significance.get(task)

    def run(self, desk: Desk) -> dict[str, float]:
        preds = {task: self.predictivity(task) for task in self.tasks}
        metrics: dict[str, float] = {}
        rows: list[dict[str, Any]] = []
        for task, pred in preds.items():
            best = divmod(int(pred[0].argmax()), pred.shape[-1])
            binary = len(self.prompts.data(task).task.classes) == 2
            asked = (self.backbone, self.prompts.data(task), self.tuned(task))
            test = neuron_accuracy(*asked, layer=best[0], unit=best[1]) if binary else float("nan")
            null = float(pred[1:].flatten(1).amax(1).mean()) if self.permutations else float("nan")
            tuned = accuracy(self.backbone, self.prompts.data(task), self.tuned(task)[0])
            val = float(pred[0].max())
            rows.append(
                {
                    "task": task,
                    "skill": self.skills[task],
                    "best neuron": neuron_name(*best),
                    "val": val,
                    "test": test,
                    "null's best": null,
                    "prompt's test": tuned,
                    **(found.counts() if (found := self.significance(task)) else {}),
                }
            )
            metrics |= {f"prompt/best_neuron_{task}": val, f"prompt/best_neuron_null_{task}": null}
            desk.say(f"{task}: best neuron {val:.3f}, null {null:.3f}, the prompt {tuned:.3f}")
        desk.table("best_neurons", rows)
        metrics |= self._likeness(preds, desk)
        desk.figure("predictivity", draw.predictivity_figure({t: (p[0], p[1:]) for t, p in preds.items()}))
        metrics |= self._layers(preds, desk)
        self._words(preds, desk)
        self.show_neurons(desk)
        return metrics | {
            "prompt/best_neuron": mean([row["val"] for row in rows]),
            "prompt/best_over_null": mean([row["val"] - row["null's best"] for row in rows]),
        }

    def _likeness(self, preds: dict[str, Tensor], desk: Desk) -> dict[str, float]:
        first = [p[0] for p in preds.values()]
        together = sn.spearman(first)
        by_layer = [sn.spearman(first, layer=layer) for layer in range(len(first[0]))]
        desk.figure("spearman", draw.spearman_figure(together, tasks=list(preds), skills=self.skills))
        desk.table("spearman", self.by_task(together), show=False)
        cells = [{"layer": n, **row} for n, matrix in enumerate(by_layer) for row in self.by_task(matrix)]
        desk.table("spearman_of_layers", cells, show=False)
        every, layers = self._sides(together), [self._sides(matrix) for matrix in by_layer]
        rows = [{"layer": "all", **every}, *({"layer": str(n), **sides} for n, sides in enumerate(layers))]
        desk.table("spearman_by_layer", rows)
        return {
            "prompt/spearman_within": every["same skill"],
            "prompt/spearman_across": every["other skill"],
            **{f"prompt/spearman_gap_layer{n}": s["same skill"] - s["other skill"] for n, s in enumerate(layers)},
        }

    def _sides(self, matrix: Tensor) -> dict[str, float]:
        kinds: dict[bool, list[float]] = {True: [], False: []}
        for i, a in enumerate(self.tasks):
            for j, b in enumerate(self.tasks[:i]):
                kinds[self.skills[a] == self.skills[b]].append(float(matrix[i, j]))
        return {"same skill": mean(kinds[True]), "other skill": mean(kinds[False])}

    def _layers(self, preds: dict[str, Tensor], desk: Desk) -> dict[str, float]:
        """How predictive each layer's top neurons are, where the whole model's lie, and how far ties chose them."""
        rows, profile, tied = [], {}, {}
        for task, pred in preds.items():
            profile[task] = top_by_layer(pred[0], share=self.share).tolist()
            chosen_L = sn.select(pred[0], share=self.share, rank_within="model").sum(1)
            shares = (chosen_L / chosen_L.sum()).tolist()
            rows += [
                {
                    "task": task,
                    "layer": layer,
                    "predictivity of its top neurons": top,
                    "share of the model's top neurons": share,
                }
                for layer, (top, share) in enumerate(zip(profile[task], shares, strict=True))
            ]
            tied[task] = sn.tied_share(pred[0], self.skill_neurons(task), rank_within=self.rank_within)
        desk.table("layers", rows, show=False)
        ties = [{"task": t, "share of skill neurons tied with one left out": share} for t, share in tied.items()]
        desk.table("ties", ties, show=False)
        desk.figure("layers", draw.layers_figure(profile, skills=self.skills))
        return {"prompt/tied_skill_neurons": mean(list(tied.values()))}

    def _words(self, preds: dict[str, Tensor], desk: Desk) -> None:
        """Words whose sentences drive a task's best neuron highest and lowest (appendix of the paper)."""
        rows = []
        for task, pred in preds.items():
            layer, unit = divmod(int(pred[0].argmax()), pred.shape[-1])
            words = word_activation(self.backbone, self.prompts.data(task), self.tuned(task)[0], layer=layer, unit=unit)
            ranked = sorted(words, key=words.__getitem__)
            high, low = " ".join(ranked[:-7:-1]), " ".join(ranked[:6])
            rows.append(
                {"task": task, "best neuron": neuron_name(layer, unit), "highest with": high, "lowest with": low}
            )
        desk.table("words", rows)


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")

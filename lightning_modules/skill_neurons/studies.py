"""Which neurons are skill neurons, how alike tasks are, what they say (sections 3 to 5 of Wang et al.).

Rules fixed beforehand are those of `prompt_study`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_modules.common.bounds import Whole
from lightning_modules.prompt.backbone import Backbone
from lightning_modules.runtime.study import Desk
from lightning_modules.skill_neurons import figures as draw
from lightning_modules.skill_neurons import predictivity as sn
from lightning_modules.skill_neurons.predictivity import permuted_labels
from lightning_modules.skill_neurons.prompt_study import PromptStudy, mean
from lightning_modules.skill_neurons.significance import Significance, Signs, of_labellings, predictivity_of, signs
from lightning_modules.skill_neurons.single_neurons import (
    answered,
    neuron_accuracy,
    neuron_name,
    read,
    top_by_layer,
    word_activation,
)


class SkillNeurons(PromptStudy):
    """Predictivity against its null, the likeness of tasks, where the neurons are, and the words that go with them.

    Args:
        p_values: labellings that p-values come from, one more than 1 / the smallest p-value; 0: none are given.
    """

    def __init__(self, *, p_values: Whole = 999, **shared: Any) -> None:
        super().__init__(**shared)
        self.p_values = p_values
        self._significance: dict[str, Significance] = {}
        self._signs: dict[str, list[Signs]] = {}

    def signs(self, task: str) -> list[Signs]:
        """Of the validation examples, a pass a prompt; those of one task are held at a time."""
        if task not in self._signs:
            model, examples = self.backbone, self.prompts.data(task).fixed("val")
            prompts = [(prompt, self.baseline_LPF(task, prompt, model)) for prompt in self.tuned(task)]
            self._signs = {task: [signs(model, examples, prompt, baseline_LPF=base) for prompt, base in prompts]}
        return self._signs[task]

    def measured(self, task: str, kind: str, prompts: Sequence[Tensor], backbone: Backbone) -> Tensor:
        if kind != "tuned" or backbone is not self.backbone or not self.p_values:
            return super().measured(task, kind, prompts, backbone)
        # The pass that p-values take anyway.
        data = self.prompts.data(task)
        labels_RN = permuted_labels(data.examples("val").labels, permutations=self.permutations, seed=self.seed)
        shared = dict[str, Any](classes=len(data.task.classes), balanced=self.balanced)
        return torch.stack([predictivity_of(one, labels_RN, **shared) for one in self.signs(task)]).mean(0)

    def significance(self, task: str) -> Significance | None:
        if task not in self._significance and self.p_values:
            data = self.prompts.data(task)

            def compute() -> list[Tensor]:
                found = of_labellings(
                    self.signs(task),
                    data.examples("val").labels,
                    classes=len(data.task.classes),
                    permutations=self.p_values,
                    seed=self.seed,
                    balanced=self.balanced,
                )
                return [found.own_LF, found.family_LF]

            kept = self.kept("p-values", task, self.tuned(task), self.backbone, self.p_values, compute)
            self._significance[task] = Significance(*kept)
        return self._significance.get(task)

    def _best(self, task: str, layer: int, unit: int) -> tuple[float, Tensor, float]:
        """Of a neuron its test accuracy, nan for more than two classes, and its activations on the test examples under
        the first prompt; and that prompt's accuracy.
        """
        data, prompts = self.prompts.data(task), self.tuned(task)
        test_NP, tuned = answered(self.backbone, data, prompts[0], layer=layer, unit=unit)
        if len(data.task.classes) != 2:
            return float("nan"), test_NP, tuned
        known = self._signs.get(task)
        reads = [
            read(
                self.backbone,
                data,
                prompt,
                layer=layer,
                unit=unit,
                baseline_LPF=self.baseline_LPF(task, prompt, self.backbone),
                val_NP=known[trial].of_neuron(layer, unit) if known else None,
                test_NP=None if trial else test_NP,
            )
            for trial, prompt in enumerate(prompts)
        ]
        labels = {f"{split}_labels": data.examples(split).labels for split in ("val", "test")}
        return neuron_accuracy(reads, **labels), test_NP, tuned

    def run(self, desk: Desk) -> dict[str, float]:
        preds: dict[str, Tensor] = {}
        metrics: dict[str, float] = {}
        rows: list[dict[str, Any]] = []
        test_NP: dict[str, Tensor] = {}
        for task in self.tasks:
            pred = preds[task] = self.predictivity(task)
            found = self.significance(task)
            best = divmod(int(pred[0].argmax()), pred.shape[-1])
            test, test_NP[task], tuned = self._best(task, *best)
            null = float(pred[1:].flatten(1).amax(1).mean()) if self.permutations else float("nan")
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
                    **(found.counts() if found else {}),
                }
            )
            metrics |= {f"prompt/best_neuron_{task}": val, f"prompt/best_neuron_null_{task}": null}
            desk.say(f"{task}: best neuron {val:.3f}, null {null:.3f}, the prompt {tuned:.3f}")
        desk.table("best_neurons", rows)
        metrics |= self._likeness(preds, desk)
        desk.figure("predictivity", draw.predictivity_figure({t: (p[0], p[1:]) for t, p in preds.items()}))
        metrics |= self._layers(preds, desk)
        self._words(preds, test_NP, desk)
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
        gaps = [sides["same skill"] - sides["other skill"] for sides in layers]
        return {
            "prompt/spearman_within": every["same skill"],
            "prompt/spearman_across": every["other skill"],
            "prompt/spearman_gap_in_a_layer": mean(gaps),
            **{f"prompt/spearman_gap_layer{n}": gap for n, gap in enumerate(gaps)},
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

    def _words(self, preds: dict[str, Tensor], test_NP: dict[str, Tensor], desk: Desk) -> None:
        """Words whose sentences drive a task's best neuron highest and lowest (appendix of the paper)."""
        rows = []
        for task, pred in preds.items():
            layer, unit = divmod(int(pred[0].argmax()), pred.shape[-1])
            words = word_activation(test_NP[task], self.prompts.data(task).task.texts["test"])
            ranked = sorted(words, key=words.__getitem__)
            high, low = " ".join(ranked[:-7:-1]), " ".join(ranked[:6])
            rows.append(
                {"task": task, "best neuron": neuron_name(layer, unit), "highest with": high, "lowest with": low}
            )
        desk.table("words", rows)

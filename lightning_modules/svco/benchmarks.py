"""A model by path on benchmark files on disk: POPE and MMVP by likelihood of the options, MMHal's answers to be judged."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from datamodules.scenes import benchmarks as files
from datamodules.scenes.mvc import open_image
from lightning_modules.common.bounds import Count
from lightning_modules.common.digests import digest
from lightning_modules.common.files import sha256
from lightning_modules.runtime.study import Desk
from lightning_modules.svco.models import VLM
from lightning_modules.svco.scores import Row, scores_of
from lightning_modules.training.inner import device


class Benchmarks:
    """Args:
    pope, mmvp, mmhal: the published file and the folder of its images, `{file: .., images: ..}`; null leaves it out.
    longest: tokens of an answer to MMHal. MMHal's own judge is a model of somebody else: answers are written for it.
    """

    def __init__(
        self,
        *,
        model: VLM,
        pope: dict[str, str] | None = None,
        mmvp: dict[str, str] | None = None,
        mmhal: dict[str, str] | None = None,
        longest: Count = 128,
    ) -> None:
        given = {"pope": pope, "mmvp": mmvp, "mmhal": mmhal}
        self.paths = {name: (Path(v["file"]), Path(v["images"])) for name, v in given.items() if v}
        if not self.paths:
            raise ValueError("study.pope, study.mmvp and study.mmhal are all null; give one {file: .., images: ..}.")
        self.vlm, self.longest = model.eval(), longest

    def prepare(self) -> None:
        """Read every file, so that a malformed one is named before the first question."""
        self.pope = files.read_pope(*self.paths["pope"]) if "pope" in self.paths else []
        self.mmvp = files.read_mmvp(*self.paths["mmvp"]) if "mmvp" in self.paths else []
        self.mmhal = files.read_mmhal(*self.paths["mmhal"]) if "mmhal" in self.paths else []

    def fingerprint(self) -> dict[str, str]:
        sums = {name: sha256(file) for name, (file, _) in self.paths.items()}
        return {"data": digest(sums), "base": self.vlm.fingerprint()}

    def run(self, desk: Desk) -> dict[str, float]:
        self.vlm.to(device())
        metrics: dict[str, float] = {}
        if self.pope:
            right = self.right(self.pope)
            said_yes = [r == (item.right == 0) for r, item in zip(right, self.pope, strict=True)]
            metrics |= {"svco/pope_file": _mean(right), "svco/pope_file_yes": _mean(said_yes)}
        if self.mmvp:
            right = self.right(self.mmvp)
            both = [a and b for a, b in zip(right[::2], right[1::2], strict=True)]
            metrics |= {"svco/mmvp_single": _mean(right), "svco/mmvp_paired": _mean(both)}
        if self.mmhal:
            answered = [{**r, "file": r["file"].name, "model_answer": self.answer(r)} for r in self.mmhal]
            (desk.folder / "tables").mkdir(exist_ok=True, parents=True)
            (desk.folder / "tables" / "mmhal_answers.json").write_text(json.dumps(answered, indent=1))
            metrics["svco/mmhal_answered"] = float(len(answered))
        desk.table("benchmarks", [{"metric": name, "value": value} for name, value in metrics.items()])
        return metrics

    @torch.no_grad()
    def right(self, items: Sequence[files.Item]) -> list[bool]:
        """Whether the true option is the likeliest one."""
        found = []
        for item in items:
            prompt, inputs = self.vlm.reader.prompt(item.question, open_image(item.image))
            options = [self.vlm.reader.response(option)[0] for option in item.options]
            found.append(int(scores_of(self.vlm, [Row(prompt, inputs, options)]).argmax()) == item.right)
        return found

    @torch.no_grad()
    def answer(self, record: dict[str, Any]) -> str:
        ids, inputs = self.vlm.reader.prompt(record["question"], open_image(record["file"]))
        asked = ids[None].to(self.vlm.device)
        given = dict(input_ids=asked, attention_mask=torch.ones_like(asked), **self.vlm.placed(inputs))
        made = self.vlm.core.generate(**given, max_new_tokens=self.longest, do_sample=False)
        return self.vlm.reader.text(made[0, len(ids) :])


def _mean(values: Sequence[bool]) -> float:
    return sum(values) / len(values)

"""A model by path on benchmark files on disk; `PROTOCOLS` says what of each is as published."""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from PIL.Image import Image

from datamodules.scenes import benchmarks as files
from datamodules.scenes.mvc import PIXEL_LIMIT, open_image
from lightning_modules.common.bounds import Count
from lightning_modules.common.choices import check_choice
from lightning_modules.common.digests import digest
from lightning_modules.common.files import sha256
from lightning_modules.runtime.study import Desk
from lightning_modules.svco.evaluation import greedy
from lightning_modules.svco.grounding import says_no, yes_no
from lightning_modules.svco.models import VLM
from lightning_modules.svco.scores import Row, scores_of
from lightning_modules.training.inner import device

# POPE's three kinds of negatives; a file whose kind is not said is called `file`.
SPLITS = ("random", "popular", "adversarial", "file")
ANSWERS = ("said", "likelier")
PROTOCOLS = {
    "said": "as published: greedy answer, no where its first sentence has no or not, else yes",
    "likelier": "not as published: the likelier of the answers yes and no",
    "mmvp": "not as published, which lets GPT-4 read a free answer: the likeliest of the options; both of a pair or none",
    "mmhal": "as published but for the judge, GPT-4, which is not asked: greedy answers are written down for it",
}
# Tokens of an answer to POPE: its first sentence is read.
SENTENCE = 32


class Benchmarks:
    """Args:
    pope: the published files by split, `random`, `popular` and `adversarial`, or one as `file`; as `images` the folder of
        their images. mmvp, mmhal: the published file and its images, `{file: .., images: ..}`. null leaves one out.
    pope_answers: what counts as POPE's answer, what the model says, `said`, or the `likelier` of yes and no.
    longest: tokens of an answer to MMHal. MMHal's own judge is a model of somebody else: answers are written for it.
    pixel_limit: most pixels of a picture.
    batch: questions that are answered together, where their pictures and prompts have one shape.
    """

    def __init__(
        self,
        *,
        model: VLM,
        pope: dict[str, str] | None = None,
        mmvp: dict[str, str] | None = None,
        mmhal: dict[str, str] | None = None,
        pope_answers: str = "said",
        longest: Count = 128,
        batch: Count = 16,
        pixel_limit: Count = PIXEL_LIMIT,
    ) -> None:
        check_choice("study.pope_answers", pope_answers, ANSWERS)
        given = {"mmvp": mmvp, "mmhal": mmhal}
        for split, file in (pope or {}).items():
            if split != "images":
                check_choice("study.pope: a split", split, SPLITS)
                given[f"pope_{split}"] = {"file": file, "images": (pope or {})["images"]}
        self.paths = {
            name: (Path(v["file"]).expanduser(), Path(v["images"]).expanduser()) for name, v in given.items() if v
        }
        if not self.paths:
            raise ValueError("study.pope, study.mmvp and study.mmhal are all null; give one {file: .., images: ..}.")
        self.pixel_limit = pixel_limit
        self.vlm, self.longest, self.batch, self.pope_answers = model.eval(), longest, batch, pope_answers

    def prepare(self) -> None:
        """Read every file, so that a malformed one is named before the first question."""
        pope = {name.removeprefix("pope_"): paths for name, paths in self.paths.items() if name.startswith("pope_")}
        self.pope = {split: files.read_pope(*paths) for split, paths in pope.items()}
        self.mmvp = files.read_mmvp(*self.paths["mmvp"]) if "mmvp" in self.paths else []
        self.mmhal = files.read_mmhal(*self.paths["mmhal"]) if "mmhal" in self.paths else []

    def fingerprint(self) -> dict[str, str]:
        sums = {name: sha256(file) for name, (file, _) in self.paths.items()}
        return {"data": digest(sums), "base": self.vlm.fingerprint()}

    def run(self, desk: Desk) -> dict[str, float]:
        self.vlm.to(device())
        found = {self.pope_answers: self.pope_found(desk)} if self.pope else {}
        if self.mmvp:
            right = self.right(self.mmvp)
            both = [a and b for a, b in zip(right[::2], right[1::2], strict=True)]
            found["mmvp"] = {"svco/mmvp_single": fmean(right), "svco/mmvp_paired": fmean(both)}
        if self.mmhal:
            said = self.answers([(r["question"], r["file"]) for r in self.mmhal], longest=self.longest)
            answered = [{**r, "file": r["file"].name, "model_answer": a} for r, a in zip(self.mmhal, said, strict=True)]
            (desk.folder / "tables").mkdir(exist_ok=True, parents=True)
            (desk.folder / "tables" / "mmhal_answers.json").write_text(json.dumps(answered, indent=1))
            found["mmhal"] = {"svco/mmhal_answered": float(len(answered))}
        rows = [
            {"metric": name, "value": value, "protocol": PROTOCOLS[protocol]}
            for protocol, metrics in found.items()
            for name, value in metrics.items()
        ]
        desk.table("benchmarks", rows)
        return {name: value for metrics in found.values() for name, value in metrics.items()}

    def pope_found(self, desk: Desk) -> dict[str, float]:
        """POPE's numbers of each split and, as it is reported, their mean over the splits; answers in a table."""
        metrics: dict[str, float] = {}
        table: list[dict[str, str]] = []
        for split, items in self.pope.items():
            if self.pope_answers == "said":
                said = self.answers([(item.question, item.image) for item in items], longest=SENTENCE)
                says_yes = [not says_no(text) for text in said]
            else:
                says_yes = [r == (item.right == 0) for r, item in zip(self.right(items), items, strict=True)]
                said = ["yes" if yes else "no" for yes in says_yes]
            rates = yes_no(says_yes=says_yes, is_yes=[item.right == 0 for item in items])
            metrics |= {f"svco/pope_{split}_{name}": value for name, value in rates.items()}
            table += [
                {
                    "split": split,
                    "image": i.image.name,
                    "question": i.question,
                    "label": i.options[i.right],
                    "answer": a,
                }
                for i, a in zip(items, said, strict=True)
            ]
        desk.table("pope_answers", table, show=False)
        for name in ("accuracy", "precision", "recall", "f1", "yes"):
            values = [metrics[f"svco/pope_{split}_{name}"] for split in self.pope]
            metrics[f"svco/pope_mean_{name}"] = sum(values) / len(values)
        return metrics

    def picture(self, path: Path) -> Image:
        return open_image(path, pixel_limit=self.pixel_limit, key="study")

    @torch.no_grad()
    def right(self, items: Sequence[files.Item]) -> list[bool]:
        """Whether the true option is the likeliest one."""
        found = []
        for item in items:
            prompt, inputs = self.vlm.reader.prompt(item.question, self.picture(item.image))
            options = [self.vlm.reader.response(option)[0] for option in item.options]
            found.append(int(scores_of(self.vlm, [Row(prompt, inputs, options)]).argmax()) == item.right)
        return found

    def answers(self, asked: Sequence[tuple[str, Path]], *, longest: int) -> list[str]:
        """Greedy answers to (question, picture), those of one shape together."""
        found: dict[int, str] = {}
        waiting: dict[Any, dict[int, Any]] = {}

        def answer(group: dict[int, Any]) -> None:
            found.update(zip(group, greedy(self.vlm, list(group.values()), longest=longest), strict=True))

        for number, (question, picture) in enumerate(asked):
            ids, inputs = self.vlm.reader.prompt(question, self.picture(picture))
            shape = (len(ids), *((name, tuple(value.shape)) for name, value in inputs.items()))
            group = waiting.setdefault(shape, {})
            group[number] = ids, inputs
            if len(group) == self.batch:
                answer(waiting.pop(shape))
        for group in waiting.values():
            answer(group)
        return [found[number] for number in range(len(asked))]

"""One task as a LightningDataModule: its texts in a template, its classes as label words, in an exact order."""

import copy
import json
from collections import Counter
from functools import cached_property
from typing import Any, Protocol

import torch

from datamodules.intake import Intake
from datamodules.marks import marks_of
from datamodules.order import ORDER_VERSION
from datamodules.ordered import Batch, Batches, OrderedDataModule
from datamodules.tasks.task import Task
from datamodules.tasks.template import Rows, Template, collate, default_of, refuse_join
from datamodules.tasks.words import Tokens, label_ids, pad_of, tokens_of
from lightning_modules.common.bounds import Count, Whole
from lightning_modules.common.choices import check_choice
from lightning_modules.common.digests import digest

VERBALISERS = ("token", "sum", "mean", "prototype")


class Source(Protocol):
    """Where tasks come from."""

    def names(self) -> list[str]: ...

    def task(self, name: str) -> Task: ...


class Asked(Protocol):
    """What of a backbone the data depends on (`lightning_modules.prompt.backbones`)."""

    kind: str
    max_positions: int

    def tokenizer(self) -> Any: ...


class Examples(Batches):
    """Encoded examples of a split; a batch of any of them carries all that the backbone is asked with."""

    def __init__(self, *, encoded: dict[str, Any], labels: list[int], common: Batch, pad: int) -> None:
        self.rows, self.ask, self.labels = Rows(encoded["rows"]), torch.tensor(encoded["ask"]), torch.tensor(labels)
        self.common, self.pad = common, pad
        self.sizes = [len(labels)]

    def __getitem__(self, part: slice) -> Batch:
        return self.__getitems__(list(range(*part.indices(len(self)))))

    def __getitems__(self, indices: list[int]) -> Batch:
        batch = self.rows.padded(indices, pad=self.pad)
        return {**batch, **self.common, "ask": self.ask[indices], "labels": self.labels[indices]}


class TaskDataModule(OrderedDataModule[Examples]):
    """`task` of `source`, in `template`, for `backbone`.

    Args:
        prompt_length: positions kept for a soft prompt, P.
        template: see `Template`; None takes `default_of` the backbone's kind.
        verbaliser: `token`: a class is its label word's logit; `sum`, `mean`: the log-probabilities of its label word's
            tokens, added up or on average; `prototype`: the cosine to its embedded phrase; None: `prototype` for a bare
            encoder, `token` for a language model. A class of several words has the mean of theirs.
        batch: examples of an optimizer step; eval_batch of them a forward elsewhere.
    """

    def __init__(
        self,
        *,
        source: Source,
        task: str,
        backbone: Asked,
        template: str | None = None,
        prompt_length: Whole = 16,
        verbaliser: str | None = None,
        batch: Count = 32,
        eval_batch: Count = 256,
        seed: Whole = 0,
        workers: Whole = 0,
    ) -> None:
        super().__init__()
        verbaliser = verbaliser or ("prototype" if backbone.kind == "encoder" else "token")
        check_choice("data.verbaliser", verbaliser, VERBALISERS)
        self.source_of_tasks, self.name, self.backbone = source, task, backbone
        # Words are read out where a mask stands, also of an encoder without a head.
        self._kind = "masked" if backbone.kind == "encoder" and verbaliser != "prototype" else backbone.kind
        self._pattern, self._prompt_length = template, prompt_length
        self.verbaliser, self.global_batch, self.eval_batch = verbaliser, batch, eval_batch
        self.seed, self.workers = seed, workers

    def ordered(self, *, seed: int, batch: int) -> "TaskDataModule":
        """The same data in another order; what is read and encoded is so for both."""
        # A copy takes what is there: what is read later would be read for each.
        _ = self.content, self.common, self.template
        other = copy.copy(self)
        other.seed, other.global_batch, other.trainer, other._done = seed, batch, None, 0
        other.__dict__.pop("sampler", None)
        return other

    def prepare_data(self) -> None:
        """Load the task and the tokenizer, so that their errors come before anything is trained."""
        _ = self.task, self.tokenizer, self.common
        refuse_join(self.task.join, self.tokenizer)
        self.intake.tell()

    @cached_property
    def task(self) -> Task:
        return self.source_of_tasks.task(self.name)

    @cached_property
    def intake(self) -> Intake:
        """What was taken of the task's data, and which of its texts are cut here."""
        found = self.task.intake or Intake(self.task.name)
        classes, labels = self.task.classes, self.task.labels
        found.taken = found.taken or {split: Counter(classes[n] for n in numbers) for split, numbers in labels.items()}
        return found

    @cached_property
    def tokenizer(self) -> Any:
        return self.backbone.tokenizer()

    @cached_property
    def template(self) -> Template:
        pattern = self._pattern or default_of(self._kind, self.tokenizer)
        return Template(pattern, self._kind, self._prompt_length, self.backbone.max_positions)

    @cached_property
    def pad(self) -> int:
        return pad_of(self.tokenizer)

    @cached_property
    def label_tokens(self) -> tuple[tuple[Tokens, ...], ...]:
        """Of every word of every class."""
        single = self.verbaliser == "token"
        return tokens_of(self.task.label_words, self.tokenizer, task=self.task.name, single=single)

    @property
    def _spare(self) -> int:
        """Positions that label words take beside the asked one; a decoder has its own."""
        if self.verbaliser not in ("sum", "mean") or self._kind == "seq2seq":
            return 0
        return max(len(word) for of_class in self.label_tokens for word in of_class) - 1

    @cached_property
    def common(self) -> Batch:
        """What every batch of the task carries: the prompt's place and the classes' words."""
        slots = [slot for slot, _ in self.template.parts()]
        at = {
            "prompt_at": self.template.encode([""], self.tokenizer, spare=self._spare)["prompt_at"],
            "kept": self.template.prompt_length if "prompt" in slots else 0,
        }
        if self.verbaliser == "token":
            return {**at, **label_ids(self.label_tokens)}
        if self.verbaliser in ("sum", "mean"):
            moves = "mask" in slots and "prompt" in slots and slots.index("mask") < slots.index("prompt")
            return {**at, "label_words": self.label_tokens, "reading": self.verbaliser, "prompt_moves": moves}
        if self.task.words:
            raise ValueError(
                f"task {self.task.name}: a class has several words; data.verbaliser=prototype embeds one phrase a class. "
                "Expected one each, or data.verbaliser=token, sum or mean."
            )
        phrases = self.tokenizer(list(self.task.classes))["input_ids"]
        made = collate(phrases, pad=self.pad)
        named = {"phrase_ids": made["input_ids"], "phrase_mask": made["attention_mask"], "phrases": digest(phrases)}
        return {**at, **named}

    def read(self, split: str) -> Examples:
        texts = self.task.texts[split]
        encoded = self.template.encode(texts, self.tokenizer, spare=self._spare)
        if encoded["cut"]:
            self.intake.cut[split] = encoded["cut"]
        marks = marks_of(self.tokenizer)
        own = texts if not self.task.join else [text.replace(self.task.join, " ") for text in texts]
        if held := [mark[0] for mark in map(marks.search, own) if mark]:
            self.intake.warnings.append(
                f"{len(held)} texts of {split} hold {held[0]!r} or the like, which the backbone's tokenizer takes for a "
                "token of its own and no text; take it out."
            )
        if encoded["cut"] or held:
            self.intake.tell()
        return Examples(encoded=encoded, labels=self.task.labels[split], common=self.common, pad=self.pad)

    def held_out_sizes(self) -> dict[str, int]:
        return {split: len(self.task.labels[split]) for split in ("val", "test")}

    @property
    def tokens_per_step(self) -> int:
        return self.global_batch * self.training.rows.longest

    def fingerprint(self) -> dict[str, str]:
        """Short hashes of the task, how it is asked, and the training order."""
        return {**self.content, "order": digest([ORDER_VERSION, self.seed, self.global_batch])}

    @cached_property
    def content(self) -> dict[str, str]:
        """`fingerprint` whatever the order."""
        asked: list[Any] = [self.template.pattern, self.template.prompt_length, self.verbaliser]
        asked.append(self.template.max_positions)
        # How they are read has changed once.
        asked += [2] if any(slot == "words" for slot, _ in self.template.parts()) else []
        vocabulary = json.dumps(sorted(self.tokenizer.get_vocab().items()))
        return {"data": self.task.fingerprint(), "template": digest(asked), "tokenizer": digest(vocabulary)}

"""Text of the controlled language for masked language modelling, tagged and masked the same way in every process."""

import itertools
from functools import cached_property
from typing import Any

import numpy as np
import torch

from datamodules.order import ORDER_VERSION
from datamodules.ordered import Batch, Batches, OrderedDataModule
from datamodules.tasks.datamodule import Asked
from datamodules.tasks.language import SPECIAL, Language
from datamodules.tasks.template import collate
from lightning_modules.common.bounds import Count, Whole
from lightning_modules.common.digests import digest

MASKED_WORDS, MASKED_LABELS = 0.15, 0.6
MASK, PAD, END = SPECIAL.index("<mask>"), SPECIAL.index("<pad>"), SPECIAL.index("</s>")


class MaskedSentences(Batches):
    """`count` sentences; a label word is masked in 60%, any other in 15%. `asked` [M] numbers a batch's masked positions
    row by row, `words` [M] are theirs; `tagged` and `untagged` say which of these name a label.

    Without the high rate for labels the model never learns to answer. `offset` [B, T] shifts the positions of a sentence,
    not of its tag, by 0 to `offsets`, as a soft prompt of that length will.
    """

    def __init__(self, *, language: Language, count: int, stream: int, offsets: int, tokenizer: Any, seed: int) -> None:
        self.offsets, self.seed = offsets, seed
        self.rows, self.tagged, self.heads = [], [], []
        for label, cue, sentence in itertools.islice(language.pretraining(stream=stream), count):
            words = [*([label] if label else []), *cue, *sentence.split()]
            self.rows.append([*tokenizer.convert_tokens_to_ids(words), END])
            self.tagged.append(label is not None)
            self.heads.append(len(words) - len(sentence.split()))
        self.sizes = [count]

    def __getitems__(self, indices: list[int]) -> Batch:
        """Masks depend on which sentences stand together, so an epoch's order gives every sentence new ones."""
        draw = np.random.default_rng([self.seed, *indices])
        batch = collate([self.rows[i] for i in indices], pad=PAD)
        ids = batch["input_ids"]
        chance = np.full(ids.shape, MASKED_WORDS)
        chance[np.asarray([self.tagged[i] for i in indices]), 0] = MASKED_LABELS
        special = torch.isin(ids, torch.tensor([PAD, END]))
        masked = torch.from_numpy(draw.random(ids.shape) < chance) & ~special
        shift = torch.from_numpy(draw.integers(0, self.offsets + 1, (len(indices), 1)))
        heads = torch.tensor([self.heads[i] for i in indices])[:, None]
        offset = shift * (torch.arange(ids.shape[1]) >= heads)
        tag = torch.zeros_like(masked)
        tag[:, 0] = torch.tensor([self.tagged[i] for i in indices])
        asked = masked.flatten().nonzero().squeeze(1)
        answers_tag = tag.flatten()[asked]
        # Places are found here: on a device, which are masked would have to be waited for.
        return {
            **batch,
            "input_ids": ids.masked_fill(masked, MASK),
            "offset": offset,
            "asked": asked,
            "words": ids.flatten()[asked],
            "tagged": answers_tag.nonzero().squeeze(1),
            "untagged": (~answers_tag).nonzero().squeeze(1),
        }


class PretrainingDataModule(OrderedDataModule[MaskedSentences]):
    """`sentences` of the backbone's language for training, and `held_out` others for validation and test."""

    eval_batch = 250

    def __init__(
        self,
        *,
        language: Language,
        backbone: Asked,
        sentences: Count = 40_000,
        held_out: Count = 2000,
        offsets: Whole = 40,
        batch: Count = 64,
        seed: Whole = 0,
    ) -> None:
        super().__init__()
        self.language, self.backbone, self.sentences, self.held_out = language, backbone, sentences, held_out
        self.offsets, self.global_batch, self.seed = offsets, batch, seed

    @cached_property
    def tokenizer(self) -> Any:
        return self.backbone.tokenizer()

    def read(self, split: str) -> MaskedSentences:
        return MaskedSentences(
            language=self.language,
            count=self.sentences if split == "train" else self.held_out,
            stream={"train": 0, "val": 1, "test": 2}[split],
            offsets=self.offsets,
            tokenizer=self.tokenizer,
            seed=self.seed,
        )

    def held_out_sizes(self) -> dict[str, int]:
        return dict.fromkeys(("val", "test"), self.held_out)

    @property
    def tokens_per_step(self) -> int:
        return self.global_batch * max(map(len, self.training.rows))

    def fingerprint(self) -> dict[str, str]:
        about = [self.language.description(), self.sentences, self.offsets, MASKED_WORDS, MASKED_LABELS]
        return {"data": digest(about), "order": digest([ORDER_VERSION, self.seed, self.global_batch])}

"""From a task's texts to token numbers with room for a prompt; every fault of a template is told here.

Shape legend: N examples, T positions, C classes, W tokens of a label phrase.
"""

import difflib
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

SLOT = re.compile(r"\{(\w+)\}")
SLOTS = ("mask", "prompt", "text", "cls", "sep")
DEFAULTS = {
    "masked": "{mask}{prompt}{text}{sep}",
    "encoder": "{cls}{prompt}{text}{sep}",
    "causal": "{prompt}{text}{mask}",
    "seq2seq": "{prompt}{text}{sep}",
}


@dataclass(frozen=True)
class Template:
    """Text with the slots {mask}, {prompt}, {text}, {cls} and {sep}; what stands between them is text of its own.

    The prompt stands before the text, so that its positions are the same in every example. {mask} is where the answer is
    read: a causal LM has no mask token and is asked at the position before it, an encoder-decoder at its
    decoder's start.

    Args:
        text: the template; None takes the kind's default, the paper's `[MASK], prompt, text` for a masked LM.
        kind: of the backbone (`families.kind_of`).
        prompt_length: positions kept for a soft prompt.
        max_positions: the longest input the backbone takes; longer texts are cut.
    """

    text: str | None
    kind: str
    prompt_length: int
    max_positions: int

    @property
    def pattern(self) -> str:
        return self.text or DEFAULTS[self.kind]

    def parts(self) -> list[tuple[str, str]]:
        """[(slot or "words", literal)], checked."""
        found: list[tuple[str, str]] = []
        end = 0
        for match in SLOT.finditer(self.pattern):
            if match[1] not in SLOTS:
                raise ValueError(f"data.template has the slot {{{match[1]}}}; expected one of {', '.join(SLOTS)}.")
            found += [("words", self.pattern[end : match.start()])] * bool(self.pattern[end : match.start()].strip())
            found.append((match[1], ""))
            end = match.end()
        found += [("words", self.pattern[end:])] * bool(self.pattern[end:].strip())
        order = [slot for slot, _ in found]
        if order.count("text") != 1 or order.count("prompt") > 1:
            raise ValueError(f"data.template is {self.pattern!r}; expected one {{text}} and at most one {{prompt}}.")
        if self.kind in ("masked", "causal") and order.count("mask") != 1:
            raise ValueError(f"data.template is {self.pattern!r}; a {self.kind} language model needs one {{mask}}.")
        if "prompt" in order and order.index("prompt") > order.index("text"):
            raise ValueError(f"data.template is {self.pattern!r}; expected {{prompt}} before {{text}}.")
        if self.kind == "causal" and order[-1] != "mask":
            raise ValueError(
                f"data.template is {self.pattern!r}; a causal language model answers last: end with {{mask}}."
            )
        return found

    def encode(self, texts: list[str], tokenizer: Any) -> dict[str, Any]:
        """Rows of token numbers, `ask`, `prompt_at` and how many texts were `cut`.

        ValueError when no text would fit beside the template.
        """
        parts = self.parts()
        fixed = {i: self._fixed(slot, words, tokenizer) for i, (slot, words) in enumerate(parts) if slot != "text"}
        room = self.max_positions - sum(map(len, fixed.values()))
        if room < 1:
            fits = self.prompt_length + room - 1
            near = f"prompt.length={fits}" if fits >= 0 else "a template of fewer words"
            raise ValueError(
                f"data.template with prompt.length={self.prompt_length} takes {self.max_positions - room} positions of "
                f"the backbone's {self.max_positions} and leaves none for the text; the nearest is {near}."
            )
        encoded = tokenizer(texts, add_special_tokens=False)["input_ids"]
        rows, ask, prompt_at = [], [], 0
        for tokens in encoded:
            row: list[int] = []
            asked = 0
            for i, (slot, _) in enumerate(parts):
                if slot == "mask":
                    asked = len(row) - (self.kind == "causal")
                if slot == "prompt":
                    prompt_at = len(row)
                row += tokens[:room] if slot == "text" else fixed[i]
            rows.append(row)
            ask.append(max(0, asked))
        cut = sum(len(tokens) > room for tokens in encoded)
        return {"rows": rows, "ask": ask, "prompt_at": prompt_at, "cut": cut}

    def _fixed(self, slot: str, words: str, tokenizer: Any) -> list[int]:
        if slot == "words":
            return tokenizer(words, add_special_tokens=False)["input_ids"]
        if slot == "prompt":
            return [_pad(tokenizer)] * self.prompt_length
        if slot == "mask":
            return [] if self.kind == "causal" else [tokenizer.mask_token_id]
        token = tokenizer.cls_token_id if slot == "cls" else tokenizer.sep_token_id
        token = tokenizer.eos_token_id if token is None and slot == "sep" else token
        return [] if token is None else [token]


def collate(rows: list[list[int]], *, pad: int) -> dict[str, Any]:
    """input_ids and attention_mask [N, T], padded on the right to the longest row."""
    width = max(map(len, rows))
    ids, mask = torch.full((len(rows), width), pad), torch.zeros(len(rows), width, dtype=torch.long)
    for n, row in enumerate(rows):
        ids[n, : len(row)], mask[n, : len(row)] = torch.tensor(row), 1
    return {"input_ids": ids, "attention_mask": mask}


def label_ids(words: tuple[str, ...], tokenizer: Any) -> Tensor:
    """The token of each class's word [C]; ValueError naming the word that is not one known token of its own."""
    found = []
    for word in words:
        readings = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (f" {word}", word)]
        single = [r for r in readings if len(r) == 1 and r[0] != tokenizer.unk_token_id]
        if not single:
            known = [t for t in readings[1] if t != tokenizer.unk_token_id]
            pieces = " ".join(map(str, tokenizer.convert_ids_to_tokens(readings[1])))
            what = (
                f"is {len(readings[1])} tokens of this backbone ({pieces})" if known else "is unknown to this backbone"
            )
            near = [tokenizer.decode(known[:1]).strip()] if known else _nearest(word, tokenizer)
            raise ValueError(
                f"data.label_words: {word!r} {what}; expected a word that is one token, or data.verbaliser=prototype"
                f"{f'; the nearest is {near[0]!r}' if near else ''}."
            )
        found.append(single[0][0])
    if len(set(found)) < len(found):
        raise ValueError(
            f"data.label_words: {', '.join(words)}: two classes have the same token; expected different words."
        )
    return torch.tensor(found)


def _nearest(word: str, tokenizer: Any) -> list[str]:
    return difflib.get_close_matches(word, list(tokenizer.get_vocab()), n=1, cutoff=0.0)


def _pad(tokenizer: Any) -> int:
    return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id

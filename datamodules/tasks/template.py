"""From a task's texts to token numbers with room for a prompt; every fault of a template is told here.

Shape legend: N examples, T positions.
"""

import re
from dataclasses import dataclass
from typing import Any

import torch

from datamodules.tasks.words import pad_of

SLOT = re.compile(r"\{(\w+)\}")
SLOTS = ("mask", "prompt", "text", "bos", "cls", "sep")
DEFAULTS = {
    "masked": "{mask}{prompt}{text}{sep}",
    "encoder": "{cls}{prompt}{text}{sep}",
    "causal": "{prompt}{text}{mask}",
    "seq2seq": "{prompt}{text}{sep}",
}


def default_of(kind: str, tokenizer: Any) -> str:
    """The kind's; of a causal LM whose own tokenizer begins each text with BOS, as it was trained, with {bos} first."""
    bos = tokenizer.bos_token_id
    begins = kind == "causal" and bos is not None and tokenizer("a")["input_ids"][:1] == [bos]
    return f"{'{bos}' if begins else ''}{DEFAULTS[kind]}"


@dataclass(frozen=True)
class Template:
    """Text with the slots {mask}, {prompt}, {text}, {bos}, {cls} and {sep}; what stands between is text of its own.

    The prompt stands before the text, so that its positions are the same in every example. {mask} is where the answer is
    read: a causal LM has no mask token and is asked at the position before it, an encoder-decoder at its
    decoder's start.

    Args:
        pattern: the template; `default_of` has that of each kind, the paper's `[MASK], prompt, text` for a masked LM.
        kind: of the backbone (`families.kind_of`).
        prompt_length: positions kept for a soft prompt.
        max_positions: the longest input the backbone takes; longer texts are cut.
    """

    pattern: str
    kind: str
    prompt_length: int
    max_positions: int

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

    def encode(self, texts: list[str], tokenizer: Any, *, spare: int = 0) -> dict[str, Any]:
        """Rows of token numbers, `ask`, `prompt_at` and how many texts were `cut`.

        spare: positions that are left free, for further tokens of a label word. ValueError when no text would fit beside
        the template.
        """
        parts = self.parts()
        fixed = {i: self._fixed(slot, words, tokenizer) for i, (slot, words) in enumerate(parts) if slot != "text"}
        room = self.max_positions - spare - sum(map(len, fixed.values()))
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
            return [pad_of(tokenizer)] * self.prompt_length
        if slot == "mask" and self.kind == "causal":
            return []
        # Where texts are not ended by a separator they are by EOS.
        names = {"mask": ("mask",), "bos": ("bos",), "cls": ("cls",), "sep": ("sep", "eos")}[slot]
        for name in names:
            if (token := getattr(tokenizer, f"{name}_token_id")) is not None:
                return [token]
        told = " or ".join(name if name == "mask" else name.upper() for name in names)
        asked = slot == "mask" and self.kind == "masked"
        remedy = "a masked language model is asked where one stands" if asked else f"leave {{{slot}}} out of it"
        raise ValueError(
            f"data.template is {self.pattern!r} but the backbone's tokenizer has no {told} token; {remedy}."
        )


def collate(rows: list[list[int]], *, pad: int) -> dict[str, Any]:
    """input_ids and attention_mask [N, T], padded on the right to the longest row."""
    return Rows(rows).padded(list(range(len(rows))), pad=pad)


class Rows:
    """Token lists of unequal length behind one another in one tensor, so that a batch of them is one gather."""

    def __init__(self, rows: list[list[int]]) -> None:
        self.lengths = torch.tensor([len(row) for row in rows], dtype=torch.long)
        self.begins = self.lengths.cumsum(0) - self.lengths
        self.tokens = torch.tensor([token for row in rows for token in row], dtype=torch.long)

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def longest(self) -> int:
        return int(self.lengths.max())

    def padded(self, indices: list[int], *, pad: int) -> dict[str, Any]:
        """input_ids and attention_mask [N, T] of these rows, padded on the right to the longest of them."""
        lengths_N1, begins_N1 = self.lengths[indices, None], self.begins[indices, None]
        at_T = torch.arange(int(lengths_N1.max()))
        there_NT = at_T < lengths_N1
        tokens_NT = self.tokens[torch.where(there_NT, begins_N1 + at_T, 0)]
        return {"input_ids": torch.where(there_NT, tokens_NT, pad), "attention_mask": there_NT.long()}

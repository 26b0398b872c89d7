"""From a task's texts to token numbers with room for a prompt; every fault of a template is told here.

Shape legend: N examples, T positions.
"""

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

from datamodules.marks import marks_of
from datamodules.tasks.task import SEAM
from datamodules.tasks.words import pad_of

SLOT = re.compile(r"\{(\w+)\}")
SLOTS = ("mask", "prompt", "text", "bos", "cls", "sep")
# How separators are written: </s>, [SEP], <|endoftext|>.
MARK = re.compile(r"<[^<>\s]+>|\[[A-Z]+\]")
DEFAULTS = {
    "masked": "{mask}{prompt}{text}{sep}",
    "encoder": "{cls}{prompt}{text}{sep}",
    "causal": "{prompt}{text}{mask}",
    "seq2seq": "{prompt}{text}{sep}",
}


def default_of(kind: str, tokenizer: Any) -> str:
    """The kind's; of a causal LM or an encoder-decoder whose own tokenizer begins each text with BOS, as it was trained,
    with {bos} first."""
    bos = tokenizer.bos_token_id
    begins = kind in ("causal", "seq2seq") and bos is not None and tokenizer("a")["input_ids"][:1] == [bos]
    return f"{'{bos}' if begins else ''}{DEFAULTS[kind]}"


def separator_of(tokenizer: Any) -> list[int]:
    """What the tokenizer itself puts between two texts. ValueError where that is nothing."""
    found = tokenizer("a", "a", return_special_tokens_mask=True)
    special = found["special_tokens_mask"]
    inner = range(special.index(0), len(special) - special[::-1].index(0))
    if between := [found["input_ids"][i] for i in inner if special[i]]:
        return between
    raise ValueError(
        "data.source.join is null, and the backbone's tokenizer puts nothing between two texts; expected what stands there "
        "as text: data.source.join=' '."
    )


def refuse_join(join: str | None, tokenizer: Any) -> None:
    """ValueError for what stands between two texts and is no mark of this tokenizer, or for null where it has none."""
    if join is None:
        separator_of(tokenizer)
        return
    if foreign := MARK.search(marks_of(tokenizer).sub("", join)):
        raise ValueError(
            f"data.source.join={join!r} holds {foreign[0]!r}, which the backbone's tokenizer takes for text; expected a "
            "mark of its own, or data.source.join=null, which puts its own separator there."
        )


def ids_of(texts: list[str], tokenizer: Any) -> list[list[int]]:
    """Token numbers of each text, its seam as the backbone's separator."""
    pieces = [text.split(SEAM) for text in texts]
    ids = iter(tokenizer([piece for own in pieces for piece in own], add_special_tokens=False)["input_ids"])
    between = separator_of(tokenizer) if any(len(own) > 1 for own in pieces) else []
    return [[*next(ids), *(token for _ in own[1:] for token in (*between, *next(ids)))] for own in pieces]


@dataclass(frozen=True)
class Template:
    """Text with the slots {mask}, {prompt}, {text}, {bos}, {cls} and {sep}; what stands between are words.

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
        # What stands between slots, and each slot's name, in turns.
        for place, piece in enumerate(SLOT.split(self.pattern)):
            if place % 2 and piece not in SLOTS:
                raise ValueError(f"data.template has the slot {{{piece}}}; expected one of {', '.join(SLOTS)}.")
            if place % 2:
                found.append((piece, ""))
            elif piece.strip():
                found.append(("words", piece))
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
        parts = self._parts(tokenizer)
        slots = [slot for slot, _ in parts]
        at = slots.index("text")
        # A text and the words beside it are read as one: the blank between them begins the next word.
        beside = {i: parts[i][1] for i in (at - 1, at + 1) if 0 <= i < len(parts) and slots[i] == "words"}
        before, after = beside.get(at - 1, ""), beside.get(at + 1, "")
        fixed = {
            i: self._fixed(*part, tokenizer) for i, part in enumerate(parts) if part[0] != "text" and i not in beside
        }
        room = self.max_positions - spare - sum(map(len, fixed.values()))
        free = room - len(ids_of([before + after], tokenizer)[0])
        if free < 1:
            fits = self.prompt_length + free - 1
            near = f"prompt.length={fits}" if fits >= 0 else "a template of fewer words"
            raise ValueError(
                f"data.template with prompt.length={self.prompt_length} takes {self.max_positions - free} positions of "
                f"the backbone's {self.max_positions} and leaves none for the text; the nearest is {near}."
            )
        encoded = ids_of([f"{before}{text}{after}" for text in texts], tokenizer)
        long = [n for n, tokens in enumerate(encoded) if len(tokens) > room]
        open_ended = ids_of([f"{before}{texts[n]}" for n in long], tokenizer) if long else []
        for n, begun in zip(long, open_ended, strict=True):
            ending = encoded[n][_shared(encoded[n], begun) :]
            encoded[n] = begun[: room - len(ending)] + ending
        rows, ask, prompt_at = [], [], 0
        for tokens in encoded:
            row: list[int] = []
            asked = 0
            for i, slot in enumerate(slots):
                if slot == "mask":
                    asked = len(row) - (self.kind == "causal")
                if slot == "prompt":
                    prompt_at = len(row)
                row += tokens if slot == "text" else fixed.get(i, [])
            rows.append(row)
            ask.append(max(0, asked))
        return {"rows": rows, "ask": ask, "prompt_at": prompt_at, "cut": len(long)}

    def _parts(self, tokenizer: Any) -> list[tuple[str, str]]:
        """`parts`, without the blank before a slot where that would be a token of its own.

        An answer brings its own, a prompt is no text, and the masks of most tokenizers take it.
        """
        found = self.parts()
        for i, ((slot, words), (behind, _)) in enumerate(pairwise(found)):
            if slot == "words" and behind != "text":
                taken = [] if behind == "prompt" else self._fixed(behind, "", tokenizer)
                mark = tokenizer.added_tokens_decoder.get(taken[0]) if taken else None
                if not taken or (mark and mark.lstrip):
                    found[i] = (slot, words.rstrip())
        return found

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


def _shared(one: list[int], other: list[int]) -> int:
    """How many tokens both begin with."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def collate(rows: list[list[int]], *, pad: int) -> dict[str, Any]:
    """input_ids and attention_mask [N, T], padded on the right to the longest row."""
    return Rows(rows).padded(list(range(len(rows))), pad=pad)


class Rows:
    """Token lists of unequal length behind one another in one tensor, so that a batch of them is one gather."""

    def __init__(self, rows: list[list[int]]) -> None:
        self.lengths = torch.tensor([len(row) for row in rows], dtype=torch.long)
        self.begins = self.lengths.cumsum(0) - self.lengths
        self.tokens = torch.tensor([token for row in rows for token in row], dtype=torch.long)

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

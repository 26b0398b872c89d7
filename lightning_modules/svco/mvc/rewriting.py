"""Captions of a pair into a question and two responses that keep what sets them apart."""

import os
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from lightning_modules.common.bounds import Count
from lightning_modules.common.files import model_files
from lightning_modules.common.load import in_words, model_of
from lightning_modules.svco.mvc.candidates import Candidate
from lightning_modules.training.inner import device


class Worded(NamedTuple):
    """What is asked of both pictures, and the answer of each."""

    question: str
    one: str
    other: str


class Rewriter(Protocol):
    """`description()` names what the wording follows from."""

    def description(self) -> dict[str, Any]: ...

    def __call__(self, candidate: Candidate, draw: np.random.Generator) -> Worded: ...


def contrast_words(one: str, other: str) -> tuple[set[str], set[str]]:
    """The words of each text that the other one has not."""
    first, second = set(one.split()), set(other.split())
    return first - second, second - first


def keeps_contrast(candidate: Candidate, worded: Worded) -> bool:
    """Every word that sets a caption apart stands in its own answer and not in the other one."""
    first, second = contrast_words(candidate.caption_one, candidate.caption_other)
    one, other = (set(text.replace(".", " ").split()) for text in (worded.one, worded.other))
    words_one, words_other = ({w for w in side if w.isalpha() or "-" in w} for side in (first, second))
    own = words_one <= one and words_other <= other
    return bool(first or second) and own and not first & other and not second & one


class Templates:
    """A question and an opening of several each, drawn per pair."""

    QUESTIONS = (
        "describe the picture .",
        "what do you see ?",
        "what is in this picture ?",
        "please describe the scene .",
    )
    OPENINGS = ("", "i see ", "there is ")

    def description(self) -> dict[str, Any]:
        return {"rewriter": "templates", "questions": self.QUESTIONS, "openings": self.OPENINGS}

    def __call__(self, candidate: Candidate, draw: np.random.Generator) -> Worded:
        question = self.QUESTIONS[draw.integers(len(self.QUESTIONS))]
        opening = self.OPENINGS[draw.integers(len(self.OPENINGS))]
        texts = [candidate.caption_one, candidate.caption_other]
        # "in the room there are ..." is a sentence already; "a picture of ..." takes an opening.
        return Worded(question, *((opening if text.startswith("a ") else "") + text for text in texts))


class LanguageModel:
    """A local causal language model by path rewords each caption; what loses the contrast is rejected afterwards."""

    PROMPT = "Rewrite the caption as one fluent sentence and keep every fact.\nCaption: {caption}\nSentence:"

    def __init__(self, *, path: str, longest: Count = 48) -> None:
        path = os.path.expanduser(path)
        if not (Path(path) / "config.json").is_file():
            raise ValueError(f"study.rewriter.path={path}: no config.json there; expected a folder of save_pretrained.")
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.path, self.longest = path, longest
        said, load = f"study.rewriter.path={path}", AutoModelForCausalLM.from_pretrained
        with in_words(said):
            self.tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        self.model = model_of(load, path, said=said, local_files_only=True).eval()

    def description(self) -> dict[str, Any]:
        files = model_files(Path(self.path))
        return {"rewriter": "language model", "files": files, "longest": self.longest, "prompt": self.PROMPT}

    def __call__(self, candidate: Candidate, draw: np.random.Generator) -> Worded:
        question = Templates.QUESTIONS[draw.integers(len(Templates.QUESTIONS))]
        return Worded(question, *(self._reword(text) for text in (candidate.caption_one, candidate.caption_other)))

    def _reword(self, caption: str) -> str:
        inputs = self.tokenizer(self.PROMPT.format(caption=caption), return_tensors="pt").to(device())
        made = self.model.to(device()).generate(
            input_ids=inputs.input_ids,
            attention_mask=inputs.attention_mask,
            max_new_tokens=self.longest,
            do_sample=False,
            pad_token_id=self.tokenizer.pad_token_id or self.tokenizer.eos_token_id or 0,
        )
        text = self.tokenizer.decode(made[0, inputs.input_ids.shape[1] :], skip_special_tokens=True)
        return text.strip().split("\n")[0]

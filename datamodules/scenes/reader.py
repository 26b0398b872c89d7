"""What a model reads: prompts with and without the image, answers, pixels, all through its own processor and template."""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any, NamedTuple

import PIL
import torch
import transformers
from PIL import Image
from torch import Tensor

from datamodules.marks import marks_of
from lightning_modules.common.digests import digest

# Some templates tell the date. A prompt must not change by the day: it is the one that Llama's own fall back on.
TODAY, DATE = re.compile(r"""strftime_now\((["'])(.*?)\1\)"""), datetime(2024, 7, 26)
LLAVA_15 = "USER: {image}{question} ASSISTANT:"
# Whose words are known although their processors bring no chat template.
WITHOUT_TEMPLATE = ("LlavaProcessor", "PaliGemmaProcessor")
# What follows a prompt's last value in tensors with one value a token; None: that value again.
FOLLOWS: dict[str, int | None] = {
    "mm_token_type_ids": 0,
    "token_type_ids": 0,
    "image_embeds_position_mask": 0,
    "cross_attention_mask": None,
    "image_attention_mask": None,
}


class Encoded(NamedTuple):
    """A pair as a model reads it. ids are int64 [tokens]; inputs are what the processor gives beside the ids."""

    prompt_w: Tensor
    prompt_l: Tensor
    prompt_n: Tensor
    inputs_w: dict[str, Tensor]
    inputs_l: dict[str, Tensor]
    response_w: Tensor
    response_l: Tensor
    cut: int  # responses that were longer than the limit
    inputs_n: Mapping[str, Tensor] = {}


class Reader:
    """Prompts and answers in the turns of the processor's chat template.

    Without a template LLaVA's prompts are in the words of LLaVA-1.5 and PaliGemma's are the question alone, as these were
    trained with; ValueError for any other processor. Where a template puts more beside a question without an image than
    beside one with it, as Llama 3.2's does, it is asked with one, whose mark is taken out.

    Args:
        processor: a transformers processor with a tokenizer and an image processor.
        max_response: most tokens of a response with its end token; longer ones are cut and counted. 0: no limit.
    """

    def __init__(self, *, processor: Any, max_response: int = 128) -> None:
        self.processor, self.max_response = processor, max_response
        self.tokenizer = processor.tokenizer
        self.pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else 0
        template = getattr(processor, "chat_template", None) or getattr(self.tokenizer, "chat_template", None)
        self.template = template and TODAY.sub(lambda asked: repr(DATE.strftime(asked[2])), template)
        self.kind = type(processor).__name__
        self.pali = not self.template and self.kind == "PaliGemmaProcessor"
        self._marks = marks_of(self.tokenizer)
        if not self.template and self.kind not in WITHOUT_TEMPLATE:
            raise ValueError(
                f"the model's {self.kind} has no chat template, so nothing says how its questions and answers are put; "
                "expected one saved with the processor (chat_template.jinja)."
            )

    @cached_property
    def content(self) -> str:
        """A digest of all that encoding follows from beside the pairs; the same wherever the processor was loaded from."""
        about = self.processor.to_dict()
        images = about.pop("image_processor", None) or self.processor.image_processor.to_dict()
        fast = getattr(self.tokenizer, "backend_tokenizer", None)
        words = json.loads(fast.to_str()) if fast else self.tokenizer.get_vocab()
        # Set by each call, whatever the last one was.
        words = {name: value for name, value in words.items() if name not in ("padding", "truncation")}
        marks = [type(self.tokenizer).__name__, self.tokenizer.special_tokens_map]
        versions = [transformers.__version__, PIL.__version__]
        whole = [about, images, words, marks, self.template, self.max_response, versions]
        if self.template and not self._alike:
            whole.append([self.prompt_text("?", image=image) for image in (True, False)])
        return digest(json.loads(json.dumps(whole, default=str)))

    def prompt_text(self, question: str, *, system: str = "", image: bool = True) -> str:
        self._refuse_marks(question, system)
        if self.template:
            asked = self._written(question, system=system, image=image, add_generation_prompt=True)
            # A blank that a conversation's answers do not begin after is none of the prompt's.
            return asked.rstrip() if self._form and not self._form[0][-1:].isspace() else asked
        if self.pali:
            if system:
                raise ValueError(f"PaliGemma takes no system prompt, found {system!r}; leave 'system_prompt' empty.")
            # Its processor puts what else stands round a question, behind the image.
            return f"{self.processor.image_token}{question}" if image else f"{self.tokenizer.bos_token}{question}\n"
        mark = f"{self.processor.image_token}\n" if image else ""
        return f"{system} ".lstrip() + LLAVA_15.format(image=mark, question=question)

    def prompt(
        self, question: str, image: Image.Image | None = None, *, system: str = ""
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(ids [P], the processor's other tensors); without an image the same conversation without the image part."""
        text = self.prompt_text(question, system=system, image=image is not None)
        if image is None and self.pali:
            ids = self.tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
            return ids[0], {"token_type_ids": torch.zeros_like(ids)}
        return self.processed(text, image)

    def processed(self, text: str, image: Image.Image | None) -> tuple[Tensor, dict[str, Tensor]]:
        """(ids, other tensors) of a text that has its image's mark."""
        given: dict[str, Any] = {} if image is None else {"images": [image]}
        if self.tokenizer.bos_token and text.startswith(self.tokenizer.bos_token):
            # As transformers' own apply_chat_template: the template has written the first token already.
            given["add_special_tokens"] = False
        try:
            found = dict(self.processor(text=[text], return_tensors="pt", **given))
        except ValueError as error:
            if image is None:
                raise
            name = image.info.get("file", "a picture")
            raise ValueError(
                f"{name}, of {image.width} x {image.height} pixels, is not taken by the model's {self.kind}: {error}."
            ) from None
        ids = found.pop("input_ids")[0]
        found.pop("attention_mask", None)
        found.pop("labels", None)
        return ids, {name: value for name, value in found.items() if isinstance(value, Tensor)}

    def response(self, text: str) -> tuple[Tensor, bool]:
        """(ids [R] with the end token, whether the limit cut it). ValueError when there is nothing in it.

        What a conversation with this answer has more than one that waits for it, up to the end of the answer's turn.
        """
        self._refuse_marks(text)
        if not text.strip() or not self._ids(text):
            raise ValueError(f"the response {text!r} has no token; expected text.")
        asked, said = self.turn(text)
        before = self._ids(asked)
        whole = self._ids(asked + said)
        ids = whole[len(before) :]
        if whole[: len(before)] != before:
            raise ValueError(
                f"the response {text!r} runs into the end of its prompt, {asked[-20:]!r}: the tokenizer makes one token of "
                "both. Begin it with a letter."
            )
        end = self.tokenizer.eos_token_id
        if ids[-1] not in self.tokenizer.added_tokens_decoder and end is not None:
            ids = [*ids, end]
        cut = bool(self.max_response) and len(ids) > self.max_response
        return torch.tensor(ids[: self.max_response] if cut else ids), cut

    def turn(self, text: str) -> tuple[str, str]:
        """(the end of a prompt, what the template then writes for the answer `text` up to the end of its turn)."""
        if not self.template:
            return ("", text) if self.pali else ("ASSISTANT:", f" {text}")
        if self._form is None:
            return "", text
        begin, told = self._form[0], self._told("?", text, image=False)
        if not told.startswith(begin):
            raise ValueError(
                f"the chat template of {self.kind} does not put the response {text[:40]!r} behind the end of a prompt, "
                f"{begin[-20:]!r}; take out of the text what the template writes itself, such as a thought."
            )
        return begin, told[len(begin) :]

    def conversation(self, question: str, answer: str, image: Image.Image | None) -> tuple[Tensor, dict[str, Tensor]]:
        """(ids, other tensors) of a whole conversation as the processor itself reads it: what `prompt` followed by
        `response` must equal."""
        if self.pali:
            found = self.processor(
                text=[self.prompt_text(question)], images=[image], suffix=[answer], return_tensors="pt"
            )
            return found["input_ids"][0], {n: found[n] for n in ("pixel_values", "token_type_ids")}
        shown = image is not None
        if self.template and self._form is None:
            ids, inputs = self.prompt(question, image)
            more = self.response(answer)[0]
            ids, inputs = torch.cat([ids, more]), self.followed(inputs, prompt=len(ids), tokens=len(more))
        elif self.template:
            ids, inputs = self.processed(self._told(question, answer, image=shown), image)
        else:
            ids, inputs = self.processed(self.prompt_text(question, image=shown) + self.turn(answer)[1], image)
        end = self.tokenizer.eos_token_id
        if int(ids[-1]) not in self.tokenizer.added_tokens_decoder and end is not None:
            inputs = self.followed(inputs, prompt=len(ids), tokens=1)
            ids = torch.cat([ids, ids.new_tensor([end])])
        return ids, inputs

    def encode(self, pair: Any, images: Sequence[Image.Image]) -> Encoded:
        """`pair` has `instruction`, `system`, `chosen` and `rejected`; images are the chosen and the rejected one.

        Of one image alone there is no prompt with another: `prompt_l` is empty.
        """
        prompts = [self.prompt(pair.instruction, image, system=pair.system) for image in images]
        (prompt_w, inputs_w), (prompt_l, inputs_l) = (*prompts, (torch.empty(0, dtype=torch.int64), {}))[:2]
        prompt_n, inputs_n = self.prompt(pair.instruction, system=pair.system)
        (response_w, cut_w), (response_l, cut_l) = self.response(pair.chosen), self.response(pair.rejected)
        cut = int(cut_w) + int(cut_l)
        return Encoded(prompt_w, prompt_l, prompt_n, inputs_w, inputs_l, response_w, response_l, cut, inputs_n)

    def followed(self, inputs: Mapping[str, Tensor], *, prompt: int, tokens: int) -> dict[str, Tensor]:
        """The processor's tensors of a prompt of `prompt` tokens, for `tokens` more that are text."""
        found = dict(inputs)
        for name, value in inputs.items():
            if name in FOLLOWS and value.shape[1] == prompt:
                last = value[:, -1:].expand(-1, tokens, *value.shape[2:])
                # PaliGemma's answers see what is before them, its prompts see themselves whole.
                filling = int(self.kind == "PaliGemmaProcessor") if name == "token_type_ids" else FOLLOWS[name]
                found[name] = torch.cat([value, last if filling is None else torch.full_like(last, filling)], 1)
            elif value.dim() > 1 and value.shape[:2] == (1, prompt):
                raise ValueError(f"the model's {self.kind} gives {name}, one a token, which nobody here can continue.")
        return found

    def text(self, ids: Tensor) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True).strip()

    @cached_property
    def _form(self) -> tuple[str, bool] | None:
        """(the end of every prompt, whether an answer is a list of parts); None for a template of prompts alone."""
        asked, answer = self._written("?", image=False, add_generation_prompt=True), "yes"
        for parts in (True, False):
            try:
                whole = self._written("?", _said(answer, parts), image=False)
            except ValueError:
                continue
            if "'text':" in whole:
                continue
            for begin in (asked, asked.rstrip()):
                if whole.startswith(begin) and answer in whole[len(begin) :]:
                    return begin, parts
            if answer in whole:
                raise ValueError(
                    f"the chat template of {self.kind} opens an answer with {asked[-30:]!r}, which the answers of its "
                    "conversations have not; expected a template in which an answer begins as a generated one does."
                )
        return None

    def _told(self, question: str, answer: str, *, image: bool) -> str:
        assert self._form
        return self._written(question, _said(answer, self._form[1]), image=image).rstrip()

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids

    @cached_property
    def _alike(self) -> bool:
        """Whether the template's words without an image are those with one less what stands for it, blanks apart."""
        shown, plain = ("".join(self._rendered(_turns("?", image=image)).split()) for image in (True, False))
        more = len(shown) - len(plain)
        same = more > 0 and any(plain == shown[:at] + shown[at + more :] for at in range(len(plain) + 1))
        if not same and self.processor.image_token not in shown:
            raise ValueError(
                f"the chat template of {self.kind} begins {plain[:40]!r} without an image and {shown[:40]!r} with one: two "
                "conversations. Expected a template in which they differ by the image alone."
            )
        return same

    def _written(self, question: str, *said: dict[str, Any], system: str = "", image: bool, **settings: Any) -> str:
        """The template's words for a question and what was `said` to it."""
        shown = image or not self._alike
        text = self._rendered([*_turns(question, system=system, image=shown), *said], **settings)
        return text if image == shown else text.replace(self.processor.image_token, "", 1)

    def _rendered(self, turns: list[dict[str, Any]], **settings: Any) -> str:
        from jinja2.exceptions import TemplateError

        try:
            return self.processor.apply_chat_template(turns, chat_template=self.template, **settings)
        except (TemplateError, TypeError) as error:
            remedy = "; leave 'system_prompt' empty" if turns[0]["role"] == "system" else ""
            raise ValueError(f"the chat template of {self.kind} refuses the conversation ({error}){remedy}.") from None

    def _refuse_marks(self, *texts: str) -> None:
        mark = getattr(self.processor, "image_token", None)
        for text in texts:
            if mark and mark in text:
                raise ValueError(
                    f"the text {text!r} holds {mark!r}, which stands for a picture; the template puts it in its place: "
                    "take it out."
                )
            if found := self._marks.search(text):
                raise ValueError(
                    f"the text {text!r} holds {found[0]!r}, which the model reads as a token of its own, such as the "
                    "end of a turn, and not as text: take it out."
                )


def _said(answer: str, parts: bool) -> dict[str, Any]:
    return {"role": "assistant", "content": [{"type": "text", "text": answer}] if parts else answer}


def _turns(question: str, *, system: str = "", image: bool) -> list[dict[str, Any]]:
    parts = [{"type": "image"}] * image + [{"type": "text", "text": question}]
    before = [{"role": "system", "content": [{"type": "text", "text": system}]}] * bool(system)
    return [*before, {"role": "user", "content": parts}]

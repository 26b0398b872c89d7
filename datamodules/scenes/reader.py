"""What a model reads: prompts with and without the image, responses, pixels, all through its own processor."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

LLAVA_15 = "USER: {image}{question} ASSISTANT:"


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


class Reader:
    """Prompts by the processor's chat template, or in LLaVA-1.5's words where it has none.

    Args:
        processor: a transformers processor with a tokenizer and an image processor.
        max_response: most tokens of a response with its end token; longer ones are cut and counted. 0: no limit.
    """

    def __init__(self, *, processor: Any, max_response: int = 128) -> None:
        self.processor, self.max_response = processor, max_response
        self.tokenizer = processor.tokenizer
        self.pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else 0

    def prompt_text(self, question: str, *, system: str = "", image: bool = True) -> str:
        if getattr(self.processor, "chat_template", None):
            parts = [{"type": "image"}] * image + [{"type": "text", "text": question}]
            turns = [{"role": "system", "content": [{"type": "text", "text": system}]}] * bool(system)
            turns.append({"role": "user", "content": parts})
            return self.processor.apply_chat_template(turns, add_generation_prompt=True)
        mark = f"{self.processor.image_token}\n" if image else ""
        return f"{system} ".lstrip() + LLAVA_15.format(image=mark, question=question)

    def prompt(
        self, question: str, image: Image.Image | None = None, *, system: str = ""
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(ids [P], the processor's other tensors); without an image the same conversation without the image part."""
        text = self.prompt_text(question, system=system, image=image is not None)
        if image is None:
            return self.tokenizer(text, return_tensors="pt").input_ids[0], {}
        found = dict(self.processor(text=[text], images=[image], return_tensors="pt"))
        found.pop("attention_mask", None)
        return found.pop("input_ids")[0], found

    def response(self, text: str) -> tuple[Tensor, bool]:
        """(ids [R] with the end token, whether the limit cut it). ValueError when there is nothing in it."""
        ids = self.tokenizer(text, add_special_tokens=False).input_ids
        if not ids:
            raise ValueError(f"the response {text!r} has no token; expected text.")
        end = self.tokenizer.eos_token_id
        ids = [*ids, end] if end is not None else ids
        cut = bool(self.max_response) and len(ids) > self.max_response
        return torch.tensor(ids[: self.max_response] if cut else ids), cut

    def encode(self, pair: Any, images: Sequence[Image.Image]) -> Encoded:
        """`pair` has `instruction`, `system`, `chosen` and `rejected`; images are the chosen and the rejected one."""
        (prompt_w, inputs_w), (prompt_l, inputs_l) = (
            self.prompt(pair.instruction, image, system=pair.system) for image in images
        )
        prompt_n, _ = self.prompt(pair.instruction, system=pair.system)
        (response_w, cut_w), (response_l, cut_l) = self.response(pair.chosen), self.response(pair.rejected)
        return Encoded(
            prompt_w, prompt_l, prompt_n, inputs_w, inputs_l, response_w, response_l, int(cut_w) + int(cut_l)
        )

    def text(self, ids: Tensor) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True).strip()

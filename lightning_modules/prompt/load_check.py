"""Before a model is used: one small batch through its own plain forward, compared with the way a backbone asks it."""

from typing import Any

import torch

from datamodules.tasks.words import pad_of
from lightning_modules.common.machine import OF_THE_MACHINE
from lightning_modules.common.say import reason
from lightning_modules.prompt.backbone import Backbone
from lightning_modules.prompt.families import start_token, word_embedding

# Relative to the largest logit; float32 differs by about 1e-6.
LIMIT = 1e-4
# Raised when the check looks at more.
VERSION = 2


@torch.no_grad()
def difference(backbone: Backbone) -> float:
    """Largest difference over the largest logit: two texts of unlike lengths, with two of their words given as a prompt.

    ValueError where no prompt could be tuned: its gradient is zero or no number.
    """
    model, tokenizer = backbone.model, backbone.tokenizer
    pad = pad_of(tokenizer)
    special, number = set(tokenizer.all_special_ids), min(len(tokenizer), len(word_embedding(model).weight))
    words = torch.tensor([i for i in range(number) if i not in special])
    ids = words[torch.randint(len(words), (2, 7), generator=torch.Generator().manual_seed(0))]
    ids[1, 5:] = pad
    mask, ask = torch.ones_like(ids), torch.tensor([6, 4])
    mask[1, 5:] = 0
    plain: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
    if backbone.kind == "seq2seq":
        expected_BV = model(**plain, decoder_input_ids=torch.full((2, 1), start_token(model))).logits[:, 0]
    elif backbone.kind == "encoder":
        expected_BV = model(**plain)[0][torch.arange(2), ask] @ word_embedding(model).weight.T
    else:
        expected_BV = model(**plain).logits[torch.arange(2), ask]
    prompt_BPH, slots = backbone.words(ids[:, 1:3]), ids.clone()
    slots[:, 1:3] = pad
    batch = {"input_ids": slots, "attention_mask": mask, "ask": ask, "prompt_at": 1}
    with torch.enable_grad():
        prompt_BPH.requires_grad_()
        found = [backbone.logits(batch, prompt_BPH, lean=lean) for lean in (False, True)]
        (slope_BPH,) = torch.autograd.grad(found[1].float().square().mean(), prompt_BPH)
    if not bool(slope_BPH.isfinite().all() and slope_BPH.any()):
        raise ValueError("the gradient of a prompt is zero or no number, so none can be tuned")
    return max(float((f - expected_BV).abs().max() / expected_BV.abs().max()) for f in found)


def check(backbone: Backbone, name: str) -> float:
    """`difference`. ValueError naming the family where it is above `LIMIT`, or where it cannot be asked at all."""
    family = f"backbone.name={name}: {type(backbone.model).__name__} ({backbone.model.config.model_type})"
    try:
        found = difference(backbone)
    except OF_THE_MACHINE:
        raise
    except Exception as error:
        raise ValueError(f"{family} cannot be asked with a prompt in its words' place: {reason(error)}.") from error
    if not found <= LIMIT:
        raise ValueError(
            f"{family} with a prompt in its words' place differs from its own forward by {found:.2g} of the largest logit; "
            f"expected at most {LIMIT:g}. This family is not supported."
        )
    return found

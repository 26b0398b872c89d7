"""The multiple-choice stand-in for downstream tasks: scored as it says."""

import pytest
import torch

from lightning_modules.moe.callbacks.zero_shot import score_choices
from tests.moe.toy import fit


def test_a_choice_is_scored_by_its_mean_log_probability_after_the_prompt():
    _, module, _ = fit(steps=2)
    module.eval()
    draw = torch.Generator().manual_seed(0)
    prompts = torch.randint(0, 64, (3, 4), generator=draw)
    choices = torch.randint(0, 64, (3, 2, 5), generator=draw)
    with torch.no_grad():
        found = score_choices(module=module, prompt_NP=prompts, choices_NCW=choices)
        for item in range(3):
            for choice in range(2):
                # Token by token, each from the logits of all that stands before it.
                text = torch.cat([prompts[item], choices[item, choice]])
                logp = [float(module(text[None, :end])[0, -1].log_softmax(-1)[text[end]]) for end in range(4, 9)]
                assert float(found[item, choice]) == pytest.approx(sum(logp) / 5, abs=1e-5)

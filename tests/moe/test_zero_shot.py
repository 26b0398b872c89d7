"""The multiple-choice stand-in for downstream tasks: scored as it says."""

from types import SimpleNamespace

import pytest
import torch

from lightning_modules.moe.callbacks.zero_shot import ZeroShotChoice, score_choices
from tests.moe.toy import fit


def measured(prompts, choices, answer, domain):
    """What is logged of these items, of a model to which every choice is alike."""

    class Alike:
        device = torch.device("cpu")

        def __call__(self, text_BS):
            return torch.zeros(*text_BS.shape, 8)

        def log_dict(self, values, **_):
            logged.update(values)

    logged: dict[str, float] = {}
    items = {"prompt_ids": prompts, "choices_ids": choices, "answer": answer, "domain": domain}
    data = SimpleNamespace(domains=["a", "b"], choice_items=lambda **_: items)
    ZeroShotChoice().on_test_epoch_end(SimpleNamespace(datamodule=data), Alike())
    return logged


def test_a_domain_without_a_choice_has_no_accuracy():
    words = torch.zeros(2, 7, dtype=torch.long)
    some = measured(words[:, :4], words[:, None, 4:].expand(-1, 3, -1), torch.tensor([0, 1]), torch.tensor([1, 1]))
    assert some == {"test/choice_accuracy": 0.5, "test/choice_accuracy_b": 0.5}
    none = torch.empty(0, dtype=torch.long)
    assert measured(words[:0, :4], words[:0, None].expand(-1, 3, -1), none, none) == {}


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


def test_a_choice_of_documents_apart_is_what_each_document_says_alone():
    end = 63
    _, module, _ = fit(steps=2)
    module.eval()
    draw = torch.Generator().manual_seed(0)
    prompts, choices = torch.randint(0, 63, (2, 4), generator=draw), torch.randint(0, 63, (2, 2, 5), generator=draw)
    prompts[1, 1], choices[0, 1, 2], choices[1, 0, 4] = end, end, end
    with torch.no_grad():
        found = score_choices(module=module, prompt_NP=prompts, choices_NCW=choices, end=end)
        for item in range(2):
            for choice in range(2):
                logp, document = [], []
                for place, token in enumerate(torch.cat([prompts[item], choices[item, choice]]).tolist()):
                    if document and place >= 4:
                        logp.append(float(module(torch.tensor([document]))[0, -1].log_softmax(-1)[token]))
                    document = [] if token == end else [*document, token]
                assert float(found[item, choice]) == pytest.approx(sum(logp) / len(logp), abs=1e-5)

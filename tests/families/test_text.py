"""A sample of the language models of each mapping: `make families` walks them all."""

import pytest

from tests.families.text import verdict

# Known and new names of blocks, a gate in the up-projection's matrix (Phi-3), four blocks a layer (MobileBERT), positions
# counted by what is no padding (M2M100), layers that share a block (ALBERT), no block (Mamba); a decoder in a wrapper
# (BART's), a body that is asked otherwise (Perceiver).
RIGHT = {
    **{"BertForMaskedLM": "right", "ModernBertForMaskedLM": "right", "MobileBertForMaskedLM": "right"},
    **{"XLMWithLMHeadModel": "right", "AlbertForMaskedLM": "refused", "PhiForCausalLM": "right"},
    **{"Phi3ForCausalLM": "right", "GPTJForCausalLM": "right", "MambaForCausalLM": "refused"},
    **{"Cohere2ForCausalLM": "right", "T5ForConditionalGeneration": "right"},
    **{"BartForCausalLM": "right", "PerceiverForMaskedLM": "refused"},
    **{"M2M100ForConditionalGeneration": "right", "BartForConditionalGeneration": "right"},
}
# By their own numbers of a token in every layer, by positions first, by embeddings that are no table.
REFUSED = {
    "Gemma4ForCausalLM": "differs from its own forward by",
    "XLNetLMHeadModel": "cannot be asked with a prompt",
    "IBertForMaskedLM": "cannot be asked with a prompt",
    "MraForMaskedLM": "gradient of a prompt is zero or no number",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RIGHT)
def test_a_family_is_computed_as_it_computes_itself_and_so_are_its_neurons(name):
    row = verdict(name)
    assert row["verdict"] == "right", row
    assert row["neurons"].startswith(RIGHT[name]), row


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.slow
def test_a_family_that_would_be_computed_otherwise_is_refused(name):
    row = verdict(name)
    assert row["verdict"] == "refused" and REFUSED[name] in row["why"], row

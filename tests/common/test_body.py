"""The body of a model is what hands hidden states to its head, whatever the family calls it."""

import pytest
import torch
import transformers as tf

from lightning_modules.common.body import body_of
from tests.families.walk import tiny_config

BODIES = {
    "BertForMaskedLM": "BertModel",
    "LlamaForCausalLM": "LlamaModel",
    # Its class says that its body is called otherwise than it is.
    "Llama4ForCausalLM": "Llama4TextModel",
    # Encoder, decoder and head stand side by side.
    "T5ForConditionalGeneration": "T5ForConditionalGeneration",
    "BartForConditionalGeneration": "BartModel",
    # Without a head.
    "BertModel": "BertModel",
    "T5EncoderModel": "T5EncoderModel",
}


@pytest.mark.parametrize("name", BODIES)
def test_the_body(name):
    kind = getattr(tf, name)
    with torch.device("meta"):
        model = kind(tiny_config(kind.config_class, {}))
    assert type(body_of(model)).__name__ == BODIES[name]

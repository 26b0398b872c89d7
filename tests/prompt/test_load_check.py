"""What transformers loads is computed as transformers computes it, or refused by name."""

import pytest
import torch

from lightning_modules.common.made import manifest
from lightning_modules.prompt.backbone import Backbone
from lightning_modules.prompt.load_check import LIMIT, check
from tests.prompt import tiny

BERT = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, initializer_range=0.3)
LLAMA = BERT | dict(num_key_value_heads=1, head_dim=8)
BART = dict(d_model=16, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2)
BART |= dict(encoder_ffn_dim=24, decoder_ffn_dim=24, init_std=0.3, decoder_start_token_id=2)
T5 = dict(d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, decoder_start_token_id=1)
# Their heads do more than a product with the output embedding, or their embeddings more than a look-up.
HEADS = {
    "ElectraForMaskedLM": BERT | dict(embedding_size=8),
    "AlbertForMaskedLM": BERT | dict(embedding_size=8),
    "ModernBertForMaskedLM": BERT,
    "CohereForCausalLM": LLAMA | dict(logit_scale=0.1),
    "GraniteForCausalLM": LLAMA | dict(logits_scaling=4.0, embedding_multiplier=3.0),
    "Gemma2ForCausalLM": LLAMA | dict(final_logit_softcapping=2.0),
    "BartForConditionalGeneration": BART,
    "UMT5ForConditionalGeneration": T5,
}


def backbone(name):
    import transformers

    kind = getattr(transformers, name)
    common = dict(vocab_size=len(tiny.WORDS), pad_token_id=1, bos_token_id=0, eos_token_id=2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind(kind.config_class(**common, max_position_embeddings=tiny.POSITIONS, **HEADS[name]))
        if hasattr(model, "final_logits_bias"):
            model.final_logits_bias.normal_()
    return Backbone(model, tiny.tokenizer())


@pytest.mark.parametrize("name", HEADS)
def test_a_head_of_its_own_kind_is_the_models_own(name):
    assert check(backbone(name), name) <= LIMIT


def test_what_would_be_computed_otherwise_is_refused_and_what_is_right_is_checked_once(tmp_path, monkeypatch):
    name, cache = tiny.save("roberta", tmp_path / "roberta"), tmp_path / "cache"
    spec = tiny.HubBackbone(name=name, cache=str(cache))
    wrong = tiny.HubBackbone(name=name).load()
    wrong._filler = wrong.tokenizer.pad_token_id
    with pytest.raises(ValueError, match=r"RobertaForMaskedLM \(roberta\) .* differs from its own forward by"):
        check(wrong, name)
    del wrong._filler
    with pytest.raises(ValueError, match=r"RobertaForMaskedLM \(roberta\) cannot be asked"):
        check(wrong, name)
    spec.load()
    (kept,) = [place for place in (cache / "checked").iterdir() if place.is_dir()]
    assert manifest(kept)["difference"] <= LIMIT
    monkeypatch.setattr("lightning_modules.prompt.backbones.check", lambda *_: 1 / 0)
    spec.load()
    with pytest.raises(ZeroDivisionError):
        tiny.HubBackbone(name=name).load()


def test_a_full_memory_is_no_verdict_on_a_family(tmp_path, monkeypatch):
    name = tiny.save("roberta", tmp_path / "roberta")
    found = tiny.HubBackbone(name=name).load()
    monkeypatch.setattr("lightning_modules.prompt.load_check.difference", lambda _: (_ for _ in ()).throw(MemoryError))
    with pytest.raises(MemoryError):
        check(found, name)

"""A mixture of somebody else's, in a folder or on the hub, with its own words."""

import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM

from datamodules.corpus import CorpusDataModule, SyntheticSource
from lightning_modules.moe.head import Head
from lightning_modules.moe.module import MoELM
from lightning_modules.moe.pretrained import positions, pretrained_moe
from tests import hub
from tests.families.moe import built, families
from tests.moe.toy import fit

WORDS = 304


def words():
    """A byte-level BPE of 304 words, as a model brings it."""
    from datamodules.corpus.words import trained_on

    texts = (text for texts in SyntheticSource(documents=40, seed=9).documents().values() for text in texts)
    return trained_on(texts, vocab_size=WORDS)


@pytest.fixture(scope="module")
def olmoe(tmp_path_factory):
    """A tiny random OLMoE of 320 rows, 304 of them words, as save_pretrained leaves it."""
    from transformers import OlmoeConfig, OlmoeForCausalLM

    folder = tmp_path_factory.mktemp("olmoe")
    torch.manual_seed(0)
    sizes = dict(
        hidden_size=32, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2
    )
    tokenizer = words()
    ids = dict(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, bos_token_id=None)
    config = OlmoeConfig(
        vocab_size=320, num_experts=8, num_experts_per_tok=2, max_position_embeddings=64, **sizes, **ids
    )
    OlmoeForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def corpus(folder, **changes):
    settings = dict(vocab_size=400, seq_len=16, micro_batch=2, global_batch=8, eval_windows=4, eval_batch=4)
    data = CorpusDataModule(source=SyntheticSource(documents=60), cache_dir=str(folder), **settings | changes)
    data.prepare_data()
    return data


def test_a_model_is_fed_its_own_words(olmoe, tmp_path):
    data = corpus(tmp_path, tokenizer=str(olmoe))
    assert data.manifest["vocab_size"] == WORDS == len(data.tokenizer)
    assert int(data.training.__getitems__([0])["input_ids"].max()) < WORDS
    text = next(data.source.documents()["vowels"])
    window = [data.training.window(i)[0].tolist() for i in range(200)]
    ids = [i for w in window for i in w[:-1]]
    start = words()(text)["input_ids"][:12]
    assert any(ids[i : i + 12] == start for i in range(len(ids))), "a document stands there in the model's ids"
    own = corpus(tmp_path)
    assert own.folder != data.folder, "the cache's key holds the tokenizer"
    assert own.folder == CorpusDataModule(source=own.source, cache_dir=str(tmp_path), vocab_size=400).folder
    model = pretrained_moe(pretrained=str(olmoe), tokenizer=str(olmoe))
    curve = fit(steps=3, model=model, data=data)[0]
    assert curve.loss[-1] < curve.loss[0]


def test_windows_beyond_its_positions_are_refused_before_weights_are_read(olmoe):
    with pytest.raises(ValueError, match=r"data.seq_len is 65 tokens; expected at most 64, .*model.pretrained=.*olmoe"):
        pretrained_moe(pretrained=str(olmoe), seq_len=65)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 64),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}}, 256),
        (
            {
                "rope_parameters": {
                    "rope_type": "yarn",
                    "rope_theta": 1e4,
                    "factor": 4.0,
                    "original_max_position_embeddings": 16,
                }
            },
            64,
        ),
    ],
)
def test_positions_count_what_a_factor_stretches(settings, expected):
    from transformers import OlmoeConfig

    assert positions(OlmoeConfig(max_position_embeddings=64, **settings)) == expected


def test_a_tokenizer_of_more_words_is_refused_by_name(olmoe, tmp_path):
    corpus(tmp_path).tokenizer.save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match=r"data.tokenizer=.*other has 400 words but model.pretrained=.* has 320"):
        pretrained_moe(pretrained=str(olmoe), tokenizer=str(tmp_path / "other"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"data.tokenizer=.*empty: not loaded .*data.tokenizer=OTHER"):
        corpus(tmp_path, tokenizer=str(tmp_path / "empty"))
    endless = words()
    endless.eos_token = None
    endless.save_pretrained(tmp_path / "endless")
    with pytest.raises(ValueError, match="has no end-of-text token"):
        corpus(tmp_path, tokenizer=str(tmp_path / "endless"))


def test_a_hub_name_and_its_revision_are_found_in_the_local_cache(olmoe, tmp_path, monkeypatch):
    place = hub.snapshot(monkeypatch, tmp_path, "somebody/olmoe-tiny", revision="v2", commit="a" * 40)
    shutil.copytree(olmoe, place)
    named = dict(pretrained="somebody/olmoe-tiny", revision="v2")
    model = pretrained_moe(**named, tokenizer="somebody/olmoe-tiny", dtype="bfloat16", attention="eager")
    assert model.dtype == torch.bfloat16
    assert model.config._attn_implementation == "eager"
    data = corpus(tmp_path, tokenizer="somebody/olmoe-tiny", tokenizer_revision="v2")
    assert data.manifest["vocab_size"] == WORDS
    with pytest.raises(ValueError, match=r"model.pretrained=somebody/olmoe-tiny: not loaded .* or a hub name with"):
        pretrained_moe(pretrained="somebody/olmoe-tiny", revision="v3")


@pytest.mark.slow
def test_what_is_no_mixture_or_not_read_is_refused_in_true_words(tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "llama")
    with pytest.raises(ValueError, match="LlamaForCausalLM has no router beside experts: it is no mixture of experts"):
        pretrained_moe(pretrained=str(tmp_path / "llama"))
    built(*families()["jetmoe"]).save_pretrained(tmp_path / "jetmoe")
    with pytest.raises(ValueError, match="JetMoeForCausalLM: its JetMoeTopKGating hands out neither the numbers"):
        pretrained_moe(pretrained=str(tmp_path / "jetmoe"))
    headless = built(*families()["mixtral"])
    headless.model.save_pretrained(tmp_path / "headless")
    with pytest.raises(ValueError, match="holds MixtralModel, without 1 of the weights .*lm_head.weight.* at random"):
        pretrained_moe(pretrained=str(tmp_path / "headless"))


def test_a_way_that_differs_is_refused_with_the_difference(olmoe, monkeypatch):
    monkeypatch.setattr(Head, "scale", 5.0)
    with pytest.raises(
        ValueError, match=r"Facet's loss of OlmoeForCausalLM differs from the model's own by 0\.\d+ of it"
    ):
        pretrained_moe(pretrained=str(olmoe))


def test_layers_of_different_width_are_refused(olmoe):
    model = pretrained_moe(pretrained=str(olmoe))
    model.model.layers[1].mlp.gate.top_k = 3
    module = MoELM(model=model)
    module.hidden({"input_ids": torch.zeros(1, 4, dtype=torch.int64)})
    with pytest.raises(ValueError, match="its layers choose 2 of 8, 3 of 8 experts; expected the same in every layer"):
        module.tap.read()


def test_padding_counts_neither_as_target_nor_as_context():
    """With an attention mask alone the loss is that of the text without its padding."""
    module = MoELM(model=built(*families()["olmoe"]), micro_batch=1)
    text = torch.randint(3, 64, (1, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1, 1, 1, 1, 1, 0, 0, 0]])
    padded = {"input_ids": text[:, :-1], "targets": text[:, 1:], "attention_mask": mask}
    short = {"input_ids": text[:, :5], "targets": text[:, 1:6]}
    whole, part = module.evaluate(padded), module.evaluate(short)
    # The target of position 4 is padding; without it four targets are left.
    assert whole["tokens_B"].tolist() == [4] and part["tokens_B"].tolist() == [5]
    four = module.evaluate({**short, "target_mask": torch.tensor([[1, 1, 1, 1, 0]])})
    torch.testing.assert_close(whole["nll_B"], four["nll_B"])


def test_a_family_without_the_asked_attention_names_the_key(tmp_path):
    built(*families()["gpt_oss"]).save_pretrained(tmp_path / "gpt_oss")
    with pytest.raises(
        ValueError, match="model.attention=sdpa is not to be had: GptOssForCausalLM does not .*=eager is there"
    ):
        pretrained_moe(pretrained=str(tmp_path / "gpt_oss"))
    with pytest.raises(ValueError, match="model.attention=sdpaa is not to be had"):
        pretrained_moe(pretrained=str(tmp_path / "gpt_oss"), attention="sdpaa")
    assert (
        pretrained_moe(pretrained=str(tmp_path / "gpt_oss"), attention="eager").config._attn_implementation == "eager"
    )


def test_a_window_is_not_given_up_for_attention_without_a_mask(tmp_path):
    """Both losses that are compared at load would be without it."""
    config = built(*families()["mixtral"]).config
    config.sliding_window = 4
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "mixtral")
    with pytest.raises(ValueError, match="model.attention=causal_sdpa: .* window of 4 tokens.*model.attention=sdpa"):
        pretrained_moe(pretrained=str(tmp_path / "mixtral"), attention="causal_sdpa")
    assert pretrained_moe(pretrained=str(tmp_path / "mixtral")).config.sliding_window == 4


def test_full_attention_needs_no_mask(olmoe):
    ids = torch.randint(WORDS, (2, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        masked, bare = (
            pretrained_moe(pretrained=str(olmoe), attention=way).eval()(input_ids=ids).logits
            for way in ("sdpa", "causal_sdpa")
        )
    torch.testing.assert_close(masked, bare)

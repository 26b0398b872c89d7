"""Prompts and LoRA go to PEFT and come from it with equal scores; where PEFT has no place for a prompt, a line says so."""

import copy

import pytest
import torch

from lightning_modules.prompt.backbone import Backbone
from lightning_modules.prompt.backbones import HubBackbone
from lightning_modules.prompt.module import PromptTuning
from lightning_modules.prompt.prompt_file import PromptFile
from lightning_modules.prompt.tuners import LoRA, SoftPrompt
from tests.prompt import tiny

KINDS = {"gpt2": "AutoModelForCausalLM", "llama": "AutoModelForCausalLM", "t5_gated": "AutoModelForSeq2SeqLM"}
KINDS_OF_LORA = {**KINDS, "bert": "AutoModelForMaskedLM"}
KINDS_OF_PROMPTS = {**KINDS, "mamba": "AutoModelForCausalLM"}


def tuned(family, folder, tuner, **settings):
    """A module whose tuner has random weights, its data, and what it exported."""
    spec = HubBackbone(name=tiny.save(family, folder / "model"))
    module, data = PromptTuning(backbone=spec, tuner=tuner).eval(), tiny.data(spec, **settings)
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in module.trained().values():
            weight.copy_(torch.randn(weight.shape, generator=draw) * 0.3)
    module.export(folder / "export", datamodule=data)
    return module, data


def adapted(kind, folder):
    import transformers
    from peft import PeftModel

    plain = getattr(transformers, kind).from_pretrained(folder / "model")
    return PeftModel.from_pretrained(plain, str(folder / "export" / "peft")).eval()


@torch.no_grad()
def theirs(model, batch, *, length):
    """Class scores as PEFT gives them, each example by itself: its text is the row without the places of the prompt."""
    found = []
    for ids, mask, ask in zip(batch["input_ids"], batch["attention_mask"], batch["ask"], strict=True):
        text = ids[: int(mask.sum())][length:][None]
        if model.config.is_encoder_decoder:
            start = torch.full((1, 1), model.config.decoder_start_token_id)
            found.append(
                model(input_ids=text, attention_mask=torch.ones_like(text), decoder_input_ids=start).logits[0, 0]
            )
        else:
            found.append(model(input_ids=text, attention_mask=torch.ones_like(text)).logits[0, int(ask)])
    return torch.stack(found)[:, batch["label_ids"]]


@pytest.mark.parametrize(
    ("family", "template"),
    [*((family, None) for family in KINDS_OF_PROMPTS), ("llama", "{prompt}{bos}{text}{mask}")],
)
def test_a_prompt_of_ours_scores_the_same_in_peft(family, template, tmp_path):
    module, data = tuned(family, tmp_path, SoftPrompt(length=3), template=template)
    (batch,) = tiny.batches(data, "test", 8)
    with torch.no_grad():
        ours = module(batch)
    found = theirs(adapted(KINDS_OF_PROMPTS[family], tmp_path), batch, length=3)
    torch.testing.assert_close(found, ours, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", KINDS_OF_LORA)
def test_lora_of_ours_scores_the_same_in_peft(family, tmp_path):
    module, data = tuned(family, tmp_path, LoRA(rank=2), prompt_length=0)
    (batch,) = tiny.batches(data, "test", 8)
    with torch.no_grad():
        ours = module(batch)
    torch.testing.assert_close(
        theirs(adapted(KINDS_OF_LORA[family], tmp_path), batch, length=0), ours, rtol=1e-4, atol=1e-5
    )


@torch.no_grad()
def test_lora_of_experts_scores_the_same_in_peft(tmp_path):
    """PEFT takes experts, which are parameters, by names of its own, where shared experts have linear layers."""
    import transformers
    from peft import PeftModel

    shape = dict(hidden_size=16, intermediate_size=24, moe_intermediate_size=8, num_hidden_layers=2)
    heads = dict(num_attention_heads=2, num_key_value_heads=2, q_lora_rank=8, kv_lora_rank=8, v_head_dim=8)
    experts = dict(n_routed_experts=4, num_experts_per_tok=2, n_group=1, topk_group=1, first_k_dense_replace=1)
    rope = dict(qk_rope_head_dim=4, qk_nope_head_dim=4, vocab_size=len(tiny.WORDS), initializer_range=0.3)
    config = transformers.DeepseekV3Config(**shape, **heads, **experts, **rope, pad_token_id=1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain = transformers.DeepseekV3ForCausalLM(config).eval()
    ids, draw = torch.tensor([[5, 6, 7, 8]]), torch.Generator().manual_seed(2)
    backbone, tuner = Backbone(copy.deepcopy(plain), tiny.tokenizer()), LoRA(rank=2)
    tuner.attach(backbone)
    for weight in tuner.trained(backbone).values():
        weight.copy_(torch.randn(weight.shape, generator=draw) * 0.3)
    ours = backbone.model(input_ids=ids).logits
    tuner.save_for_peft(tmp_path, backbone)
    assert any(".mlp.experts." in name for name in tuner.trained(backbone))
    found = PeftModel.from_pretrained(plain, str(tmp_path)).eval()(input_ids=ids).logits
    torch.testing.assert_close(found, ours, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_no_folder_is_left_that_peft_would_read_otherwise(tmp_path):
    """Of Laguna PEFT turns `shared_experts.` into `shared_experts..` when it reads, and leaves these weights at zero."""
    import transformers

    shape = dict(hidden_size=16, intermediate_size=24, moe_intermediate_size=8, shared_expert_intermediate_size=8)
    heads = dict(num_attention_heads=2, num_attention_heads_per_layer=[2, 2], num_key_value_heads=2, head_dim=8)
    layers = dict(num_hidden_layers=2, layer_types=["full_attention"] * 2, mlp_layer_types=["dense", "sparse"])
    config = transformers.LagunaConfig(
        **shape, **heads, **layers, num_experts=4, num_experts_per_tok=2, vocab_size=len(tiny.WORDS), pad_token_id=1
    )
    backbone, tuner = Backbone(transformers.LagunaForCausalLM(config), tiny.tokenizer()), LoRA(rank=2)
    tuner.attach(backbone)
    why = tuner.save_for_peft(tmp_path / "peft", backbone)
    assert "of LagunaForCausalLM it would leave out" in why
    assert "shared_experts" in why
    assert not (tmp_path / "peft").exists()


@pytest.mark.parametrize(
    ("family", "template", "why"),
    [
        ("bert", None, "PEFT puts prompts before causal and encoder-decoder language models, not before a masked one"),
        ("gpt2", "it is {prompt}{text}{mask}", "PEFT's prompt stands first, and in data.template it does not"),
    ],
)
def test_a_template_that_peft_lacks_is_said(family, template, why, tmp_path, capsys):
    tuned(family, tmp_path, SoftPrompt(length=3), template=template)
    assert f"No prompt for PEFT: {why}." in capsys.readouterr().err.replace("\n", " ")
    assert [p.name for p in (tmp_path / "export").iterdir()] == ["prompt.safetensors"]


@pytest.mark.parametrize(("family", "kind"), [("gpt2", "CAUSAL_LM"), ("t5_gated", "SEQ_2_SEQ_LM")])
def test_a_prompt_that_peft_saved_is_a_start(family, kind, tmp_path):
    from peft import PromptTuningConfig, get_peft_model

    model = get_peft_model(tiny.network(family), PromptTuningConfig(task_type=kind, num_virtual_tokens=3))
    saved = model.prompt_encoder["default"].embedding.weight.detach()[:3]
    model.save_pretrained(str(tmp_path / "theirs"))
    spec = HubBackbone(name=tiny.save(family, tmp_path / "model"))
    module = PromptTuning(backbone=spec, tuner=SoftPrompt(length=3, file=str(tmp_path / "theirs")))
    assert torch.equal(module.tuner.prompt().detach(), saved)


def test_what_is_no_prompt_of_this_model(tmp_path):
    from peft import LoraConfig, get_peft_model

    spec = HubBackbone(name=tiny.save("gpt2", tmp_path / "model"))
    get_peft_model(tiny.network("gpt2"), LoraConfig(task_type="CAUSAL_LM")).save_pretrained(str(tmp_path / "lora"))
    with pytest.raises(ValueError, match="adapter_config.json: peft_type is 'LORA'; expected 'PROMPT_TUNING'"):
        PromptFile.load(tmp_path / "lora")
    torch.save(torch.ones(3, tiny.WIDTH + 1), tmp_path / "wide.pt")
    with pytest.raises(ValueError, match=r"wide.pt: a prompt of width 17; this backbone's is 16"):
        PromptTuning(backbone=spec, tuner=SoftPrompt(length=3, file=str(tmp_path / "wide.pt")))
    torch.save({"soft": torch.ones(3, tiny.WIDTH)}, tmp_path / "bare.pt")
    module = PromptTuning(backbone=spec, tuner=SoftPrompt(length=3, file=str(tmp_path / "bare.pt")))
    assert torch.equal(module.tuner.prompt().detach(), torch.ones(3, tiny.WIDTH))

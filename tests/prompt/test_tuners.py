"""Every tuner on every family: it trains, it alone trains, and a frozen backbone stays what it was."""

import pytest
import torch
from safetensors.torch import load_file

from lightning_modules.prompt.backbone import Backbone
from lightning_modules.prompt.module import PromptTuning
from lightning_modules.prompt.tuners import Adapter, BitFit, LoRA, SoftPrompt
from lightning_modules.training.inner import inner_trainer
from tests.prompt import tiny
from tests.ranks import run_ranks

NO_BIAS = ("llama", "t5", "t5_gated")


@pytest.fixture(scope="module", params=tiny.FAMILIES)
def spec(request, tmp_path_factory):
    found = tiny.HubBackbone(name=tiny.save(request.param, tmp_path_factory.mktemp(request.param)))
    found.family = request.param
    return found


@pytest.mark.slow
def test_a_soft_prompt_is_all_that_trains(spec, tmp_path):
    module = PromptTuning(backbone=spec, tuner=SoftPrompt(length=3), lr=0.05)
    data = tiny.data(spec)
    start, before = module.tuner.weight.detach().clone(), module.backbone.fingerprint()
    fit = tiny.trainer(3)
    fit.fit(module, data)
    (group,) = fit.optimizers[0].param_groups
    assert len(group["params"]) == 1 and group["params"][0] is module.tuner.weight
    assert module.tuner.weight.shape == (3, tiny.WIDTH)
    assert not torch.equal(module.tuner.weight, start)
    assert module.backbone.fingerprint() == before == spec.load().fingerprint()
    assert all(p.grad is None for p in module.backbone.parameters())
    assert set(module.state_dict()) == {"tuner.weight"}
    module.export(tmp_path, datamodule=data)
    assert torch.equal(load_file(tmp_path / "prompt.safetensors")["prompt"], module.tuner.weight)
    assert (tmp_path / "prompt.safetensors").stat().st_size < 2000
    again = SoftPrompt(length=3, init="file", file=str(tmp_path))
    again.attach(spec.load())
    assert torch.equal(again.weight, module.tuner.weight)


def test_a_changed_backbone_fails_the_run(spec):
    module = PromptTuning(backbone=spec, tuner=SoftPrompt(length=3))
    module.check_frozen()
    with torch.no_grad():
        next(iter(module.backbone.parameters())).view(-1)[0] += 1e-3
    with pytest.raises(AssertionError, match="the frozen backbone changed"):
        module.check_frozen()


@pytest.mark.slow
@pytest.mark.parametrize("name", tiny.TUNERS)
def test_a_tuner_trains_and_leaves_the_rest_alone(spec, name, tmp_path):
    if name == "bitfit" and spec.family in NO_BIAS:
        with pytest.raises(ValueError, match="tuner=bitfit: .* has no bias to train; the nearest is lora"):
            PromptTuning(backbone=spec, tuner=BitFit())
        return
    module = PromptTuning(backbone=spec, tuner=tiny.TUNERS[name](), lr=0.02)
    data = tiny.data(spec, prompt_length=0)
    (batch,) = tiny.batches(data, "train", 64)
    trained, before = module.trained(), module.backbone.fingerprint()
    if name != "full":
        # All additions are zero at the start.
        assert torch.allclose(module(batch), spec.load().scores(batch), atol=1e-6)
    frozen = {n: p.detach().clone() for n, p in module.named_parameters() if all(p is not t for t in trained.values())}
    optimizer = torch.optim.AdamW(trained.values(), lr=0.003 if name == "full" else 0.01)
    losses = []
    for _ in range(25):
        losses.append(torch.nn.functional.cross_entropy(module(batch), batch["labels"]))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert min(losses) < 0.8 * losses[0]
    after = dict(module.named_parameters())
    assert all(torch.equal(after[n], p) for n, p in frozen.items())
    assert (module.backbone.fingerprint() == before) == (name != "full")
    assert module.count_parameters()["trained"] == sum(p.numel() for p in trained.values())
    # What a checkpoint holds is enough to go on from.
    fresh = PromptTuning(backbone=spec, tuner=tiny.TUNERS[name]())
    fresh.load_state_dict(module.state_dict())
    assert torch.allclose(fresh(batch), module(batch), atol=1e-6)
    module.export(tmp_path, datamodule=data)
    assert set(load_file(tmp_path / "adapter.safetensors")) == set(trained)


@pytest.mark.slow
def test_an_adapter_sees_every_layer_and_lora_no_head(spec):
    module = PromptTuning(backbone=spec, tuner=Adapter(rank=4))
    assert len(module.trained()) == 4 * tiny.LAYERS
    module = PromptTuning(backbone=spec, tuner=LoRA(rank=2))
    assert not any("lm_head" in n or "vocab_" in n or ".cls." in n for n in module.trained())
    assert len(module.backbone.sites()) == tiny.LAYERS


def half(family, folder, dtype):
    tiny.network(family).to(dtype).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return str(folder)


def test_a_checkpoint_in_half_precision_is_loaded_in_the_one_asked_for(tmp_path):
    """float32 unless the config says otherwise, and what is kept of either is not the other's."""
    plain = tiny.HubBackbone(name=tiny.save("bert", tmp_path / "plain"))
    saved = half("bert", tmp_path / "half", torch.bfloat16)
    whole, low = (tiny.HubBackbone(name=saved, dtype=dtype) for dtype in ("float32", "bfloat16"))
    for spec, dtype in ((whole, torch.float32), (low, torch.bfloat16)):
        assert spec.load().model.dtype == dtype
        untrained = tiny.HubBackbone(name=saved, dtype=spec.dtype, random_init=True)
        assert untrained.load().model.dtype == dtype
    assert whole.key() != low.key()
    # A checkpoint that is loaded as it is has the key that it always had.
    assert "dtype" not in plain.key() and "dtype" not in low.key()
    with pytest.raises(ValueError, match="backbone.dtype is 'float8'; expected one of float32, bfloat16, float16"):
        tiny.HubBackbone(name=saved, dtype="float8")


@pytest.mark.parametrize("name", ["soft", *tiny.TUNERS])
def test_tuners_train_in_float32_on_a_model_in_half_precision(name, tmp_path):
    spec = tiny.HubBackbone(name=half("gpt2", tmp_path, torch.float16), dtype="float16")
    tuner = SoftPrompt(length=3) if name == "soft" else tiny.TUNERS[name]()
    module = PromptTuning(backbone=spec, tuner=tuner, lr=1e-5)
    before = {n: p.detach().clone() for n, p in module.trained().items()}
    inner_trainer(max_steps=2).fit(module, datamodule=tiny.data(spec))
    after = module.trained()
    assert {p.dtype for p in after.values()} == {torch.float32}
    assert all(p.isfinite().all() for p in after.values())
    assert any(not torch.equal(p, before[n]) for n, p in after.items())


def of_config(kind, config):
    import transformers

    sizes = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24)
    common = dict(vocab_size=len(tiny.WORDS), pad_token_id=1, bos_token_id=0, eos_token_id=2)
    model = getattr(transformers, kind)(
        getattr(transformers, f"{config.pop('name')}Config")(**common, **sizes | config)
    )
    return Backbone(model, tiny.tokenizer())


def test_bitfit_takes_biases_that_are_weights():
    """A causal mask has the name of one in GPT-Neo."""
    layers = dict(name="GPTNeo", num_layers=2, num_heads=2, attention_types=[[["global", "local"], 1]])
    backbone, tuner = of_config("GPTNeoForCausalLM", layers), BitFit()
    masks = [n for n, m in backbone.model.named_modules() if "bias" in dict(m.named_buffers(recurse=False))]
    assert masks
    tuner.attach(backbone)
    biases = sum(n.endswith("bias") for n, _ in backbone.model.base_model.named_parameters())
    assert len(tuner.additions) == biases > 0
    backbone.model(input_ids=torch.tensor([[5, 6]])).logits.sum().backward()
    assert all(p.grad is not None for p in tuner.parameters())


def test_bitfit_refuses_biases_of_other_modules_by_name():
    backbone = of_config("ConvBertForMaskedLM", dict(name="ConvBert", embedding_size=32))
    with pytest.raises(
        ValueError, match="tuner=bitfit: ConvBertForMaskedLM has the bias of a .* at .*; expected those"
    ):
        BitFit().attach(backbone)


def test_lora_leaves_a_router_alone():
    """One that is a linear layer answers with what it chose, to which nothing can be added."""
    experts = dict(name="Phimoe", num_local_experts=4, num_experts_per_tok=2, num_key_value_heads=2)
    backbone, tuner = of_config("PhimoeForCausalLM", experts), LoRA(rank=2)
    tuner.attach(backbone)
    assert tuner.trained(backbone) and not any("router" in name for name in tuner.trained(backbone))
    assert backbone.model(input_ids=torch.tensor([[5, 6]])).logits.isfinite().all()


def test_lora_refuses_what_peft_refuses():
    with pytest.raises(ValueError, match="tuner=lora: PEFT does not take MambaForCausalLM .*tuner=soft_prompt"):
        LoRA().attach(Backbone(tiny.network("mamba"), tiny.tokenizer()))


def test_a_tuner_on_which_no_answer_depends_is_refused(tmp_path):
    """SqueezeBERT's layers are convolutions: of linear layers it has its pooler alone."""
    of_config("SqueezeBertForMaskedLM", dict(name="SqueezeBert", embedding_size=32)).model.save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    spec = tiny.HubBackbone(name=str(tmp_path))
    module = PromptTuning(backbone=spec, tuner=LoRA())
    with pytest.raises(ValueError, match="the answer of SqueezeBertForMaskedLM depends on nothing that LoRA trains"):
        inner_trainer(max_steps=1).fit(module, datamodule=tiny.data(spec, prompt_length=0))


def tuned_on_a_rank(rank, ranks, folder, name):
    """What tuning of a bare encoder changes, its weights and an adapter's start drawn alike on every rank."""
    spec = tiny.HubBackbone(name=folder, head="none")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = PromptTuning(backbone=spec, tuner=tiny.TUNERS[name](), lr=0.01)
    more = dict(devices=ranks, strategy="ddp") if ranks > 1 else {}
    tiny.trainer(3, **more).fit(module, datamodule=tiny.data(spec, prompt_length=0))
    return {n: p.detach().clone() for n, p in module.trained().items()}


@pytest.mark.parametrize("name", ["lora", "bitfit", "full"])
def test_two_processes_tune_an_encoder_whose_pooler_nobody_reads(name, tmp_path):
    folder = tiny.save("bert", tmp_path)
    expected = tuned_on_a_rank(0, 1, folder, name)
    for found in run_ranks(tuned_on_a_rank, 2, folder, name):
        for weight, value in expected.items():
            # What a key's bias adds is the same for all keys: its gradient is rounding, which Adam makes a step of.
            if "key" not in weight or "lora" in weight or weight.endswith("weight"):
                torch.testing.assert_close(found[weight], value, rtol=0, atol=1e-3, msg=weight)

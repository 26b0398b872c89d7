"""The four families: built from plain arguments, exported, loaded again."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from lightning_modules.moe import experts
from lightning_modules.moe.families import FAMILIES
from lightning_modules.moe.models import count_parameters
from lightning_modules.moe.module import MoELM
from lightning_modules.runtime.config import register_resolvers
from tests.moe.toy import experts_as_on_a_gpu, fit, tiny_model

PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {f"w{i}": i for i in range(63)} | {"<end>": 63}
    whole = Tokenizer(models.WordLevel(words, unk_token="<end>"))
    whole.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=whole, eos_token="<end>")


@pytest.mark.parametrize("family", FAMILIES)
def test_export_loads_with_bitwise_equal_logits(family, tokenizer, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    _, module, _ = fit(steps=3, model=tiny_model(family=family))
    module.export(tmp_path / "export", datamodule=SimpleNamespace(tokenizer=tokenizer))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "export").eval()
    ids = AutoTokenizer.from_pretrained(tmp_path / "export")("w1 w5 w9 w30 w2", return_tensors="pt")["input_ids"]
    assert ids.tolist() == [[1, 5, 9, 30, 2]]
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, module.eval()(ids))
    assert type(loaded) is type(module.model)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"family": "qwen3"}, "model.family is 'qwen3'; expected one of qwen3_moe, .* the nearest is qwen3_moe"),
        ({"top_k": 9}, "model.top_k is 9; expected 1 to model.experts, which is 8"),
        ({"top_k": 0}, "model.top_k is 0; expected 1 to"),
        ({"heads": 3}, "model.hidden_size is 32; expected a multiple of model.heads, which is 3"),
        ({"kv_heads": 3}, "model.heads is 2; expected a multiple of model.kv_heads, which is 3"),
    ],
)
def test_sizes_that_do_not_fit(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny_model(**changes)


def test_active_parameters_are_those_a_token_meets():
    model = tiny_model()
    expert = 3 * 32 * 16
    counts = count_parameters(model)
    assert counts["total"] - counts["active"] == 2 * (8 - 2) * expert


@pytest.mark.parametrize(
    ("size", "total", "active"),
    [
        ("tiny", (0, 1e6), (0, 1e6)),
        ("small", (5e6, 8e6), (1e6, 3e6)),
        ("base", (3.6e8, 4.4e8), (4e7, 1e8)),
        ("paper_3b", (3.3e9, 3.5e9), (5.7e8, 6.3e8)),
    ],
)
def test_the_sizes_of_conf_model(size, total, active):
    """Built on the meta device, so that the cluster shape needs no memory."""
    register_resolvers(project=PROJECT)
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        cfg = compose("config", overrides=[f"model={size}", "+model.device=meta"])
    model = instantiate(cfg.model)
    counts = count_parameters(model)
    assert total[0] <= counts["total"] <= total[1]
    assert active[0] <= counts["active"] <= active[1]
    assert MoELM(model=model).tap.routers, "the module finds its routers"


def of_experts(backend, family, dtype):
    """Output and gradients of a block of experts, one of which no token chose."""
    model = tiny_model(family=family, experts_implementation=backend).to(dtype)
    block = model.model.layers[0].mlp
    assert block.experts.config._experts_implementation == backend
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(24, 32, generator=generator, dtype=dtype, requires_grad=True)
    indices = torch.rand(24, 7, generator=generator).topk(3).indices
    weights = torch.rand(24, 3, generator=generator, dtype=dtype, requires_grad=True)
    out = block.experts(hidden, indices, weights)
    found = [out, *torch.autograd.grad(out.square().sum(), [hidden, weights, *block.experts.parameters()])]
    assert float(found[3][7].abs().max()) == 0
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_the_way_of_a_gpu_equals_the_eager_one(family, monkeypatch):
    experts_as_on_a_gpu(monkeypatch)
    expected = of_experts("eager", family, torch.float32)
    for eager, ours in zip(expected, of_experts("sorted", family, torch.float32), strict=True):
        torch.testing.assert_close(ours, eager, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_way_of_a_gpu_takes_its_products_in_autocasts_dtype(family, monkeypatch):
    """Else `bf16-mixed` is float32 in the experts, the most of a model, without a word."""
    experts_as_on_a_gpu(monkeypatch)
    expected = of_experts("eager", family, torch.float32)
    dtypes, product = [], torch.nn.functional.grouped_mm

    def seen(rows, weights, offs):
        dtypes.append((rows.dtype, weights.dtype))
        return product(rows, weights, offs=offs)

    monkeypatch.setattr(torch.nn.functional, "grouped_mm", seen)
    with torch.autocast("cpu", torch.bfloat16):
        found = of_experts("sorted", family, torch.float32)
    assert dtypes == [(torch.bfloat16, torch.bfloat16)] * 2
    for exact, ours in zip(expected, found, strict=True):
        assert ours.dtype == torch.float32
        assert float((ours - exact).norm() / exact.norm()) < 0.02


@pytest.mark.parametrize(
    ("width", "dtype", "takes"),
    [(416, torch.bfloat16, True), (12, torch.bfloat16, False), (12, torch.float32, True), (16, torch.float64, False)],
)
def test_what_the_grouped_product_takes(width, dtype, takes):
    assert experts.grouped_product_takes(torch.empty(2, 4, width, dtype=dtype)) is takes


@pytest.mark.parametrize("family", FAMILIES)
def test_the_sorted_backend_equals_the_eager_one(family):
    expected = of_experts("eager", family, torch.float64)
    for eager, ours in zip(expected, of_experts("sorted", family, torch.float64), strict=True):
        torch.testing.assert_close(ours, eager, rtol=0, atol=1e-12)

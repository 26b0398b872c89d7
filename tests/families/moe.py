"""Every mixture of experts among transformers' causal language models, tiny and random, against its own plain forward.

`python -m tests.families.moe` walks them all and, with FACET_RESULTS=1, writes docs/results/families.json. What Facet finds
is compared with what it did not look at: the plain forward's loss and gradient, what the experts were told, and which
function the router called on its logits.
"""

import inspect
import sys
from pathlib import Path

import torch
from torch.overrides import TorchFunctionMode
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from lightning_modules.moe.head import Head
from lightning_modules.moe.pretrained import SAME, check
from lightning_modules.moe.routers import mixtures_of
from tests import results

COMMAND = "make families"
# Whatever of these a family's config has.
SIZES = {
    **dict.fromkeys(("vocab_size", "max_position_embeddings", "max_seq_len"), 64),
    **dict.fromkeys(("hidden_size", "d_model", "intermediate_size", "ffn_hidden_size"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layers", "num_layers", "num_attention_heads", "n_heads"), 2),
    **dict.fromkeys(("num_key_value_heads", "linear_num_key_heads", "linear_num_value_heads", "index_n_heads"), 2),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 8),
    **dict.fromkeys(
        ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "moe_top_k", "top_k_experts"), 2
    ),
    **dict.fromkeys(("n_group", "topk_group", "n_groups", "mamba_n_groups"), 1),
    **dict.fromkeys(("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index", "num_mtp_layers"), 0),
    **dict.fromkeys(("num_nextn_predict_layers", "pad_token_id"), 0),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_hidden_size"), 16),
    **dict.fromkeys(("head_dim", "v_head_dim", "q_lora_rank", "kv_lora_rank", "index_head_dim", "sliding_window"), 16),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "mamba_d_head", "mamba_head_dim"), 16),
    **dict.fromkeys(("moe_shared_expert_intermediate_size",), 16),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "mamba_d_state", "ssm_state_size", "index_topk"), 8),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads"), 4),
    "bos_token_id": 1,
    "eos_token_id": 2,
}
HYBRID = {"layer_types": ["linear_attention", "full_attention"]}
SPARSE = {"mlp_layer_types": ["sparse", "sparse"]}
# What a family needs beside, and scales, biases and caps of heads that are off by default.
BESIDE = {
    "bailing_hybrid": HYBRID,
    "beam": SPARSE,
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8, "rope_theta": 10000.0},
        "ffn_config": {"ffn_hidden_size": 16, "moe_num_experts": 8, "moe_top_k": 2},
    },
    "dots1": {"n_shared_experts": 1},
    "flint": {"mlp_only_layers": []},
    "gemma4_text": {"enable_moe_block": True, "num_experts": 8, "top_k_experts": 2, "moe_intermediate_size": 16},
    "granitemoe": {"logits_scaling": 6.0},
    "granitemoe_swa": {"logits_scaling": 6.0},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"], "logits_scaling": 6.0},
    "granitemoeshared": {"logits_scaling": 6.0},
    "jamba": {
        **{"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 1, "expert_layer_offset": 0},
        **{"mamba_dt_rank": 4, "use_mamba_kernels": False},
    },
    "kimi_linear": HYBRID,
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "mimo_v2_flash": {"num_attention_heads": 4},
    "minimax": HYBRID,
    "phimoe": {"lm_head_bias": True},
    "qwen3_5_moe_text": HYBRID,
    "qwen3_next": HYBRID,
    "zaya": {"num_experts_per_tok": 1},
}
# A family of each kind of router and of head: named, sigmoid with a bias inside, and held by its block, bare logits, dense
# weights, a gate by another name, sqrt of softplus with hashed routes; a scale over and under the product, an odd head.
SAMPLE = {
    **{"olmoe": "right", "glm4_moe": "right", "minimax_m2": "right", "dbrx": "right", "llama4_text": "right"},
    **{
        "hunyuan_v1_moe": "right",
        "deepseek_v4": "right",
        "granitemoe": "right",
        "cohere2_moe": "right",
        "gpt_oss": "right",
    },
    **{"inkling2_text": "right", "lfm2_moe": "right", "phimoe": "refused", "jetmoe": "refused"},
}
CALLED = {
    "softmax": {"softmax", "log_softmax"},
    "sigmoid": {"sigmoid", "logsigmoid"},
    "sqrtsoftplus": {"softplus"},
    "given": {"softmax", "sigmoid"},
}


def families():
    """{model type: (config class, model class)} of causal language models whose source has experts."""
    found = {}
    for config, classes in MODEL_FOR_CAUSAL_LM_MAPPING.items():
        for kind in classes if isinstance(classes, tuple) else (classes,):
            if "Experts" in Path(inspect.getfile(kind)).read_text():
                found.setdefault(kind.config_class.model_type, (kind.config_class or config, kind))
    return found


def tiny_config(kind):
    """A config of `kind` with two layers and eight experts."""
    text = kind().get_text_config()
    declared = {*inspect.signature(type(text)).parameters, *vars(text)}
    sizes = {name: size for name, size in SIZES.items() if name in declared}
    if "qk_rope_head_dim" in declared and "head_dim" in sizes:
        sizes["head_dim"] = SIZES["qk_rope_head_dim"]
    return type(text)(**sizes | BESIDE.get(text.model_type, {}))


def tiny_model(kind, model):
    """Random weights far from their even beginnings, so that routers decide."""
    torch.manual_seed(0)
    net = model._from_config(tiny_config(kind)).eval()
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in net.parameters():
            weight.add_(torch.randn(weight.shape, generator=draw) * 0.1)
        for name, routes in net.named_buffers():
            if name.endswith("tid2eid"):
                routes.copy_(torch.rand(len(routes), 8, generator=draw).argsort(-1)[:, : routes.shape[1]])
    return net


class Called(TorchFunctionMode):
    """Names of the functions that modules of one class call in their forward."""

    def __init__(self, modules):
        super().__init__()
        self.names, self.inside = set(), 0
        for module in modules:
            module.register_forward_pre_hook(lambda *_: self._step(1))
            module.register_forward_hook(lambda *_: self._step(-1))

    def _step(self, by):
        self.inside += by

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if self.inside:
            self.names.add(getattr(function, "__name__", ""))
        return function(*args, **kwargs or {})


def problem(net, scoring):
    """What Facet computes otherwise than the plain model, or None: the router's function, the gradient of the loss."""
    ids = torch.randint(3, 64, (2, 12), generator=torch.Generator().manual_seed(1))
    mixtures = mixtures_of(net)
    called = Called([part for m in mixtures for part in (m.block, m.router)])
    with called, torch.no_grad():
        net(input_ids=ids, use_cache=False)
    if not called.names & CALLED[scoring]:
        return f"Facet found {scoring}, the router called none such"
    weight, head = net.get_input_embeddings().weight, Head(net)
    plain = torch.nn.functional.cross_entropy(
        net(input_ids=ids[:, :-1], use_cache=False).logits.flatten(0, 1), ids[:, 1:].flatten()
    )
    hidden = head.body(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
    ours = head.loss(hidden.flatten(0, 1), ids[:, 1:].flatten())
    (wanted,), (found,) = (torch.autograd.grad(loss, weight) for loss in (plain, ours))
    difference = float((wanted - found).norm() / wanted.norm())
    return None if difference <= SAME else f"the gradient differs by {difference:.2g}"


def verdict(name):
    """The row of one family."""
    kind, model = families()[name]
    row = {"system": "moe", "family": name, "class": model.__name__, "difference": None, "why": ""}
    try:
        net = tiny_model(kind, model)
        net(input_ids=torch.tensor([[3, 4, 5, 6]]), use_cache=False)
        mixtures_of(net)
    except Exception as error:
        return {**row, "verdict": "not built", "why": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"}
    try:
        scoring, difference = check(net, name=name)
    except ValueError as error:
        return {**row, "verdict": "refused", "why": str(error)}
    wrong = problem(net, scoring)
    return {
        **row,
        "verdict": "wrong" if wrong else "right",
        "difference": difference,
        "why": wrong or f"scores by {scoring}",
    }


def main():
    rows = []
    for name in sorted(families()):
        rows.append(row := verdict(name))
        results.note("families", key=("system", "family", "class"), command=COMMAND, **row)
        print(f"{row['verdict']:10}{row['family']:20}{row['why']}", flush=True)
    counts = {v: sum(r["verdict"] == v for r in rows) for v in ("right", "refused", "not built", "wrong")}
    print(counts)
    return 1 if counts["wrong"] or counts["right"] < 20 else 0


if __name__ == "__main__":
    sys.exit(main())

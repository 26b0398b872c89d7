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

from lightning_modules.moe.attention import apart
from lightning_modules.moe.head import Head
from lightning_modules.moe.pretrained import SAME, check
from lightning_modules.moe.routers import mixtures_of
from tests.families.walk import reason, tiny_config, tiny_model, walk

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
    "gemma4_text": {
        **{"enable_moe_block": True, "num_experts": 8, "top_k_experts": 2, "moe_intermediate_size": 16},
        "num_kv_shared_layers": 0,
    },
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
# weights, a gate by another name, sqrt of softplus with hashed routes; a scale over and under the product, an odd head;
# probabilities at once, whose weights are scaled by expert.
SAMPLE = {
    **{"olmoe": "right", "glm4_moe": "right", "minimax_m2": "right", "dbrx": "right", "llama4_text": "right"},
    **{
        "hunyuan_v1_moe": "right",
        "deepseek_v4": "right",
        "granitemoe": "right",
        "cohere2_moe": "right",
        "gpt_oss": "right",
    },
    "gemma4_text": "right",
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


def built(kind, model):
    """Two layers of eight experts, and hashed routes that are drawn."""
    net = tiny_model(tiny_config(kind, BESIDE), model)
    draw = torch.Generator().manual_seed(0)
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


def documents(net):
    """Of documents apart in one window: `right`, as each by itself, `refused`, or by how much they differ."""
    ids = torch.randint(3, 64, (1, 14), generator=torch.Generator().manual_seed(3))
    try:
        asked = apart(net, torch.tensor([[0] * 6 + [1] * 8]))
    except ValueError:
        return "refused"
    with torch.no_grad():
        ours = net(input_ids=ids, use_cache=False, **asked).logits
        alone = torch.cat([net(input_ids=part, use_cache=False).logits for part in ids.split([6, 8], 1)], 1)
    difference = float((ours - alone).abs().max() / alone.abs().max())
    return "right" if difference <= SAME else f"documents apart differ by {difference:.2g}"


def verdict(name):
    """The row of one family."""
    kind, model = families()[name]
    row = {"system": "moe", "family": name, "class": model.__name__, "difference": None, "why": ""}
    try:
        net = built(kind, model)
        net(input_ids=torch.tensor([[3, 4, 5, 6]]), use_cache=False)
        mixtures_of(net)
    except Exception as error:
        return {**row, "verdict": "not built", "why": reason(error)}
    try:
        scoring, difference = check(net, name=name)
    except ValueError as error:
        return {**row, "verdict": "refused", "why": str(error)}
    found = documents(net)
    wrong = problem(net, scoring) or (found if found not in ("right", "refused") else None)
    return {
        **row,
        "verdict": "wrong" if wrong else "right",
        "difference": difference,
        "why": wrong or f"scores by {scoring}",
        "documents": found,
    }


if __name__ == "__main__":
    sys.exit(walk(sorted(families()), verdict, least=20))

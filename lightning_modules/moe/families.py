"""The families of MoE language models: their configs from plain arguments, and which shapes they take.

Nothing heavy is imported before a config is made: a command line is checked against these.
"""

from collections.abc import Callable
from typing import Any

from lightning_modules.common.choices import check_choice

# Of the weights: of a model that is made here, and of one that is loaded.
DTYPES = ("float32", "bfloat16")
LOADED_DTYPES = (*DTYPES, "float16", "auto")


def check_shape(*, family: str, experts: int, top_k: int, hidden_size: int, heads: int, kv_heads: int) -> None:
    check_choice("model.family", family, CONFIGS)
    if not 1 <= top_k <= experts:
        raise ValueError(f"model.top_k is {top_k}; expected 1 to model.experts, which is {experts}.")
    if hidden_size % heads:
        raise ValueError(f"model.hidden_size is {hidden_size}; expected a multiple of model.heads, which is {heads}.")
    if heads % kv_heads:
        raise ValueError(f"model.heads is {heads}; expected a multiple of model.kv_heads, which is {kv_heads}.")


def _qwen3(common: dict[str, Any], experts: int, shared_width: int) -> Any:
    from transformers import Qwen3MoeConfig

    head_dim = common["hidden_size"] // common["num_attention_heads"]
    return Qwen3MoeConfig(num_experts=experts, head_dim=head_dim, **common)


def _qwen2(common: dict[str, Any], experts: int, shared_width: int) -> Any:
    from transformers import Qwen2MoeConfig

    return Qwen2MoeConfig(num_experts=experts, shared_expert_intermediate_size=shared_width, **common)


def _olmoe(common: dict[str, Any], experts: int, shared_width: int) -> Any:
    from transformers import OlmoeConfig

    width = common.pop("moe_intermediate_size")
    return OlmoeConfig(num_experts=experts, intermediate_size=width, **common)


def _deepseek_v3(common: dict[str, Any], experts: int, shared_width: int) -> Any:
    from transformers import DeepseekV3Config

    head_dim = common["hidden_size"] // common["num_attention_heads"]
    common["num_key_value_heads"] = common["num_attention_heads"]
    return DeepseekV3Config(
        n_routed_experts=experts,
        n_shared_experts=max(1, shared_width // common["moe_intermediate_size"]),
        first_k_dense_replace=0,
        n_group=1,
        topk_group=1,
        q_lora_rank=None,
        kv_lora_rank=max(16, common["hidden_size"] // 4),
        qk_rope_head_dim=max(8, head_dim // 2),
        qk_nope_head_dim=head_dim,
        v_head_dim=head_dim,
        num_mtp_layers=0,
        routed_scaling_factor=1.0,
        **{**common, "norm_topk_prob": True},
    )


CONFIGS: dict[str, Callable[[dict[str, Any], int, int], Any]] = {
    "qwen3_moe": _qwen3,
    "qwen2_moe": _qwen2,
    "olmoe": _olmoe,
    "deepseek_v3": _deepseek_v3,
}

"""The families of MoE language models that are made from sizes, and which sizes they take.

Nothing heavy is imported: a command line is checked against these.
"""

from lightning_modules.common.choices import check_choice

FAMILIES = ("qwen3_moe", "qwen2_moe", "olmoe", "deepseek_v3")
# Of the weights: of a model that is made here, and of one that is loaded.
DTYPES = ("float32", "bfloat16")
LOADED_DTYPES = (*DTYPES, "float16", "auto")


def check_shape(*, family: str, experts: int, top_k: int, hidden_size: int, heads: int, kv_heads: int) -> None:
    check_choice("model.family", family, FAMILIES)
    if not 1 <= top_k <= experts:
        raise ValueError(f"model.top_k is {top_k}; expected 1 to model.experts, which is {experts}.")
    if hidden_size % heads:
        raise ValueError(f"model.hidden_size is {hidden_size}; expected a multiple of model.heads, which is {heads}.")
    if heads % kv_heads:
        raise ValueError(f"model.heads is {heads}; expected a multiple of model.kv_heads, which is {kv_heads}.")

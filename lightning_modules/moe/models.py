"""The MoE language models: transformers' own classes, built from plain arguments.

Every family keeps transformers' modules and weights untouched, so `export()` writes what AutoModelForCausalLM loads.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from datamodules.corpus.words import rows_of
from lightning_modules.common.bounds import Count, Share, Whole
from lightning_modules.common.choices import check_choice
from lightning_modules.moe.families import DTYPES, check_shape
from lightning_modules.moe.routers import mixtures_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def build_moe(
    *,
    vocab_size: Count,
    family: str = "qwen3_moe",
    hidden_size: Count = 192,
    layers: Count = 4,
    heads: Count = 6,
    kv_heads: Count = 2,
    experts: Count = 16,
    top_k: Count = 2,
    expert_width: Count = 128,
    shared_width: Whole = 0,
    max_positions: Count = 1024,
    norm_topk: bool = False,
    tie_embeddings: bool = True,
    dropout: Share = 0.0,
    experts_implementation: str = "sorted",
    attention: str = "causal_sdpa",
    gradient_checkpointing: bool = False,
    dtype: str = "float32",
    device: str = "cpu",
) -> nn.Module:
    """A transformers MoE causal LM of `family`, freshly initialised.

    `shared_width` is the width of the shared expert (Qwen2-MoE, DeepSeek-V3; 0 means `expert_width`). `dropout` is
    that of attention, the only one these families have. `dtype` is that of the weights, which are drawn in float32 and
    rounded. `device='meta'` builds the shape without its memory.
    Its own auxiliary loss plays no part: it is not asked for, Facet computes the load-balancing loss.

    Raises ValueError for an unknown family, top_k > experts, or sizes that do not fit together.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    import lightning_modules.moe.attention  # registers `causal_sdpa`
    import lightning_modules.moe.experts  # noqa: F401, registers the `sorted` backend

    check_choice("model.dtype", dtype, DTYPES)
    check_shape(family=family, experts=experts, top_k=top_k, hidden_size=hidden_size, heads=heads, kv_heads=kv_heads)
    common = dict(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        num_experts_per_tok=top_k,
        max_position_embeddings=max_positions,
        norm_topk_prob=norm_topk,
        tie_word_embeddings=tie_embeddings,
        attention_dropout=dropout,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    head_dim, shared_width = hidden_size // heads, shared_width or expert_width
    routed = dict(num_experts=experts, moe_intermediate_size=expert_width)
    own: dict[str, dict[str, Any]] = {
        "qwen3_moe": dict(routed, head_dim=head_dim),
        "qwen2_moe": dict(routed, shared_expert_intermediate_size=shared_width),
        "olmoe": dict(num_experts=experts, intermediate_size=expert_width),
        "deepseek_v3": dict(
            n_routed_experts=experts,
            n_shared_experts=max(1, shared_width // expert_width),
            moe_intermediate_size=expert_width,
            first_k_dense_replace=0,
            n_group=1,
            topk_group=1,
            num_key_value_heads=heads,
            q_lora_rank=None,
            kv_lora_rank=max(16, hidden_size // 4),
            qk_rope_head_dim=max(8, head_dim // 2),
            qk_nope_head_dim=head_dim,
            v_head_dim=head_dim,
            num_mtp_layers=0,
            routed_scaling_factor=1.0,
            norm_topk_prob=True,
        ),
    }
    config = AutoConfig.for_model(family, **common | own[family])
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(
            config, attn_implementation=attention, experts_implementation=experts_implementation
        )
    if gradient_checkpointing:
        checkpoint_activations(model)
    # A plan makes its weights in another dtype than torch's default.
    return model if dtype == "float32" else model.to(getattr(torch, dtype))


def checkpoint_activations(model: Any) -> None:
    # Reentrant checkpointing returns router logits without a gradient.
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Parameters in all and active per token (top_k of the experts), tied weights counted once."""
    total = sum(p.numel() for p in model.parameters())
    idle = 0
    for mixture in mixtures_of(model):
        routed = sum(p.numel() for p in mixture.experts.parameters())
        idle += routed - routed * mixture.top_k // mixture.count
    return {"total": total, "active": total - idle}


def check_words(model: Any, tokenizer: Any) -> None:
    """ValueError for a tokenizer that has ids beyond the model's words."""
    has, needed = model.config.get_text_config().vocab_size, rows_of(tokenizer)
    if needed > has:
        raise ValueError(
            f"the tokenizer of the text (data.tokenizer) has {needed} words, and the model is made for {has}; expected "
            f"data.vocab_size={needed}, or model=pretrained with the model that the tokenizer is of."
        )


def export(model: "PreTrainedModel", tokenizer: Any, folder: str | Path, *, weight: float = 0.0) -> Path:
    """Write `folder` for AutoModelForCausalLM and AutoTokenizer; logits after loading are bitwise equal.

    Generation stops at the tokenizer's end of text and keeps a cache. weight: of the mean over layers of the load-balancing
    loss, kept for whoever trains on; transformers' own loss is `top_k` times as large as ours.
    """
    folder = Path(folder)
    config, how = model.config.get_text_config(), model.generation_config
    end = tokenizer.eos_token_id
    if end is not None and end not in (how.eos_token_id if isinstance(how.eos_token_id, list) else [how.eos_token_id]):
        how.eos_token_id = config.eos_token_id = end
    how.bos_token_id = config.bos_token_id = tokenizer.bos_token_id
    # Not in the config: an embedding takes no gradient at padding, which may be the end of text.
    how.pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else end
    config.use_cache = how.use_cache = True
    if hasattr(config, "router_aux_loss_coef"):
        config.router_aux_loss_coef = weight / mixtures_of(model)[0].top_k
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder

"""What every walk over transformers' families shares: tiny configs, random weights, verdicts and their table."""

import inspect
import sys

import torch

from tests import results

COMMAND = "make families"
VERDICTS = ("right", "refused", "not built", "wrong")
WORDS = 64
LARGEST = 3_000_000
# Whatever of these a family's config has.
SIZES = {
    **dict.fromkeys(("vocab_size", "max_position_embeddings", "max_seq_len", "n_positions", "n_ctx"), WORDS),
    **dict.fromkeys(("decoder_vocab_size", "src_vocab_size", "tgt_vocab_size", "ngram_vocab_size_base"), WORDS),
    **dict.fromkeys(
        ("t2u_vocab_size", "char_vocab_size", "max_encoder_position_embeddings", "model_max_length"), WORDS
    ),
    **dict.fromkeys(("max_decoder_position_embeddings", "vocab_size_per_layer_input", "entity_vocab_size"), WORDS),
    **dict.fromkeys(("max_source_positions", "max_target_positions", "context_length", "unpadded_vocab_size"), WORDS),
    **dict.fromkeys(("original_max_position_embeddings", "floor_scale"), WORDS),
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "emb_dim", "embedding_size", "embedding_dim"), 32),
    **dict.fromkeys(
        ("input_embedding_size", "output_embedding_size", "word_embed_proj_dim", "prediction_head_size"), 32
    ),
    **dict.fromkeys(
        ("attention_hidden_size", "lru_width", "true_hidden_size", "pooler_hidden_size", "embedding_rank"), 32
    ),
    **dict.fromkeys(("intermediate_size", "ffn_hidden_size", "d_ff", "dff", "dim_ff", "hidden_dim", "n_inner"), 32),
    **dict.fromkeys(("d_inner", "feed_forward_size", "encoder_ffn_dim", "decoder_ffn_dim", "ffn_dim"), 32),
    **dict.fromkeys(("intermediate_size_mlp", "shared_intermediate_size", "dense_intermediate_size"), 32),
    **dict.fromkeys(("prompt_mid_dim", "d_latents", "ple_embed_dim", "classifier_proj_size"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layers", "n_layer", "num_layers", "encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_encoder_layers", "num_decoder_layers", "num_blocks", "max_window_layers"), 2),
    **dict.fromkeys(("num_layers_per_stack", "num_kv_shared_layers", "num_self_attends_per_block"), 2),
    **dict.fromkeys(("num_attention_heads", "n_heads", "n_head", "num_heads", "attention_heads"), 2),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads", "num_query_groups", "num_kv_heads"), 2),
    **dict.fromkeys(("num_encoder_attention_heads", "num_decoder_attention_heads", "num_self_attention_heads"), 2),
    **dict.fromkeys(("num_cross_attention_heads", "swa_num_attention_heads", "swa_num_key_value_heads"), 2),
    **dict.fromkeys(("num_key_value_heads", "linear_num_key_heads", "linear_num_value_heads", "index_n_heads"), 2),
    **dict.fromkeys(("linear_num_heads", "n_mamba_heads", "o_groups", "heads_per_ngram"), 2),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "num_latents"), 8),
    **dict.fromkeys(
        ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "moe_top_k", "top_k_experts"), 2
    ),
    **dict.fromkeys(("n_group", "topk_group", "n_groups", "mamba_n_groups", "num_expert_group"), 1),
    **dict.fromkeys(("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index", "num_mtp_layers"), 0),
    **dict.fromkeys(("num_nextn_predict_layers",), 0),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_hidden_size"), 16),
    **dict.fromkeys(("head_dim", "v_head_dim", "q_lora_rank", "kv_lora_rank", "index_head_dim", "sliding_window"), 16),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "mamba_d_head", "mamba_head_dim"), 16),
    **dict.fromkeys(("d_kv", "d_head", "dim_head", "attention_head_size", "swa_head_dim", "linear_head_dim"), 16),
    **dict.fromkeys(
        ("kv_channels", "query_pre_attn_scalar", "attention_head_dim", "o_lora_rank", "entity_emb_size"), 16
    ),
    **dict.fromkeys(("moe_shared_expert_intermediate_size", "intra_bottleneck_size", "router_hidden_size"), 16),
    **dict.fromkeys(("shared_experts_intermediate_size", "hc_lowrank", "hidden_size_per_layer_input"), 16),
    **dict.fromkeys(("sliding_window_size", "local_attention", "attention_window_size", "window_size"), 16),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "mamba_d_state", "ssm_state_size", "index_topk"), 8),
    **dict.fromkeys(("state_size", "time_step_rank", "laurel_rank", "adapter_rank", "rotary_dim", "qk_head_dim"), 8),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads"), 4),
    **dict.fromkeys(("pad_token_id",), 0),
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def sizes_for(declared):
    """The entries of `SIZES` among the names that a config declares."""
    sizes = {name: size for name, size in SIZES.items() if name in declared}
    if "qk_rope_head_dim" in declared and "head_dim" in sizes:
        sizes["head_dim"] = SIZES["qk_rope_head_dim"]
    if "qk_rope_head_dim" in declared and "qk_head_dim" in sizes:
        sizes["qk_head_dim"] = SIZES["qk_rope_head_dim"] + SIZES["qk_nope_head_dim"]
    return sizes


def tiny_config(kind, beside, **more):
    """A text config of `kind` at `SIZES`; beside: {model type: what a family needs beside, or otherwise}; more: for all."""
    text = kind().get_text_config()
    declared = {*inspect.signature(type(text)).parameters, *vars(text)}
    more = {name: value for name, value in more.items() if name in declared}
    return type(text)(**sizes_for(declared) | more | beside.get(text.model_type, {}))


def tiny_model(config, model):
    """Random weights far from their even beginnings, so that routers decide and faults show."""
    with torch.device("meta"):
        count = sum(p.numel() for p in model._from_config(config).parameters())
    if count > LARGEST:
        raise ValueError(f"{count:,} weights at these sizes; its config has parts of its own")
    torch.manual_seed(0)
    net = model._from_config(config).eval()
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in net.parameters():
            weight.add_(torch.randn(weight.shape, generator=draw) * 0.1)
    return net


def reason(error):
    """An error in a line of a table."""
    said = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {said}"


def walk(names, verdict, *, least):
    """Every family's row, printed and noted in families.json. 1 when one is wrong, or fewer than `least` of all right."""
    rows = []
    for name in sys.argv[1:] or names:
        rows.append(row := verdict(name))
        results.note("families", key=("system", "family", "class"), command=COMMAND, **row)
        print(
            f"{row['verdict']:10}{row['family']:24}{row['class']:40}{row['why']} {row.get('neurons', '')}", flush=True
        )
    counts = {v: sum(r["verdict"] == v for r in rows) for v in VERDICTS}
    print(counts)
    return 1 if counts["wrong"] or (not sys.argv[1:] and counts["right"] < least) else 0

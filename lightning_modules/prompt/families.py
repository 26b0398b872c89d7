"""What differs between Hugging Face families: where the neurons are, and how a position is read out.

A neuron is one coordinate of what a feed-forward block's down-projection reads: its post-activation vector. One forward
pre-hook there sees it, and edits it by returning another tensor.
"""

import re

from torch import Tensor, nn

# The down-projection of every layer, by the name of its module.
DOWN = re.compile(
    r"(?:^|\.)(?:(?P<stack>encoder|decoder)\.)?(?:layer|layers|h|block|blocks)\.(?P<layer>\d+)\."
    r"(?:output\.dense|ffn\.lin2|mlp\.c_proj|mlp\.down_proj|mlp\.dense_4h_to_h|fc2|layer\.\d+\.DenseReluDense\.wo)$"
)
# What feeds it, as a name relative to the layer, in the order tried: plain and gated.
UP = {
    "output.dense": ("intermediate.dense",),
    "ffn.lin2": ("ffn.lin1",),
    "mlp.c_proj": ("mlp.c_fc",),
    "mlp.down_proj": ("mlp.up_proj", "mlp.gate_proj"),
    "mlp.dense_4h_to_h": ("mlp.dense_h_to_4h",),
    "fc2": ("fc1",),
    "wo": ("wi", "wi_0", "wi_1"),
}


def down_projections(model: nn.Module) -> dict[str, nn.Module]:
    """Name -> down-projection of each feed-forward block, in layer order; of an encoder-decoder the encoder's.

    The encoder's, because prompt tokens stand there. Raises ValueError for a model whose blocks are not known.
    """
    found = [(match, module) for name, module in model.named_modules() if (match := DOWN.search(name))]
    found = [(m, module) for m, module in found if hasattr(module, "weight") or hasattr(module, "base_layer")]
    if any(m["stack"] == "decoder" for m, _ in found) and any(m["stack"] == "encoder" for m, _ in found):
        found = [(m, module) for m, module in found if m["stack"] == "encoder"]
    if not found:
        kinds = sorted({re.sub(r"\d+", "N", n) for n, m in model.named_modules() if isinstance(m, nn.Linear)})
        raise ValueError(
            f"{type(model).__name__}: no feed-forward down-projection found; expected names such as layer.N.output.dense "
            f"(BERT), mlp.c_proj (GPT-2), mlp.down_proj (Llama) or DenseReluDense.wo (T5); its linear layers are "
            f"{', '.join(kinds[:8])}. Mixtures of experts are the moe system's."
        )
    return {m.string: module for m, module in sorted(found, key=lambda pair: int(pair[0]["layer"]))}


def up_projections(model: nn.Module, down: str) -> dict[str, nn.Module]:
    """Name -> the linear layers whose outputs make the neurons of the down-projection named `down`."""
    ending = next(e for e in UP if down.endswith(e))
    stem = down[: -len(ending)]
    modules = dict(model.named_modules())
    return {stem + name: modules[stem + name] for name in UP[ending] if stem + name in modules}


def kind_of(model: nn.Module) -> str:
    """`masked`, `causal`, `seq2seq` or, for a model without a language-model head, `encoder`."""
    name = type(model).__name__
    if getattr(model.config, "is_encoder_decoder", False):
        return "seq2seq"
    if name.endswith("ForMaskedLM"):
        return "masked"
    return "causal" if name.endswith(("ForCausalLM", "LMHeadModel")) else "encoder"


def vocabulary_logits(model: nn.Module, hidden_BH: Tensor) -> Tensor:
    """The language-model head on chosen positions only: the same logits as the whole forward's, without [B, T, V]."""
    if hasattr(model, "vocab_projector"):
        return model.vocab_projector(model.vocab_layer_norm(model.activation(model.vocab_transform(hidden_BH))))
    if hasattr(model, "lm_predictions"):
        return model.lm_predictions(hidden_BH, model.get_input_embeddings())
    head = getattr(model, "lm_head", None) or getattr(model, "cls", None)
    if head is None:
        # Tied read-out of an encoder without a head: the inner product with each word's embedding.
        return hidden_BH @ model.get_input_embeddings().weight.T
    if getattr(model.config, "scale_decoder_outputs", False):
        hidden_BH = hidden_BH * model.config.d_model**-0.5
    return head(hidden_BH)

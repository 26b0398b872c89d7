"""What differs between Hugging Face families: where the neurons and the words are, and how an answer begins.

A neuron is one coordinate of what a feed-forward block's down-projection reads: its post-activation vector. One forward
pre-hook there sees it, and edits it by returning another tensor.
"""

import re
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

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
    from transformers.models.auto import modeling_auto as auto

    name = type(model).__name__
    if getattr(model.config, "is_encoder_decoder", False):
        return "seq2seq"
    # XLM's one class stands in two of them: it sees both sides.
    if name in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES.values():
        return "masked"
    return "causal" if name in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values() else "encoder"


def body_of(model: "PreTrainedModel") -> nn.Module:
    """All of a model but its head."""
    return model.base_model


def word_embedding(model: "PreTrainedModel") -> Any:
    """The module that reads a text's words; of an encoder-decoder the encoder's, where a prompt stands."""
    if getattr(model.config, "is_encoder_decoder", False):
        return model.get_encoder().get_input_embeddings()
    return model.get_input_embeddings()


def start_token(model: "PreTrainedModel") -> int:
    """What a decoder begins with. ValueError where its config names nothing."""
    generation = getattr(model, "generation_config", None)
    for config in (model.config, generation, model.config.get_text_config(decoder=True)):
        for name in ("decoder_start_token_id", "bos_token_id"):
            if isinstance(found := getattr(config, name, None), int):
                return found
    raise ValueError(
        f"backbone: the config of {type(model).__name__} has no decoder_start_token_id; expected the token that its decoder "
        "begins with."
    )

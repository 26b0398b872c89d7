"""What differs between Hugging Face families: where the neurons and the words are, and how an answer begins.

A neuron is one coordinate of what a feed-forward block's down-projection reads: its post-activation vector. One forward
pre-hook there sees it, and edits it by returning another tensor.
"""

import re
from typing import TYPE_CHECKING, Any

from torch import nn

from lightning_modules.common.body import body_of
from lightning_modules.prompt.feed_forward import blocks_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def down_projections(model: "PreTrainedModel", body: nn.Module | None = None) -> dict[str, nn.Module]:
    """Name -> down-projection of each feed-forward block of `body`, in layer order; None: of `reader_of(model)`.

    Of an encoder-decoder that is the encoder, because prompt tokens stand there. Found by what they compute, whatever their
    names (`feed_forward`).
    ValueError for a mixture of experts, for layers that share a block, and for a model in which none is found.
    """
    if any("Experts" in type(m).__name__ for m in model.modules()):
        raise ValueError(
            f"{type(model).__name__} is a mixture of experts: a neuron of an expert is there for the tokens that reach it "
            "alone; expected a dense model. Mixtures are the moe system's."
        )
    found = {name: model.get_submodule(name) for name in blocks_of(model, body or reader_of(model))}
    if not found:
        kinds = sorted({re.sub(r"\d+", "N", n) for n, m in model.named_modules() if isinstance(m, nn.Linear)})
        raise ValueError(
            f"{type(model).__name__}: no feed-forward down-projection found; expected linear layers with an activation "
            f"between them, as in BERT or Llama; its linear layers are {', '.join(kinds[:8])}."
        )
    return found


def up_projections(model: "PreTrainedModel", down: str) -> dict[str, nn.Module]:
    """Name -> the linear layers whose outputs make the neurons of the down-projection named `down`."""
    return {name: model.get_submodule(name) for name in blocks_of(model, reader_of(model))[down]}


def reader_of(model: "PreTrainedModel") -> Any:
    """What reads a text, without a head: an encoder-decoder's encoder."""
    return model.get_encoder() if getattr(model.config, "is_encoder_decoder", False) else body_of(model)


def answerer_of(model: "PreTrainedModel") -> Any:
    """Where the position stands that answers: as `reader_of`, but of an encoder-decoder the decoder."""
    return model.get_decoder() if getattr(model.config, "is_encoder_decoder", False) else body_of(model)


def has_head(kind: type[nn.Module]) -> bool:
    """Whether transformers counts a class among its masked, causal or encoder-decoder language models."""
    from transformers.models.auto import modeling_auto as auto

    mappings = (
        auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    )
    names = {n for m in mappings for found in m.values() for n in (found if isinstance(found, tuple) else (found,))}
    return kind.__name__ in names


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


def word_embedding(model: "PreTrainedModel") -> Any:
    """The module that reads a text's words; of an encoder-decoder the encoder's, where a prompt stands."""
    found = model.get_input_embeddings()
    if getattr(model.config, "is_encoder_decoder", False):
        found = getattr(model.get_encoder(), "get_input_embeddings", model.get_input_embeddings)()
    if isinstance(found, nn.Module):
        return found
    # Perceiver's input embeddings are what its latents begin as.
    tables = [m for m in model.modules() if isinstance(m, nn.Embedding) and m.num_embeddings == model.config.vocab_size]
    if len(tables) != 1:
        raise ValueError(
            f"backbone: {type(model).__name__} has {len(tables)} embeddings of {model.config.vocab_size} words; expected "
            "one, whose place a prompt takes."
        )
    return tables[0]


def start_token(model: "PreTrainedModel") -> int:
    """What a decoder begins with. ValueError where its config names nothing."""
    generation = getattr(model, "generation_config", None)
    for name in ("decoder_start_token_id", "bos_token_id"):
        for config in (model.config, generation, model.config.get_text_config(decoder=True)):
            if isinstance(found := getattr(config, name, None), int):
                return found
    raise ValueError(
        f"backbone: the config of {type(model).__name__} has no decoder_start_token_id; expected the token that its decoder "
        "begins with."
    )

"""A transformers model without its head."""

from typing import Any

from torch import nn


def body_of(model: Any) -> nn.Module:
    """What hands hidden states to the head; the model itself where it has none, or has it beside its layers (T5)."""
    from transformers import PreTrainedModel

    if model.base_model is not model:
        return model.base_model
    # Llama-4's and Mllama's text models call their body otherwise than their class says.
    inner = [child for child in model.children() if isinstance(child, PreTrainedModel)]
    return inner[0] if len(inner) == 1 and model.get_output_embeddings() is not None else model

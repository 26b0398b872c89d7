"""A frozen language model that is asked at one position: embeddings in, scores of label words out.

Shape legend: B examples, T positions, H hidden width, V words, C classes, W tokens of a label phrase, P prompt tokens.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.common.digests import digest_of_weights
from lightning_modules.prompt.families import down_projections, kind_of, vocabulary_logits

Batch = dict[str, Tensor]


class Backbone(nn.Module):
    """Any transformers masked, causal or encoder-decoder LM, or a bare encoder, with one way to ask it.

    A batch holds input_ids and attention_mask [B, T], `ask` [B], the position whose output is read, `prompt_at` [], where a
    soft prompt's P reserved positions begin, and the classes' words: label_ids [C], or phrase_ids and
    phrase_mask [C, W] for prototypes.
    """

    def __init__(self, model: nn.Module, tokenizer: Any) -> None:
        super().__init__()
        self.model, self.tokenizer, self.kind = model.eval(), tokenizer, kind_of(model)
        self.width = model.get_input_embeddings().embedding_dim
        self.requires_grad_(False)
        # Positions count the tokens that are there, so padding on the left changes nothing; RoBERTa starts at 2.
        embeddings = getattr(model.base_model, "embeddings", None)
        padding = getattr(embeddings, "padding_idx", None)
        self._first_position = 0 if padding is None else padding + 1
        self._prototypes: dict[bytes, Tensor] = {}

    def train(self, mode: bool = True) -> "Backbone":
        """Always in evaluation mode: dropout inside a frozen model would make neurons and prompts noisy for nothing."""
        return super().train(False)

    def embed(self, batch: Batch, prompt: Tensor | None = None) -> Tensor:
        """Input embeddings [B, T, H]; `prompt` [P, H], or one per example [B, P, H], stands at `prompt_at`."""
        embeds_BTH = self.model.get_input_embeddings()(batch["input_ids"])
        if prompt is None or prompt.shape[-2] == 0:
            return embeds_BTH
        at, length = int(batch["prompt_at"]), prompt.shape[-2]
        prompt_BPH = prompt.expand(len(embeds_BTH), length, -1).to(embeds_BTH.dtype)
        return torch.cat([embeds_BTH[:, :at], prompt_BPH, embeds_BTH[:, at + length :]], 1)

    def hidden(self, embeds_BTH: Tensor, attention_mask: Tensor, offset: Tensor | None = None) -> Tensor:
        """Last hidden states [B, T, H]: of the encoder, or the decoder's only position [B, 1, H] in an encoder-decoder.

        offset [B, 1] shifts the position numbers.
        """
        if self.kind == "seq2seq":
            start = torch.full((len(embeds_BTH), 1), self.model.config.decoder_start_token_id, device=embeds_BTH.device)
            read_BTH = self.model.get_encoder()(inputs_embeds=embeds_BTH, attention_mask=attention_mask)[0]
            return self.model.get_decoder()(
                input_ids=start, encoder_hidden_states=read_BTH, encoder_attention_mask=attention_mask, use_cache=False
            )[0]
        position = (attention_mask.cumsum(1) - 1).clamp(min=0) + self._first_position
        if offset is not None:
            position = position + offset
        return self.model.base_model(
            inputs_embeds=embeds_BTH, attention_mask=attention_mask, position_ids=position
        ).last_hidden_state

    def answer(self, batch: Batch, prompt: Tensor | None = None) -> Tensor:
        """The hidden state [B, H] at the asked position."""
        return self.answer_of(self.embed(batch, prompt), batch)

    def answer_of(self, embeds_BTH: Tensor, batch: Batch, *, lean: bool = False) -> Tensor:
        layer = _last_layer(self.model) if lean and self.kind == "masked" and "phrase_ids" not in batch else None
        if layer is not None:
            with _asked_only(layer, batch["ask"]):
                return self.hidden(embeds_BTH, batch["attention_mask"])[:, 0]
        hidden = self.hidden(embeds_BTH, batch["attention_mask"])
        if self.kind == "seq2seq":
            return hidden[:, 0]
        if "phrase_ids" in batch:
            return _mean_over(hidden, batch["attention_mask"])
        return hidden[torch.arange(len(hidden), device=hidden.device), batch["ask"]]

    def scores(self, batch: Batch, prompt: Tensor | None = None) -> Tensor:
        """Class scores [B, C]: logits of the label words, or 20 x cosine to the embedded label phrases."""
        return self.scores_of(self.embed(batch, prompt), batch)

    def scores_of(self, embeds_BTH: Tensor, batch: Batch, *, lean: bool = False) -> Tensor:
        """Class scores [B, C] of embedded inputs.

        lean: in the last layer of BERT's kin only the asked position goes through the feed-forward block. Equal up to
        rounding; neurons of that layer are then seen at that position alone, so analyses do without.
        """
        hidden_BH = self.answer_of(embeds_BTH, batch, lean=lean)
        if "phrase_ids" in batch:
            prototypes_CH = self._prototype(batch["phrase_ids"], batch["phrase_mask"])
            return 20.0 * nn.functional.normalize(hidden_BH, dim=-1) @ prototypes_CH.T
        return vocabulary_logits(self.model, hidden_BH)[:, batch["label_ids"]]

    @torch.no_grad()
    def _prototype(self, ids_CW: Tensor, mask_CW: Tensor) -> Tensor:
        key = ids_CW.cpu().numpy().tobytes()
        if key not in self._prototypes:
            hidden = self.hidden(self.model.get_input_embeddings()(ids_CW), mask_CW)
            self._prototypes[key] = nn.functional.normalize(_mean_over(hidden, mask_CW), dim=-1)
        return self._prototypes[key]

    def sites(self) -> list[nn.Module]:
        """The down-projection of every layer, in layer order."""
        return list(down_projections(self.model).values())

    def read(self, x_BTF: Tensor, batch: Batch, length: int) -> Tensor:
        """Neurons [B, P, F] at the `length` prompt tokens; of a causal LM [B, 1, F] at the asked position.

        A causal LM's prompt stands before the text and cannot see it: there a neuron is the same in every example.
        """
        if self.kind == "causal":
            return x_BTF[torch.arange(len(x_BTF), device=x_BTF.device), batch["ask"]][:, None]
        at = int(batch["prompt_at"])
        return x_BTF[:, at : at + length]

    def fingerprint(self) -> str:
        """16 hex digits over every weight by its original name, whatever adapters stand around it."""
        return digest_of_weights(own_weights(self.model))


def _last_layer(model: nn.Module) -> nn.Module | None:
    layers = getattr(getattr(model.base_model, "encoder", None), "layer", None)
    return layers[-1] if layers is not None and hasattr(layers[-1], "attention") else None


@contextlib.contextmanager
def _asked_only(layer: nn.Module, ask_B: Tensor) -> Iterator[None]:
    rows = torch.arange(len(ask_B), device=ask_B.device)
    cut = lambda _m, _a, out: (out[0][rows, ask_B][:, None], *out[1:])  # noqa: E731
    handle = layer.attention.register_forward_hook(cut)
    try:
        yield
    finally:
        handle.remove()


def own_weights(model: nn.Module) -> dict[str, Tensor]:
    """The backbone's weights by the names they have without adapters."""
    return {
        name.replace(".base_layer", ""): weight
        for name, weight in model.state_dict().items()
        if ".lora_" not in name and weight.numel()
    }


def _mean_over(hidden_BTH: Tensor, mask_BT: Tensor) -> Tensor:
    weight = mask_BT.unsqueeze(-1).to(hidden_BTH.dtype)
    return (hidden_BTH * weight).sum(1) / weight.sum(1)

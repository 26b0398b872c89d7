"""A frozen language model that is asked at one position: a text with a prompt in, scores of label words out.

It is the model's own forward, from token numbers to logits: a prompt takes the place of what the word embedding gives, and
the hidden states that its head reads are cut to the asked position. So no family is special, and no head runs where nobody
asks. Shape legend: B examples, T positions, H hidden width, V words, C classes, W tokens of a label word or phrase, P prompt
tokens.
"""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from datamodules.tasks.words import refuse_beyond
from lightning_modules.common.body import body_of
from lightning_modules.common.digests import digest_of_weights
from lightning_modules.prompt.families import down_projections, kind_of, start_token, word_embedding
from lightning_modules.prompt.label_words import word_scores
from lightning_modules.prompt.last_layer import LEAN, asked_alone, can_ask_alone

Batch = dict[str, Any]

_READS_PHRASES = ContextVar("reads phrases", default=False)


def reads_phrases() -> bool:
    """Whether a model reads the classes' phrases just now, which no analysis is to see or to edit."""
    return _READS_PHRASES.get()


class Backbone(nn.Module):
    """Any transformers masked, causal or encoder-decoder LM, or a bare encoder, with one way to ask it.

    A batch holds input_ids and attention_mask [B, T], padded on the right, `ask` [B], the position whose output is read,
    `prompt_at`, where a soft prompt's `kept` = P positions begin, and the classes' words: label_ids [C], or [C, N] beside
    label_share; or label_words, each a tuple of W tokens, beside their `reading`; or phrase_ids and phrase_mask [C, W] for
    prototypes, with `phrases`, their name. It may lie on another device.
    """

    # transformers gives a model most of its attributes at run time.
    model: Any

    def __init__(self, model: nn.Module, tokenizer: Any) -> None:
        super().__init__()
        self.model, self.tokenizer, self.kind = model.eval(), tokenizer, kind_of(model)
        table_VH = word_embedding(model).weight
        self.width: int = table_VH.shape[-1]
        refuse_beyond(tokenizer, rows=len(table_VH), model=type(model).__name__)
        self.requires_grad_(False)
        # RoBERTa, M2M100 and others number positions by which tokens are not padding: an ordinary word holds the place.
        config: Any = model.config
        special = {*tokenizer.all_special_ids, getattr(config.get_text_config(), "pad_token_id", None)}
        self._filler = next(i for i in range(len(tokenizer)) if i not in special)
        self._prototypes: dict[str, Tensor] = {}

    def load(self) -> "Backbone":
        """Itself: one that stands in memory already takes the place of its spec."""
        return self

    def train(self, mode: bool = True) -> "Backbone":
        """Always in evaluation mode: dropout inside a frozen model would make neurons and prompts noisy for nothing."""
        return super().train(False)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def placed(self, batch: Batch) -> Batch:
        """The batch where the model is."""
        here = self.device
        return {n: v.to(here) if isinstance(v, Tensor) else v for n, v in batch.items()}

    def batches(self, found: Iterable[Batch]) -> Iterator[Batch]:
        return map(self.placed, found)

    def words(self, ids: Tensor) -> Tensor:
        """What the word embedding gives for token numbers, one more dimension of H."""
        with torch.no_grad():
            return word_embedding(self.model)(ids.to(self.device)).detach()

    def logits(self, batch: Batch, prompt: Tensor | None = None, *, lean: bool = False) -> Tensor:
        """Logits [B, V] at the asked position; `prompt` [P, H], or one per example [B, P, H], stands at `prompt_at`.

        Of an encoder without a head: the inner product with each word's embedding. lean: in the last layer of BERT's kin
        only the asked position goes through the feed-forward block, and without gradients it alone asks the others; equal
        up to rounding, but neurons of that layer are then seen at that position alone, so analyses do without.
        """
        return self.logits_behind(batch, prompt, (), lean=lean)[:, 0]

    def logits_behind(
        self, batch: Batch, prompt: Tensor | None, further: Sequence[int], *, lean: bool = False
    ) -> Tensor:
        """Logits [B, W, V] at the asked position and behind each of the W - 1 tokens `further`, which follow it.

        They are put into every text there; of an encoder-decoder the decoder has said them.
        """
        batch = self.placed(batch)
        wanted = 1 + len(further)
        if further:
            batch = {**batch, "said": further} if self.kind == "seq2seq" else _with(batch, further)
        if self.kind == "encoder":
            hidden_BTH = self._run(body_of(self.model), batch, prompt)[0]
            return _asked(hidden_BTH, batch, wanted) @ word_embedding(self.model).weight.T
        with contextlib.ExitStack() as hooks:
            if self.kind != "seq2seq" and (body := body_of(self.model)) is not self.model:
                hooks.enter_context(_after(body, lambda out: _cut(out, batch, wanted)))
            if lean and self.model.config.model_type in LEAN:
                layer = self.model.base_model.encoder.layer[-1]
                # Trained prompts stay what they were to the bit: other kernels round otherwise.
                if can_ask_alone(self.model) and not torch.is_grad_enabled():
                    hooks.enter_context(asked_alone(layer, lambda found: _asked(found, batch, wanted)))
                hooks.enter_context(_after(layer.attention, lambda out: _cut(out, batch, wanted)))
            logits = self._run(self.model, batch, prompt).logits
        return logits if logits.shape[1] == wanted else _asked(logits, batch, wanted)

    def mean_state(self, batch: Batch, prompt: Tensor | None = None) -> Tensor:
        """The last hidden states' mean over positions [B, H]; of an encoder-decoder the decoder's only one."""
        batch = self.placed(batch)
        if self.kind == "seq2seq":
            found: list[Tensor] = []
            with _after(self.model.get_decoder(), lambda out: found.append(out[0])):
                self._run(self.model, batch, prompt)
            return found[0][:, 0]
        hidden_BTH = self._run(body_of(self.model), batch, prompt)[0]
        weight = batch["attention_mask"].unsqueeze(-1).to(hidden_BTH.dtype)
        return (hidden_BTH * weight).sum(1) / weight.sum(1)

    def answer(self, batch: Batch, prompt: Tensor | None = None, *, lean: bool = False) -> Tensor:
        """What classes are scored by: logits [B, V], or for prototypes the mean state [B, H]."""
        return self.mean_state(batch, prompt) if "phrase_ids" in batch else self.logits(batch, prompt, lean=lean)

    def scores(self, batch: Batch, prompt: Tensor | None = None, *, lean: bool = False) -> Tensor:
        """Class scores [B, C]: logits of the label words, their tokens' log-probabilities where a batch has label_words, or
        20 x cosine to the embedded label phrases.
        """
        batch = self.placed(batch)
        if "label_words" in batch:
            return word_scores(
                batch["label_words"],
                lambda further: self.logits_behind(batch, prompt, further, lean=lean),
                mask=self.tokenizer.mask_token_id if self.kind in ("masked", "encoder") else None,
                reading=batch["reading"],
            )
        return self.of_classes(self.answer(batch, prompt, lean=lean), batch)

    def of_classes(self, answer: Tensor, batch: Batch) -> Tensor:
        """Class scores [B, C] by what `answer` gave, for the words of `batch`; of several words a class their mean."""
        if "label_share" in batch:
            return (answer[:, batch["label_ids"]] * batch["label_share"]).sum(-1)
        if "phrase_ids" not in batch:
            return answer[:, batch["label_ids"]]
        return 20.0 * nn.functional.normalize(answer, dim=-1) @ self._prototype(batch).to(answer.dtype).T

    def _run(self, module: nn.Module, batch: Batch, prompt: Tensor | None) -> Any:
        at, ids = batch.get("prompt_at", 0), batch["input_ids"]
        if prompt is None and "prompt_at" in batch:
            prompt = self._kept(batch)
        if prompt is not None:
            if (length := prompt.shape[-2]) != (kept := batch.get("kept", length)):
                raise ValueError(
                    f"a prompt of {length} tokens where data.template keeps {kept}; expected {{prompt}} in data.template, "
                    "and tuner.length and data.prompt_length as prompt.length."
                )
            ids = ids.index_fill(1, torch.arange(at, at + prompt.shape[-2], device=ids.device), self._filler)
        asked = {"input_ids": ids, "attention_mask": batch["attention_mask"]}
        if _can_cache(type(module).forward):
            asked["use_cache"] = False
        if self.kind == "seq2seq":
            said = torch.tensor([start_token(self.model), *batch.get("said", ())], device=ids.device)
            asked["decoder_input_ids"] = said.expand(len(ids), -1)
        with _prompted(word_embedding(self.model), prompt, at):
            return module(**asked)

    def _kept(self, batch: Batch) -> Tensor | None:
        """What stands where a place is kept and no prompt is given: padding that is seen, and counted as a word is."""
        pad, length = self.tokenizer.pad_token_id, batch.get("kept", 0)
        if not length or pad is None or pad == self.tokenizer.eos_token_id:
            return None
        return self.words(torch.full((length,), pad))

    def embed_phrases(self, common: Batch) -> None:
        """Embed the classes' phrases, if `common` names any, by the model as it is now, once for all.

        They are the frozen model's: to be called before weights or adapters that were trained are put into it.
        """
        if "phrases" in common:
            self._prototype(common)

    def with_model(self, model: nn.Module) -> "Backbone":
        """Another model in the place of this one, which scores by the phrases that this one has embedded."""
        other = Backbone(model, self.tokenizer)
        other._prototypes = dict(self._prototypes)
        return other

    @torch.no_grad()
    def _prototype(self, batch: Batch) -> Tensor:
        """Directions of the classes' phrases, [C, H]."""
        name = batch["phrases"]
        if name not in self._prototypes:
            phrases = {"input_ids": batch["phrase_ids"], "attention_mask": batch["phrase_mask"]}
            reading = _READS_PHRASES.set(True)
            try:
                # The same in a training of mixed precision as in the analysis of what it made.
                with torch.autocast(self.device.type, enabled=False):
                    self._prototypes[name] = nn.functional.normalize(self.mean_state(phrases), dim=-1)
            finally:
                _READS_PHRASES.reset(reading)
        self._prototypes[name] = self._prototypes[name].to(self.device)
        return self._prototypes[name]

    def sites(self) -> list[nn.Module]:
        """The down-projection of every layer, in layer order."""
        return list(down_projections(self.model).values())

    def read(self, x_BTF: Tensor, batch: Batch, length: int) -> Tensor:
        """Neurons [B, P, F] at the `length` prompt tokens; of a causal LM [B, 1, F] at the asked position.

        A causal LM's prompt stands before the text and cannot see it: there a neuron is the same in every example.
        """
        if self.kind == "causal":
            return _asked(x_BTF, batch, 1)
        at = batch["prompt_at"]
        return x_BTF[:, at : at + length]

    def fingerprint(self) -> str:
        """16 hex digits over every weight by its original name, whatever adapters stand around it."""
        return digest_of_weights(own_weights(self.model))


@functools.cache
def _can_cache(forward: Callable[..., Any]) -> bool:
    return "use_cache" in inspect.signature(forward).parameters


def own_weights(model: nn.Module) -> dict[str, Tensor]:
    """The backbone's weights by the names they have without adapters."""
    return {
        name.replace(".base_layer", ""): weight
        for name, weight in model.state_dict().items()
        if ".lora_" not in name and weight.numel()
    }


def _asked(found_BTX: Tensor, batch: Batch, wanted: int) -> Tensor:
    """[B, W, X]: of W = `wanted` positions from the asked one on."""
    ask_B = batch["ask"].to(found_BTX.device)
    rows_B, further_W = (torch.arange(size, device=ask_B.device) for size in (len(ask_B), wanted))
    return found_BTX[rows_B[:, None], ask_B[:, None] + further_W]


def _with(batch: Batch, further: Sequence[int]) -> Batch:
    """The batch with the tokens `further` behind the asked position of every text, and what stood there behind them."""
    ids_BT, ask_B1, count = batch["input_ids"], batch["ask"][:, None], len(further)
    at_T = torch.arange(ids_BT.shape[1] + count, device=ids_BT.device)
    behind_BT = at_T - ask_B1
    source_BT = torch.where(behind_BT > count, at_T - count, torch.minimum(at_T, ask_B1))
    tokens_BT = torch.tensor([0, *further], device=ids_BT.device)[behind_BT.clamp(0, count)]
    put_BT = (behind_BT > 0) & (behind_BT <= count)
    return {
        **batch,
        "input_ids": torch.where(put_BT, tokens_BT, ids_BT.gather(1, source_BT)),
        "attention_mask": batch["attention_mask"].gather(1, source_BT),
        "prompt_at": batch.get("prompt_at", 0) + (count if batch["prompt_moves"] else 0),
    }


def _after(module: nn.Module, change: Callable[[Any], Any]) -> contextlib.AbstractContextManager[Any]:
    """While it lasts, `change` stands behind the module's forward; None leaves its output as it is."""
    return module.register_forward_hook(lambda _m, _a, out: change(out))


def _cut(out: Any, batch: Batch, wanted: int) -> Any:
    """A module's output with its hidden states [B, T, H] at the W = `wanted` asked positions alone, [B, W, H]."""
    hidden_BTH = out[0]
    if hidden_BTH.shape[1] == wanted:
        return out
    asked_BWH = _asked(hidden_BTH, batch, wanted)
    if isinstance(out, tuple):
        return asked_BWH, *out[1:]
    out[next(iter(out))] = asked_BWH
    return out


def _prompted(embedding: nn.Module, prompt: Tensor | None, at: int) -> contextlib.AbstractContextManager[Any]:
    if prompt is None or prompt.shape[-2] == 0:
        return contextlib.nullcontext()
    length = prompt.shape[-2]
    done: list[bool] = []

    def put(embeds_BTH: Tensor) -> Tensor | None:
        if done:
            # A decoder may read its own words by the same module.
            return None
        done.append(True)
        prompt_BPH = prompt.to(embeds_BTH).expand(len(embeds_BTH), length, -1)
        return torch.cat([embeds_BTH[:, :at], prompt_BPH, embeds_BTH[:, at + length :]], 1)

    return _after(embedding, put)

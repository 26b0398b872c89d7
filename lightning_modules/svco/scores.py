"""Log-probabilities of responses under images, without doing anything twice.

A row is one prompt (an image and a question, or the question alone) followed by all of its responses; each response sees
the prompt and itself, not the other ones, and its positions go on from the prompt. So an image passes the vision tower
once, a prompt passes the decoder once, and logits are made for response tokens only: `shared` lays a row out in one
sequence, for families whose parts are known; `continued` goes on from the prompt's cache, for the others, and asks their
own head once, for the tokens of all rows.

Shape legend: R rows of T tokens, N response tokens of all rows, S scores, H hidden width, V words.
"""

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from datamodules.scenes.reader import Encoded
from lightning_modules.svco.models import VLM

IGNORED = -100
# What the layers that look at the picture ask for at every token, of a cached prompt too.
CROSS = ("cross_attention_mask", "image_attention_mask")


class Row(NamedTuple):
    """Prompt ids [P], the processor's tensors of its image ({}: none), and its responses' ids [..]."""

    prompt: Tensor
    inputs: Mapping[str, Tensor]
    responses: Sequence[Tensor]


class Packed(NamedTuple):
    """Rows side by side; `source` and `target` say which hidden state predicts which response token of which score."""

    ids_RT: Tensor
    positions_RT: Tensor
    blocked_RTT: Tensor
    source_N: Tensor  # index into R x T
    target_N: Tensor
    score_N: Tensor


def pack(rows: Sequence[Row], *, pad: int) -> Packed:
    """Rows padded on the right to the longest of them; scores are numbered row by row."""
    lengths = [len(row.prompt) + sum(map(len, row.responses)) for row in rows]
    width = max(lengths)
    ids_RT = torch.full((len(rows), width), pad)
    positions_RT = torch.zeros(len(rows), width, dtype=torch.long)
    segment_RT = torch.full((len(rows), width), -1)
    source: list[Tensor] = []
    target: list[Tensor] = []
    score: list[Tensor] = []
    for r, row in enumerate(rows):
        start = len(row.prompt)
        ids_RT[r, :start], segment_RT[r, :start] = row.prompt, 0
        positions_RT[r, :start] = torch.arange(start)
        for number, response in enumerate(row.responses, start=1):
            end = start + len(response)
            ids_RT[r, start:end], segment_RT[r, start:end] = response, number
            positions_RT[r, start:end] = len(row.prompt) + torch.arange(len(response))
            # The last token of the prompt predicts the first one of every response.
            before = torch.arange(start - 1, end - 1)
            before[0] = len(row.prompt) - 1
            source.append(r * width + before)
            target.append(response)
            score.append(torch.full((len(response),), len(score)))
            start = end
    causal_TT = torch.ones(width, width, dtype=torch.bool).tril()
    same_RTT = segment_RT[:, :, None] == segment_RT[:, None, :]
    sees_RTT = causal_TT & (same_RTT | (segment_RT[:, None, :] == 0))
    return Packed(ids_RT, positions_RT, ~sees_RTT, torch.cat(source), torch.cat(target), torch.cat(score))


def shared(vlm: VLM, rows: Sequence[Row]) -> Tensor:
    """Summed log-probability of every response, [S] in the order of rows, float32 or wider.

    Rows with an image and rows without are two forwards: padding the short ones to the image's length costs more.
    """
    seeing = [number for number, row in enumerate(rows) if "pixel_values" in row.inputs]
    blind = [number for number, row in enumerate(rows) if "pixel_values" not in row.inputs]
    if not seeing or not blind:
        return _shared(vlm, rows)
    found: list[Tensor] = [torch.empty(0)] * len(rows)
    for numbers in (seeing, blind):
        own = [rows[number] for number in numbers]
        scores = _shared(vlm, own).split([len(row.responses) for row in own])
        for number, of_row in zip(numbers, scores, strict=True):
            found[number] = of_row
    return torch.cat(found)


def _shared(vlm: VLM, rows: Sequence[Row]) -> Tensor:
    packed = Packed(*(t.to(vlm.device) for t in pack(rows, pad=vlm.reader.pad)))
    embeds_RTH = vlm.core.get_input_embeddings()(packed.ids_RT)
    pixels = [row.inputs for row in rows if "pixel_values" in row.inputs]
    if pixels:
        features_IH = vlm.image_features(pixels)
        places_RT1 = (packed.ids_RT == vlm.core.config.image_token_id)[..., None]
        embeds_RTH = embeds_RTH.masked_scatter(places_RT1, features_IH.to(embeds_RTH.dtype))
    bias_RTT = torch.zeros_like(packed.blocked_RTT, dtype=embeds_RTH.dtype)
    bias_RTT = bias_RTT.masked_fill(packed.blocked_RTT, torch.finfo(embeds_RTH.dtype).min)
    hidden_RTH = vlm.decoder(
        inputs_embeds=embeds_RTH, attention_mask=bias_RTT[:, None], position_ids=packed.positions_RT, use_cache=False
    ).last_hidden_state
    logits_NV = vlm.core.get_output_embeddings()(hidden_RTH.flatten(0, 1)[packed.source_N])
    logp_N = -_losses(logits_NV, packed.target_N)
    scores = sum(len(row.responses) for row in rows)
    return logp_N.new_zeros(scores).index_add(0, packed.score_N, logp_N)


def continued(vlm: VLM, rows: Sequence[Row]) -> Tensor:
    """The same for any decoder: prompts of one shape in one forward, then their responses from its cache.

    What is peculiar to a family, positions and masks among them, its own forward does.
    """
    groups: dict[Any, list[int]] = {}
    for number, row in enumerate(rows):
        shapes = tuple((name, tuple(value.shape)) for name, value in row.inputs.items())
        groups.setdefault((len(row.prompt), len(row.responses), shapes), []).append(number)
    outs: list[Any] = []
    target: list[Tensor] = []
    score: list[Tensor] = []
    first = [0, *itertools.accumulate(len(row.responses) for row in rows)]
    for numbers in groups.values():
        outs.append(_continued(vlm, [rows[number] for number in numbers]))
        for number in numbers:
            for place, response in enumerate(rows[number].responses):
                target.append(response)
                score.append(torch.full((len(response),), first[number] + place))
    logits_NV = _logits(vlm, _with(outs[-1], torch.cat([out[0] for out in outs])[None]))
    logp_N = -_losses(logits_NV, torch.cat(target).to(vlm.device))
    return logp_N.new_zeros(first[-1]).index_add(0, torch.cat(score).to(vlm.device), logp_N)


def _continued(vlm: VLM, rows: Sequence[Row]) -> Any:
    """The body's output with the hidden states that predict the responses' tokens, [N, H] response by response.

    Of rows with equally long prompts and equally many responses.
    """
    if hasattr(vlm.core.model, "rope_deltas"):
        # Of the pictures before: a prompt without one would go on from theirs.
        vlm.core.model.rope_deltas = None
    each, prompt = len(rows[0].responses), len(rows[0].prompt)
    inputs = vlm.placed({name: torch.cat([row.inputs[name] for row in rows]) for name in rows[0].inputs})
    ids_RT = torch.stack([row.prompt for row in rows]).to(vlm.device)
    responses = [response for row in rows for response in row.responses]
    target_ST = nn.utils.rnn.pad_sequence(responses, batch_first=True, padding_value=IGNORED).to(vlm.device)
    with _headless(vlm.core) as outs:
        vlm.core(input_ids=ids_RT, attention_mask=torch.ones_like(ids_RT), use_cache=True, **inputs)
        hidden_STH = outs[0][0][:, -1:].repeat_interleave(each, 0)
        if width := target_ST.shape[1] - 1:
            cache = outs[0].past_key_values
            cache.batch_repeat_interleave(each)
            own = {k: v.repeat_interleave(each, 0) for k, v in inputs.items() if k in CROSS and v.shape[1] == prompt}
            own = {k: v[:, prompt:] for k, v in vlm.reader.followed(own, prompt=prompt, tokens=width).items()}
            # No mask of padding: it stands behind every token that counts, so nothing that counts sees it.
            vlm.core(input_ids=target_ST[:, :-1].clamp(min=0), past_key_values=cache, use_cache=True, **own)
            hidden_STH = torch.cat([hidden_STH, outs[1][0]], 1)
    return _with(outs[0], hidden_STH[target_ST != IGNORED])


def _with(out: Any, hidden: Tensor) -> Any:
    """A body's output with other hidden states, and no cache."""
    return replace(out, **{next(iter(out)): hidden, "past_key_values": None})


@contextlib.contextmanager
def _headless(core: Any) -> Iterator[list[Any]]:
    """While it lasts, what the body of `core` gives is kept in the list, and its head gets no token."""
    kept: list[Any] = []

    def take(_module: nn.Module, _given: Any, out: Any) -> Any:
        kept.append(out)
        return _with(out, out[0][:, :0])

    handle = core.model.register_forward_hook(take)
    try:
        yield kept
    finally:
        handle.remove()


def _logits(vlm: VLM, out: Any) -> Tensor:
    """What the family's own forward makes of its body's output, scales and caps behind its head included, [N, V]."""
    body = vlm.core.model
    own = vars(body).get("forward")
    body.forward = lambda *_given, **_named: out
    try:
        return vlm.core(input_ids=torch.zeros(1, 1, dtype=torch.long, device=vlm.device), use_cache=False).logits[0]
    finally:
        if own is None:
            del body.forward
        else:
            body.forward = own


def separate(vlm: VLM, rows: Sequence[Row]) -> Tensor:
    """The same by a full forward for each response: what the other ways must equal, and what checkpointing needs."""
    found = []
    for row in rows:
        for response in row.responses:
            ids = torch.cat([row.prompt, response])[None].to(vlm.device)
            extra = vlm.reader.followed(vlm.placed(row.inputs), prompt=len(row.prompt), tokens=len(response))
            logits_TV = vlm.core(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, **extra).logits[0]
            found.append(-_losses(logits_TV[len(row.prompt) - 1 : -1], ids[0, len(row.prompt) :]).sum())
    return torch.stack(found)


def _losses(logits_NV: Tensor, target_N: Tensor) -> Tensor:
    # In float32 at least: sums over tokens of a log-softmax in half precision are off by whole nats.
    logits_NV = logits_NV if logits_NV.dtype == torch.float64 else logits_NV.float()
    return nn.functional.cross_entropy(logits_NV, target_N, reduction="none", ignore_index=IGNORED)


WAYS = {"shared": shared, "continued": continued, "separate": separate}


def scores_of(vlm: VLM, rows: Sequence[Row]) -> Tensor:
    """[S], by the way that was found right for the model."""
    way = vlm.way
    if way == "continued" and vlm.training and vlm.recomputes:
        way = "separate"
    return WAYS[way](vlm, rows)


def pair_scores(vlm: VLM, pairs: Sequence[Encoded], needs: Sequence[str]) -> dict[str, Tensor]:
    """The scores that `needs` names (`losses.SCORES`), [B] each."""
    rows, order = [], []
    for image in ("w", "l", "n"):
        if names := [score for score in needs if score[0] == image]:
            for pair in pairs:
                responses = [getattr(pair, f"response_{score[1]}") for score in names]
                rows.append(Row(getattr(pair, f"prompt_{image}"), getattr(pair, f"inputs_{image}"), responses))
                order += names
    values = scores_of(vlm, rows)
    return {name: values[[i for i, o in enumerate(order) if o == name]] for name in dict.fromkeys(order)}


def response_tokens(pairs: Sequence[Encoded], *, like: Tensor) -> dict[str, Tensor]:
    """Tokens of the responses w and l, [B]."""
    return {side: like.new_tensor([len(getattr(p, f"response_{side}")) for p in pairs]) for side in ("w", "l")}

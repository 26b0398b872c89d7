"""Log-probabilities of responses under images, without doing anything twice.

A row is one prompt (an image and a question, or the question alone) followed by all of its responses; each response sees
the prompt and itself, not the other ones, and its positions go on from the prompt. So an image passes the vision tower
once, a prompt passes the decoder once, and logits are made for response tokens only.

Shape legend: R rows of T tokens, N response tokens of all rows, S scores, H hidden width, V words.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from datamodules.scenes.reader import Encoded
from lightning_modules.svco.models import SHARED, VLM


class Row(NamedTuple):
    """Prompt ids [P], the processor's tensors of its image ({}: none), and its responses' ids [..]."""

    prompt: Tensor
    inputs: dict[str, Tensor]
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
    source, target, score = [], [], []
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
    """Summed log-probability of every response, [S] in the order of rows, float32 or wider."""
    packed = Packed(*(t.to(vlm.device) for t in pack(rows, pad=vlm.reader.pad)))
    embeds_RTH = vlm.core.get_input_embeddings()(packed.ids_RT)
    pixels = [row.inputs for row in rows if row.inputs]
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
    # In float32 at least: sums over tokens of a log-softmax in half precision are off by whole nats.
    logits_NV = logits_NV if logits_NV.dtype == torch.float64 else logits_NV.float()
    logp_N = -torch.nn.functional.cross_entropy(logits_NV, packed.target_N, reduction="none")
    scores = sum(len(row.responses) for row in rows)
    return logp_N.new_zeros(scores).index_add(0, packed.score_N, logp_N)


def separate(vlm: VLM, rows: Sequence[Row]) -> Tensor:
    """The same by a full forward for each response: any family, and what `shared` must equal."""
    found = []
    for row in rows:
        for response in row.responses:
            ids = torch.cat([row.prompt, response])[None].to(vlm.device)
            extra = vlm.placed(row.inputs)
            for name in ("mm_token_type_ids", "token_type_ids"):
                if name in extra:
                    extra[name] = torch.cat([extra[name], extra[name].new_zeros(1, len(response))], 1)
            logits_TV = vlm.core(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, **extra).logits[0]
            logits_TV = logits_TV[len(row.prompt) - 1 : -1]
            logits_TV = logits_TV if logits_TV.dtype == torch.float64 else logits_TV.float()
            found.append(-torch.nn.functional.cross_entropy(logits_TV, ids[0, len(row.prompt) :], reduction="sum"))
    return torch.stack(found)


def scores_of(vlm: VLM, rows: Sequence[Row]) -> Tensor:
    """[S], by sharing where the family allows it."""
    return shared(vlm, rows) if vlm.family in SHARED else separate(vlm, rows)


def pair_scores(vlm: VLM, pairs: Sequence[Encoded], needs: Sequence[str]) -> dict[str, Tensor]:
    """The scores that `needs` names (`losses.SCORES`), [B] each.

    Rows with an image and rows without are two forwards: padding the short ones to the image's length costs more.
    """
    found = {}
    for images in (("w", "l"), ("n",)):
        wanted = [(image, [s for s in needs if s[0] == image]) for image in images]
        wanted = [(image, names) for image, names in wanted if names]
        rows, order = [], []
        for image, names in wanted:
            for pair in pairs:
                inputs = getattr(pair, f"inputs_{image}") if image != "n" else {}
                responses = [getattr(pair, f"response_{s[1]}") for s in names]
                rows.append(Row(getattr(pair, f"prompt_{image}"), inputs, responses))
                order += names
        if rows:
            values = scores_of(vlm, rows)
            for _, names in wanted:
                for name in names:
                    found[name] = values[[i for i, o in enumerate(order) if o == name]]
    return found


def response_tokens(pairs: Sequence[Encoded], *, like: Tensor) -> dict[str, Tensor]:
    """Tokens of the responses w and l, [B]."""
    return {side: like.new_tensor([len(getattr(p, f"response_{side}")) for p in pairs]) for side in ("w", "l")}

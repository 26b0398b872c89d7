"""The last layer of BERT's kin at the asked positions alone: there one query a text is all that its head reads.

Shape legend: B examples, T positions, W asked positions, H hidden width, N heads, D width of a head.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

# Families whose last layer is attention, then a feed-forward block that sees each position by itself.
LEAN = ("bert", "roberta", "xlm-roberta")


def can_ask_alone(model: Any) -> bool:
    """Whether `asked_alone` computes what the model's own attention does: its kernel is torch's, and texts are read both
    ways."""
    config = model.config
    return config.model_type in LEAN and config._attn_implementation == "sdpa" and not config.is_decoder


@contextlib.contextmanager
def asked_alone(layer: Any, asked: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """While it lasts, `layer.attention` answers with [B, W, H]; equal to its own answer there up to rounding.

    Keys and values are those of all positions. asked: takes [B, T, X] to [B, W, X]. Nothing is left behind, whatever is
    raised inside.
    """
    attention = layer.attention.self

    def heads(found: Tensor) -> Tensor:
        return found.unflatten(-1, (-1, attention.attention_head_size)).transpose(1, 2)

    def forward(hidden_BTH: Tensor, *, attention_mask: Tensor | None = None, **_: Any) -> tuple[Tensor, None]:
        query_BNWD = heads(attention.query(asked(hidden_BTH)))
        key_BNTD, value_BNTD = heads(attention.key(hidden_BTH)), heads(attention.value(hidden_BTH))
        if attention_mask is not None:
            # [B, 1, T, T] or one row for all queries.
            rows = attention_mask[:, 0].expand(len(hidden_BTH), hidden_BTH.shape[1], -1)
            attention_mask = asked(rows)[:, None]
        found_BNWD = nn.functional.scaled_dot_product_attention(
            query_BNWD, key_BNTD, value_BNTD, attn_mask=attention_mask, scale=attention.scaling
        )
        return found_BNWD.transpose(1, 2).flatten(2), None

    residual = layer.attention.output.register_forward_pre_hook(lambda _m, args: (args[0], asked(args[1])))
    attention.forward = forward
    try:
        yield
    finally:
        del attention.forward
        residual.remove()

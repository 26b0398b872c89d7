"""Causal attention for transformers' models that makes no mask, so that the host need not look at one.

Shape legend: B sequences of S tokens.
"""

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

CAUSAL = "causal_sdpa"
# The same kernels as `sdpa`, but under a name for which transformers makes no mask: to see whether it can do without one
# it reads every forward's position ids back from the device, and when compiled it makes one in any case.
ALL_ATTENTION_FUNCTIONS.register(CAUSAL, sdpa_attention_forward)


def mask_for(model: PreTrainedModel, valid_BS: Tensor | None) -> Tensor | None:
    """What `model` takes as attention_mask where `valid_BS` says which tokens are no padding; None: all are."""
    if valid_BS is None or model.config._attn_implementation != CAUSAL:
        return valid_BS
    length = valid_BS.shape[1]
    causal_SS = torch.ones(length, length, dtype=torch.bool, device=valid_BS.device).tril()
    return causal_SS & valid_BS.bool()[:, None, None, :]


def narrower(config: PretrainedConfig) -> str:
    """How a model's layers see otherwise than every token all before it; '' where they do not."""
    config = config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    if kinds == {"full_attention"} and not window:
        return ""
    return f"layers of {', '.join(sorted(kinds))}{f' and a window of {window} tokens' if window else ''}"


def apart(model: PreTrainedModel, document_BS: Tensor) -> dict[str, Tensor]:
    """What `model` is called with so that a token sees its own document alone and positions begin anew in each.

    document_BS: the number of each token's document, ascending. ValueError for a model that could not.
    """
    way, otherwise = model.config._attn_implementation, narrower(model.config)
    if otherwise or way not in (CAUSAL, "sdpa", "eager"):
        raise ValueError(
            f"data.documents=apart: {model.config.get_text_config().model_type} has {otherwise or 'full attention'} with "
            f"model.attention={way}; expected full attention by sdpa or eager, or data.documents=joined."
        )
    length = document_BS.shape[1]
    same_BSS = document_BS[:, :, None] == document_BS[:, None, :]
    sees_B1SS = (same_BSS & torch.ones_like(same_BSS[0]).tril())[:, None]
    if way == "eager":
        sees_B1SS = torch.zeros_like(sees_B1SS, dtype=model.dtype).masked_fill(~sees_B1SS, torch.finfo(model.dtype).min)
    place_S = torch.arange(length, device=document_BS.device)
    begins_BS = torch.ones_like(document_BS, dtype=torch.bool)
    begins_BS[:, 1:] = document_BS[:, 1:] != document_BS[:, :-1]
    begin_BS = torch.where(begins_BS, place_S, 0).cummax(1).values
    return {"attention_mask": sees_B1SS, "position_ids": place_S - begin_BS}

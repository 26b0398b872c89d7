"""Causal attention for transformers' models that makes no mask, so that the host need not look at one.

Shape legend: B sequences of S tokens.
"""

import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

CAUSAL = "causal_sdpa"
# The same kernels as `sdpa`, but under a name for which transformers makes no mask: to see whether it can do without one
# it reads every forward's position ids back from the device, and when compiled it makes one in any case.
ALL_ATTENTION_FUNCTIONS.register(CAUSAL, sdpa_attention_forward)


def mask_for(model: nn.Module, valid_BS: Tensor | None) -> Tensor | None:
    """What `model` takes as attention_mask where `valid_BS` says which tokens are no padding; None: all are."""
    if valid_BS is None or model.config._attn_implementation != CAUSAL:
        return valid_BS
    length = valid_BS.shape[1]
    causal_SS = torch.ones(length, length, dtype=torch.bool, device=valid_BS.device).tril()
    return causal_SS & valid_BS.bool()[:, None, None, :]

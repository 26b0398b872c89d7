"""torch.compile for the body of a mixture of experts, whole or not at all."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


def compiled(body: nn.Module) -> Callable[..., Any]:
    """What calls `body` as one graph. torch raises where there would be a second one: each break costs what it saves."""
    # The tap notes what routers choose in the first forward; under activation checkpointing it does not ask the second.
    torch._dynamo.config.skip_fwd_side_effects_in_bwd_under_checkpoint = True

    def call(**inputs: Any) -> Any:
        return body(**inputs)

    return torch.compile(call, fullgraph=True)

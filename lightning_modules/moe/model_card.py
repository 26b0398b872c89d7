"""The page of an exported mixture: what it is, what it learned from, and what its run measured."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from lightning_modules.common.tables import markdown
from lightning_modules.moe.models import count_parameters

# What a user of the model asks first; curves of training and the machine's are not among them.
SHOWN = ("test/", "val/", "moe/")
FRONT = """
---
library_name: transformers
pipeline_tag: text-generation
tags: [mixture-of-experts, load-balancing, facet]
---
"""


def card(
    model: nn.Module,
    *,
    metrics: Mapping[str, float],
    steps: int,
    data: list[dict[str, Any]],
    training: Mapping[str, Any],
) -> str:
    """README.md in the hub's form. data: the corpus's datasheet; training: settings by name."""
    config: Any = model.config
    counts = count_parameters(model)
    shown = [[name, f"{value:.4g}"] for name, value in sorted(metrics.items()) if name.startswith(SHOWN)]
    parts = [
        FRONT,
        f"# {config.model_type}, {counts['total']:,} parameters, {counts['active']:,} active a token",
        f"A mixture of experts trained by Facet for {steps:,} steps. It generates and is fine-tuned as any causal language "
        "model of transformers; its end-of-text token stands between documents and is also the padding.",
        "`router_aux_loss_coef` is the weight of the run's load-balancing loss divided by the experts a token goes to, as "
        "transformers' loss is that many times as large, and times the layers where the run's is their sum; it is added "
        "where `output_router_logits=True` is asked for, over the micro-batch and over all layers at once.",
        "## Training",
        markdown(["setting", "value"], [[name, value] for name, value in training.items()]),
        "## Text",
        markdown(list(data[0]), [list(row.values()) for row in data]) if data else "Not known.",
        "## Measured by the run",
        markdown(["metric", "value"], shown) if shown else "Nothing.",
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"

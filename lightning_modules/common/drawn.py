"""Weights that a checkpoint lacks: transformers draws them at random, other numbers at each load, and goes on."""

from collections.abc import Container
from typing import Any


def refuse_drawn(model: Any, missing: Container[str], *, said: str, instead: str = "") -> None:
    """ValueError where parameters of a loaded model are among the `missing_keys` that transformers tells.

    said: key and name, `backbone.name=FOLDER`. instead: what else could be asked for.
    """
    if drawn := [name for name, _ in model.named_parameters() if name in missing]:
        raise ValueError(
            f"{said}: holds {', '.join(model.config.architectures or ['no class'])}, without {len(drawn)} of the weights of "
            f"{type(model).__name__} ({drawn[0]} is one), which would be drawn at random; expected a checkpoint with all of "
            f"them{instead}."
        )

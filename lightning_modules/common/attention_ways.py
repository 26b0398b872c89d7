"""The way of attention that a config asks for, where a family of transformers lacks it."""

import contextlib
from collections.abc import Iterator


class AttentionError(ValueError):
    """A model without the way of attention that is asked for."""


@contextlib.contextmanager
def known(attention: str) -> Iterator[None]:
    """AttentionError naming model.attention where a family lacks that way, or a package that it needs is not there."""
    try:
        yield
    except (ValueError, ImportError) as error:
        said = str(error)
        if (
            "attention implementation" not in said
            and "attn_implementation" not in said
            and "FlashAttention" not in said
        ):
            raise
        reason = said.split(". ")[0].split(" Please ")[0].rstrip(".")
        raise AttentionError(
            f"model.attention={attention} is not to be had: {reason}. Expected another way; model.attention=eager is there "
            "for every family."
        ) from None

"""What of a text a tokenizer takes for a token of its own, such as an end of text or a mask, and for no word."""

import re
from typing import Any


def marks_of(tokenizer: Any) -> re.Pattern[str]:
    """Finds them, the longest where several begin."""
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    every = {token.content for token in added if token.special}
    return re.compile("|".join(map(re.escape, sorted(every, key=len, reverse=True))) or r"(?!)")

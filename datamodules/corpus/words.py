"""What text is cut into: the words of a byte-level BPE trained on the corpus, or of a model's own tokenizer."""

import itertools
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from lightning_modules.common.digests import digest
from lightning_modules.common.files import sha256
from lightning_modules.common.say import reason

END = "<|endoftext|>"
# Texts that are read, and told to a tokenizer, at once.
BATCH = 256


def trained_on(texts: Iterable[str], *, vocab_size: int) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END)


def loaded(name: str, *, revision: str | None) -> Any:
    """The tokenizer at `name`, a folder or hub name. ValueError when there is none, or it has no end of text."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            name, revision=revision, trust_remote_code=False, local_files_only=Path(name).is_dir()
        )
    except Exception as error:
        raise ValueError(
            f"data.tokenizer={name}: not loaded ({reason(error)}). Expected a folder that holds a tokenizer, "
            "or a hub name with the network or its cache at hand; data.tokenizer=OTHER names another one than the model's."
        ) from None
    if tokenizer.is_fast:
        # The first call puts away what it was saved with, and its digest would be another one from then on.
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
    if tokenizer.eos_token_id is None:
        raise ValueError(
            f"data.tokenizer={name} has no end-of-text token (eos_token), which stands between documents; "
            "set one in its tokenizer_config.json."
        )
    return tokenizer


def rows_of(tokenizer: Any) -> int:
    """Rows that an embedding of its words has at least: there may be more than words, where numbers are left out."""
    return max(tokenizer.get_vocab().values()) + 1


def digest_of(tokenizer: Any) -> str:
    """Of all that decides which ids a text becomes."""
    backend = tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else _written(tokenizer)
    # Whether a mark within a text is a token of its own stands in no backend.
    split = [True] * bool(tokenizer.split_special_tokens)
    return digest([type(tokenizer).__name__, backend, tokenizer.eos_token_id, *split])


def _written(tokenizer: Any) -> dict[str, str]:
    """The files of a tokenizer in Python: its words alone tell neither its merges nor what it does to a text before."""
    with tempfile.TemporaryDirectory() as folder:
        saved(tokenizer, Path(folder))
        return {path.name: sha256(path) for path in sorted(Path(folder).iterdir())}


def encoded(tokenizer: Any, texts: Iterable[str]) -> Iterator[list[int]]:
    """The ids of each text, its end behind it."""
    left = iter(texts)
    while batch := list(itertools.islice(left, BATCH)):
        for ids in tokenizer(batch, add_special_tokens=False, verbose=False)["input_ids"]:
            yield [*ids, tokenizer.eos_token_id]


def saved(tokenizer: Any, folder: Path) -> None:
    """save_pretrained, with the OSError that the tokenizers library hides in a bare Exception."""
    try:
        tokenizer.save_pretrained(folder)
    except Exception as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error

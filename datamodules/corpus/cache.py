"""The token cache: documents split, a BPE tokenizer trained on the training split, token files to memory-map.

Documents stream: memory does not grow with the corpus.
"""

import itertools
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from datamodules.corpus.sources import Source
from lightning_modules.common.digests import digest, number_of
from lightning_modules.common.made import made

SPLITS = ("train", "val", "test")
SPLIT_RULE = "sha256 of the document mod 100: 0-4 test, 5-9 val, else train; equal documents once a domain"
END = "<|endoftext|>"
CACHE_VERSION = 1
BATCH = 256


def split_of(document: str) -> str:
    """The split a document belongs to, by its text alone."""
    bucket = number_of(document, size=4) % 100
    return "test" if bucket < 5 else "val" if bucket < 10 else "train"


def folder_of(*, source: Source, vocab_size: int, folder: Path) -> Path:
    """Where the cache of `source` stands under `folder`: a hash of everything the tokens depend on."""
    return folder / digest(_key(source, vocab_size))


def _key(source: Source, vocab_size: int) -> list[Any]:
    return [CACHE_VERSION, SPLIT_RULE, vocab_size, source.description()]


def build(*, source: Source, vocab_size: int, folder: Path) -> Path:
    """The finished cache of `source` under `folder`; built when missing, checked when there."""
    return made(
        folder=folder,
        key=_key(source, vocab_size),
        make=lambda place: _write(source=source, vocab_size=vocab_size, folder=place),
    )


def _write(*, source: Source, vocab_size: int, folder: Path) -> dict[str, Any]:
    """The files; returns what the manifest tells of them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, transient=True) as progress:
        task = progress.add_task("corpus: reading documents", total=None)
        counts = _spool(source, folder)
        progress.update(task, description="corpus: training the tokenizer")
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[END],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        training = itertools.chain.from_iterable(_read_spool(folder, "train", d) for d in counts)
        tokenizer.train_from_iterator(training, trainer)
        fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END)
        _save_tokenizer(fast, folder / "tokenizer")
        end = tokenizer.token_to_id(END)
        tokens: dict[str, dict[str, int]] = {}
        for domain in counts:
            progress.update(task, description=f"corpus: encoding {domain}")
            tokens[domain] = {}
            for split in SPLITS:
                with open(folder / f"{split}-{domain}.bin", "wb") as file:
                    tokens[domain][split] = 0
                    for batch in _batches(_read_spool(folder, split, domain)):
                        for encoding in tokenizer.encode_batch(batch, add_special_tokens=False):
                            ids: np.ndarray = np.asarray([*encoding.ids, end], dtype=_dtype(vocab_size))
                            file.write(ids.tobytes())
                            tokens[domain][split] += len(ids)
        shutil.rmtree(folder / "spool")
    return {
        "domains": list(counts),
        "documents": counts,
        "tokens": tokens,
        "vocab_size": len(fast),
        "dtype": np.dtype(_dtype(vocab_size)).name,
        "source": source.description(),
        "split": SPLIT_RULE,
    }


def _save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """save_pretrained, with the OSError that the tokenizers library hides in a bare Exception."""
    try:
        tokenizer.save_pretrained(folder)
    except Exception as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error


def _spool(source: Source, folder: Path) -> dict[str, dict[str, int]]:
    """One pass over the source: documents to a file per split and domain, each text once. Counts of documents."""
    (folder / "spool").mkdir()
    counts: dict[str, dict[str, int]] = {}
    seen: set[int] = set()
    for domain, texts in source.documents().items():
        counts[domain] = dict.fromkeys(SPLITS, 0)
        files = {split: open(folder / "spool" / f"{split}-{domain}", "w", encoding="utf-8") for split in SPLITS}  # noqa: SIM115
        for text in texts:
            number = number_of(text, size=12)
            if not text.strip() or number in seen:
                continue
            seen.add(number)
            split = split_of(text)
            files[split].write(json.dumps(text) + "\n")
            counts[domain][split] += 1
        for file in files.values():
            file.close()
        if not counts[domain]["train"]:
            raise ValueError(f"domain {domain!r} has no training document; bring more text for it.")
    return counts


def _read_spool(folder: Path, split: str, domain: str) -> Iterator[str]:
    with open(folder / "spool" / f"{split}-{domain}", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    iterator = iter(texts)
    while batch := list(itertools.islice(iterator, BATCH)):
        yield batch


def _dtype(vocab_size: int) -> type:
    return np.uint16 if vocab_size <= 2**16 else np.uint32

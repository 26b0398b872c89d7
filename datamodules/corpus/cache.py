"""The token cache: documents split, a BPE tokenizer trained on the training split, token files to memory-map.

A cache is built in a folder beside its target and renamed into place with manifest.json written last, so a reader
never sees half of one. Documents stream: memory does not grow with the corpus.
"""

import errno
import hashlib
import itertools
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from datamodules.corpus.sources import Source
from datamodules.fetch import sha256

SPLITS = ("train", "val", "test")
SPLIT_RULE = "sha256 of the document mod 100: 0-4 test, 5-9 val, else train; equal documents once a domain"
END = "<|endoftext|>"
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
CACHE_VERSION = 1
BATCH = 256


def split_of(document: str) -> str:
    """The split a document belongs to, by its text alone."""
    bucket = int.from_bytes(_digest(document)[:4], "big") % 100
    return "test" if bucket < 5 else "val" if bucket < 10 else "train"


def _digest(document: str) -> bytes:
    return hashlib.sha256(document.encode("utf-8", "surrogatepass")).digest()


def cache_key(description: dict[str, Any], vocab_size: int) -> str:
    """Name of the cache folder: a hash of everything the tokens depend on."""
    text = json.dumps([CACHE_VERSION, SPLIT_RULE, vocab_size, description], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def build(*, source: Source, vocab_size: int, folder: Path) -> Path:
    """The finished cache of `source` under `folder`; built when missing, checked when there."""
    target = folder / cache_key(source.description(), vocab_size)
    if not (target / "manifest.json").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(dir=folder, prefix="building-"))
        try:
            _write(source=source, vocab_size=vocab_size, folder=beside)
            try:
                os.rename(beside, target)
            except OSError:
                # Another process was faster; what it wrote is the same.
                if not (target / "manifest.json").is_file():
                    raise
        except OSError as error:
            if error.errno not in FULL_DISK:
                raise
            free = shutil.disk_usage(folder).free
            raise OSError(
                error.errno,
                f"the disk is full ({os.strerror(error.errno)}, {free:,} bytes free) while the token cache was written "
                f"under {folder}; nothing half-written is left. Free some space, set paths.cache, or lower the budget.",
            ) from None
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    verify(target)
    return target


def verify(folder: Path) -> dict[str, Any]:
    """The manifest of a cache whose every file has the checksum written there; else ValueError naming the file."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for name, expected in manifest["sha256"].items():
        found = sha256(folder / name) if (folder / name).is_file() else "missing"
        if found != expected:
            raise ValueError(
                f"{folder / name} is damaged: its SHA-256 is {found}, the manifest says {expected}. "
                f"Delete the folder {folder}; the next run builds it again."
            )
    return manifest


def _write(*, source: Source, vocab_size: int, folder: Path) -> None:
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
                            ids = np.asarray([*encoding.ids, end], dtype=_dtype(vocab_size))
                            file.write(ids.tobytes())
                            tokens[domain][split] += len(ids)
        shutil.rmtree(folder / "spool")
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    manifest = {
        "domains": list(counts),
        "documents": counts,
        "tokens": tokens,
        "vocab_size": len(fast),
        "dtype": np.dtype(_dtype(vocab_size)).name,
        "source": source.description(),
        "split": SPLIT_RULE,
        "sha256": {str(p.relative_to(folder)): sha256(p) for p in files},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True))


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
    seen: set[bytes] = set()
    for domain, texts in source.documents().items():
        counts[domain] = dict.fromkeys(SPLITS, 0)
        files = {split: open(folder / "spool" / f"{split}-{domain}", "w", encoding="utf-8") for split in SPLITS}  # noqa: SIM115
        for text in texts:
            digest = _digest(text)[:12]
            if not text.strip() or digest in seen:
                continue
            seen.add(digest)
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

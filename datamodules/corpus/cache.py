"""The token cache: documents split, a BPE tokenizer trained on the training split, token files to memory-map.

Documents stream: memory does not grow with the corpus.
"""

import contextlib
import json
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from datamodules.corpus import words
from datamodules.corpus.sources import Source, read_kept
from datamodules.marks import marks_of
from lightning_modules.common.digests import number_of
from lightning_modules.common.made import made, place_of
from lightning_modules.common.say import say

SPLITS = ("train", "val", "test")
SPLIT_RULE = "sha256 of the document mod 100: 0-4 test, 5-9 val, else train; equal documents once a domain"
CACHE_VERSION = 1
# Seconds between two lines where there is no terminal.
PAUSE = 30.0


def split_of(document: str) -> str:
    """The split a document belongs to, by its text alone."""
    bucket = number_of(document, size=4) % 100
    return "test" if bucket < 5 else "val" if bucket < 10 else "train"


def folder_of(*, source: Source, vocab_size: int, folder: Path, tokenizer: Any = None) -> Path:
    """Where the cache of `source` stands under `folder`: a hash of everything the tokens depend on."""
    return place_of(folder=folder, key=_key(source, vocab_size, tokenizer))


def _key(source: Source, vocab_size: int, tokenizer: Any) -> list[Any]:
    cut_by = vocab_size if tokenizer is None else {"tokenizer": words.digest_of(tokenizer)}
    return [CACHE_VERSION, SPLIT_RULE, cut_by, source.description()]


def build(*, source: Source, vocab_size: int, folder: Path, tokenizer: Any = None) -> None:
    """The cache of `source` under `folder`: built when missing, checked when there.

    tokenizer: what cuts it; None trains one of `vocab_size` words on the training split. What a source keeps while it is
    read lies beside the cache until that is made.
    """
    key = _key(source, vocab_size, tokenizer)
    reading = place_of(folder=folder, key=key).with_suffix(".reading")
    if hasattr(source, "reading"):
        source.reading = reading
    made(folder=folder, key=key, make=lambda place: _write(source, vocab_size, place, tokenizer))
    shutil.rmtree(reading, ignore_errors=True)


def _write(source: Source, vocab_size: int, folder: Path, tokenizer: Any) -> dict[str, Any]:
    """The files; returns what the manifest tells of them."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    console, spoke = Console(), -PAUSE
    bar = Progress(*columns, console=console, transient=True)
    task = bar.add_task("corpus: reading documents", total=None)

    def at(description: str, **state: Any) -> None:
        """On the bar, or where there is no terminal in a line every half minute."""
        nonlocal spoke
        bar.update(task, description=description, **state)
        if not console.is_terminal and time.perf_counter() - spoke > PAUSE:
            spoke = time.perf_counter()
            say(f"{description}.")

    # It would leave an empty line in a file.
    with bar if console.is_terminal else contextlib.nullcontext():
        at("corpus: reading documents")

        def tell(domain: str, read: int, tokens: int, budget: dict[str, int]) -> None:
            """How much is read, and of how much where there is a budget."""
            unit = "tokens" if "tokens" in budget else "documents"
            done, most = tokens if unit == "tokens" else read, budget.get(unit)
            told = f"corpus: reading {domain}, {done:,}{f' of {most:,}' if most else ''} {unit}"
            at(told, completed=done, total=most)

        about = _spool(source, folder, tell, tokenizer)
        domains = list(about["documents"])
        if tokenizer is None:
            at("corpus: training the tokenizer", completed=0, total=None)
            training = (text for domain in domains for text in read_kept(folder / "spool" / f"train-{domain}"))
            tokenizer = words.trained_on(training, vocab_size=vocab_size)
        words.saved(tokenizer, folder / "tokenizer")
        dtype = np.uint16 if max(vocab_size, len(tokenizer)) <= 2**16 else np.uint32
        tokens: dict[str, dict[str, int]] = {}
        for domain in domains:
            at(f"corpus: encoding {domain}", completed=0, total=None)
            tokens[domain] = {}
            for split in SPLITS:
                with open(folder / f"{split}-{domain}.bin", "wb") as file:
                    tokens[domain][split] = 0
                    for ids in words.encoded(tokenizer, read_kept(folder / "spool" / f"{split}-{domain}")):
                        file.write(np.asarray(ids, dtype=dtype).tobytes())
                        tokens[domain][split] += len(ids)
        shutil.rmtree(folder / "spool")
    return {
        **about,
        "domains": domains,
        "tokens": tokens,
        "vocab_size": len(tokenizer),
        "dtype": np.dtype(dtype).name,
        "source": source.description(),
        "split": SPLIT_RULE,
    }


def _spool(
    source: Source, folder: Path, tell: Callable[[str, int, int, dict[str, int]], None], tokenizer: Any
) -> dict[str, Any]:
    """One pass over the source: documents to a file per split and domain, each text once, up to a budget of tokens.

    Of the manifest: counts of documents by domain and split, of those left out by domain and reason; sentences to warn by.
    """
    (folder / "spool").mkdir()
    counts: dict[str, dict[str, int]] = {}
    left_out: dict[str, Counter[str]] = {}
    seen: dict[int, str] = {}
    # A tokenizer that is trained on the text has this one.
    marks = re.compile(re.escape(words.END)) if tokenizer is None else marks_of(tokenizer)
    held: list[str] = []
    for domain, texts in source.documents().items():
        counts[domain] = dict.fromkeys(SPLITS, 0)
        files = {split: open(folder / "spool" / f"{split}-{domain}", "w", encoding="utf-8") for split in SPLITS}  # noqa: SIM115
        budget, tokens = getattr(source, "budgets", {}).get(domain, {}), 0
        marked = Counter[str]()
        for read, text in enumerate(texts, 1):
            if read % words.BATCH == 0:
                tell(domain, read, tokens, budget)
            number = number_of(text, size=12)
            if not text.strip() or number in seen:
                elsewhere = "there already" if seen.get(number) == domain else f"there already in {seen.get(number)}"
                left_out.setdefault(domain, Counter())[elsewhere if text.strip() else "empty"] += 1
                continue
            seen[number] = domain
            split = split_of(text)
            files[split].write(json.dumps(text) + "\n")
            counts[domain][split] += 1
            if found := marks.search(text):
                marked[found[0]] += 1
            if "tokens" in budget:
                tokens += sum(map(len, words.encoded(tokenizer, [text])))
                if tokens >= budget["tokens"]:
                    break
        for file in files.values():
            file.close()
        if marked:
            mark = marked.most_common(1)[0][0]
            held.append(
                f"{marked.total():,} documents of {domain} hold {mark!r} or the like, which the tokenizer takes for a token "
                "of its own and no text. Where it parts documents, part them; else take it out."
            )
        if not counts[domain]["train"]:
            raise ValueError(f"domain {domain!r} has no training document; bring more text for it.")
    return {"documents": counts, "left_out": left_out, "warnings": [*getattr(source, "warnings", []), *held]}

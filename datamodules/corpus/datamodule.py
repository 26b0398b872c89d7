"""The corpus as a LightningDataModule: windows of tokens from memory-mapped files, in an exact order.

Shape legend: B sequences of a forward, S tokens of a sequence, N multiple-choice items, P prompt tokens, W tokens of
a continuation.
"""

from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from datamodules.corpus import cache, words
from datamodules.corpus.folder import FolderSource
from datamodules.corpus.hub import HubSource
from datamodules.corpus.sources import Source
from datamodules.intake import Intake
from datamodules.order import ORDER_VERSION
from datamodules.ordered import Batch, Batches, OrderedDataModule
from lightning_modules.common.bounds import Count, Whole
from lightning_modules.common.choices import check_choice
from lightning_modules.common.digests import digest
from lightning_modules.common.made import manifest

# Of a domain with fewer test windows the numbers say little.
FEW = 16
DOCUMENTS = ("joined", "apart")


def windows_of(tokens: int, seq_len: int) -> int:
    """A window's targets are its tokens but the first, and one more."""
    return max(0, (tokens - 1) // seq_len)


class Windows(Batches):
    """Windows of S + 1 tokens, stride S, of every domain of a split; window w of domain d is sum(sizes[:d]) + w."""

    def __init__(self, *, folder: Path, split: str, seq_len: int, end: int | None = None) -> None:
        """end: the token behind each document, where a token shall see its own document alone; None: all before it."""
        self.manifest = manifest(folder)
        self.seq_len, self.end = seq_len, end
        paths = [folder / f"{split}-{domain}.bin" for domain in self.manifest["domains"]]
        # numpy maps no empty file.
        self._tokens = [
            np.memmap(p, dtype=self.manifest["dtype"], mode="r") if p.stat().st_size else np.empty(0, np.uint16)
            for p in paths
        ]
        self.sizes = [windows_of(len(tokens), seq_len) for tokens in self._tokens]
        self._ends = np.cumsum(self.sizes)
        self._begins = self._ends - self.sizes

    def window(self, index: int) -> tuple[np.ndarray, int]:
        """(tokens int64 [S + 1], domain)."""
        domain = int(np.searchsorted(self._ends, index, side="right"))
        start = (index - int(self._begins[domain])) * self.seq_len
        return self._tokens[domain][start : start + self.seq_len + 1].astype(np.int64), domain

    def __getitems__(self, indices: list[int]) -> Batch:
        """A whole batch at once; the DataLoader asks this way."""
        rows, domains = zip(*(self.window(i) for i in indices), strict=True)
        text_BS = torch.from_numpy(np.stack(rows))
        batch = {"input_ids": text_BS[:, :-1], "targets": text_BS[:, 1:], "domain": torch.tensor(domains)}
        if self.end is None:
            return batch
        ends_BS = batch["input_ids"] == self.end
        # What follows an end is of another document, and nothing in this one tells it.
        return {**batch, "document": ends_BS.cumsum(1) - ends_BS.long(), "target_mask": ~ends_BS}

    def spread(self, per_domain: int) -> list[np.ndarray]:
        """Up to `per_domain` windows of each domain, evenly spaced."""
        return [
            begin + np.unique(np.linspace(0, size - 1, min(per_domain, size)).astype(np.int64))
            for begin, size in zip(self._begins, self.sizes, strict=True)
        ]


class CorpusDataModule(OrderedDataModule[Windows]):
    """Training in the order of `datamodules.order`; fixed, evenly spaced windows for validation and test.

    Args:
        source: where documents come from (`datamodules.corpus.sources`).
        cache_dir: git-ignored folder of token caches.
        vocab_size: of the byte-level BPE tokenizer trained on the training split, where `tokenizer` is None.
        tokenizer: a model's, by folder or hub name, and its revision there; it must tell where a document ends (EOS).
        seq_len: S.
        micro_batch: sequences of one micro-batch, m.
        global_batch: sequences of one optimizer step over ranks and accumulation.
        layout: `homogeneous` or `mixed` micro-batches.
        documents: `joined`: a token sees all of its window that is before it; `apart`: of its own document alone, whose
            positions begin anew, as if each document were read by itself.
        eval_windows: validation and test windows per domain; eval_batch of them a forward.
    """

    def __init__(
        self,
        *,
        source: Source,
        cache_dir: str,
        vocab_size: Count = 4096,
        tokenizer: str | None = None,
        tokenizer_revision: str | None = None,
        seq_len: Count = 128,
        micro_batch: Count = 4,
        global_batch: Count = 32,
        layout: str = "homogeneous",
        seed: Whole = 0,
        workers: Whole = 0,
        eval_batch: Count = 32,
        eval_windows: Count = 64,
        documents: str = "joined",
    ) -> None:
        super().__init__()
        check_choice("data.documents", documents, DOCUMENTS)
        counted = [domain for domain, budget in getattr(source, "budgets", {}).items() if "tokens" in budget]
        if counted and tokenizer is None:
            raise ValueError(
                f"data.hub.{counted[0]}.tokens is counted by a model's tokenizer, and here one is trained on the text; "
                "expected data.tokenizer=NAME, or documents in the place of tokens."
            )
        self.documents = documents
        self.source, self.cache_dir, self.vocab_size = source, Path(cache_dir), vocab_size
        self._tokenizer = tokenizer, tokenizer_revision
        self.seq_len, self.micro_batch, self.global_batch = seq_len, micro_batch, global_batch
        self.layout, self.seed, self.workers = layout, seed, workers
        self.eval_batch, self.eval_windows = eval_batch, eval_windows
        self._prepared = False

    @cached_property
    def given_tokenizer(self) -> Any:
        """The model's; None where one is trained on the text."""
        name, revision = self._tokenizer
        return None if name is None else words.loaded(name, revision=revision)

    @property
    def _kept(self) -> dict[str, Any]:
        cut_by = {"vocab_size": self.vocab_size, "tokenizer": self.given_tokenizer}
        return {"source": self.source, "folder": self.cache_dir / "tokens", **cut_by}

    def prepare_data(self) -> None:
        """Build the cache, or check the checksums of the one that is there; once in a process.

        ValueError for a domain of which nothing could be tested.
        """
        if not self._prepared:
            cache.build(**self._kept)
            self._prepared = True
            self.intake.tell()
            self._refuse_empty("test")

    def setup(self, stage: str) -> None:
        # What analyses a model asks for no validation.
        self._refuse_empty("val")
        self._refuse_untrained()
        super().setup(stage)

    def _refuse_empty(self, split: str) -> None:
        for domain, windows in self._windows_of(split).items():
            if not windows:
                tokens, documents = (self.manifest[unit][domain][split] for unit in ("tokens", "documents"))
                nearest = f", or data.seq_len={tokens - 1} at most" if tokens > 1 else ""
                raise ValueError(
                    f"domain {domain!r} has {tokens} tokens of {documents} documents in the {split} split, and no window of "
                    f"data.seq_len={self.seq_len}: nothing would be measured. Expected more documents of it, as one in "
                    f"twenty is for that split{nearest}."
                )

    def _refuse_untrained(self) -> None:
        for domain, windows in self._windows_of("train").items():
            if windows < self.micro_batch:
                lower = f", or data.micro_batch={windows} at most" if windows else ""
                raise ValueError(
                    f"domain {domain!r} has {windows} windows of data.seq_len={self.seq_len} to train on, fewer than "
                    f"data.micro_batch, which is {self.micro_batch}: a micro-batch is of one domain, so nothing of it would "
                    f"be trained on. Expected more text of it{lower}."
                )

    def _windows_of(self, split: str) -> dict[str, int]:
        """Windows of each domain."""
        return {d: windows_of(tokens[split], self.seq_len) for d, tokens in self.manifest["tokens"].items()}

    def held_out_sizes(self) -> dict[str, int]:
        return {s: sum(min(n, self.eval_windows) for n in self._windows_of(s).values()) for s in ("val", "test")}

    @cached_property
    def intake(self) -> Intake:
        """Documents taken and left out, as they were when the cache was built."""
        found = Intake("corpus", unit="document")
        for domain, splits in self.manifest["documents"].items():
            for split, count in splits.items():
                found.taken.setdefault(split, Counter())[domain] = count
        # Caches of before do not tell of these.
        for domain, reasons in self.manifest.get("left_out", {}).items():
            for reason, count in reasons.items():
                found.leave(reason, domain, count)
        found.read = found.out.total() + sum(groups.total() for groups in found.taken.values())
        found.warnings += self.manifest.get("warnings", [])
        for split in ("val", "test"):
            if few := {d: n for d, n in self._windows_of(split).items() if 0 < n < min(FEW, self.eval_windows)}:
                told = ", ".join(f"{d} {n}" for d, n in few.items())
                found.warnings.append(
                    f"few {split} windows of data.seq_len={self.seq_len}, so little is measured: {told}."
                )
        return found

    @cached_property
    def folder(self) -> Path:
        """Of this corpus's finished cache."""
        return cache.folder_of(**self._kept)

    @cached_property
    def manifest(self) -> dict[str, Any]:
        return manifest(self.folder)

    @property
    def domains(self) -> list[str]:
        return self.manifest["domains"]

    @cached_property
    def tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.folder / "tokenizer")

    @property
    def end(self) -> int | None:
        """The token behind each document, where a token sees its own document alone."""
        return self.tokenizer.eos_token_id if self.documents == "apart" else None

    def read(self, split: str) -> Windows:
        return Windows(folder=self.folder, split=split, seq_len=self.seq_len, end=self.end)

    def fixed(self, split: str) -> DataLoader:
        """Evenly spaced windows, domain by domain."""
        windows = self.examples(split)
        return self.each_once(windows, np.concatenate(windows.spread(self.eval_windows)).tolist())

    def choice_items(self, *, split: str, per_domain: int, seed: int) -> Batch:
        """Multiple choice: the second half of a held-out window against those of two others of its domain.

        Returns prompt_ids int64 [N, P], choices_ids int64 [N, 3, W], answer int64 [N] in 0..2, domain int64 [N]; of a
        domain whose windows are fewer than three that differ none.
        """
        windows = self.examples(split)
        half = self.seq_len // 2
        prompts, choices, answers, domains = [], [], [], []
        for domain, chosen in enumerate(windows.spread(per_domain)):
            draw = np.random.default_rng([seed, domain])
            text = [windows.window(int(i))[0] for i in chosen]
            for number, own in enumerate(text):
                others = [t for t in text if not np.array_equal(t[half:], own[half:])]
                if len(others) < 2:
                    continue
                wrong = [others[i][half:-1] for i in draw.choice(len(others), 2, replace=False)]
                answer = number % 3
                wrong.insert(answer, own[half:-1])
                prompts.append(own[:half])
                choices.append(np.stack(wrong))
                answers.append(answer)
                domains.append(domain)
        width = self.seq_len - half
        return {
            "prompt_ids": torch.from_numpy(np.array(prompts, np.int64).reshape(-1, half)),
            "choices_ids": torch.from_numpy(np.array(choices, np.int64).reshape(-1, 3, width)),
            "answer": torch.tensor(answers, dtype=torch.int64),
            "domain": torch.tensor(domains, dtype=torch.int64),
        }

    @property
    def tokens_per_step(self) -> int:
        return self.global_batch * self.seq_len

    def fingerprint(self) -> dict[str, str]:
        """Short hashes of the tokens, the split rule, the tokenizer and the training order."""
        sums = self.manifest["sha256"]
        tokens = {name: value for name, value in sums.items() if name.endswith(".bin")}
        tokenizer = {name: value for name, value in sums.items() if name.startswith("tokenizer")}
        order: list[Any] = [ORDER_VERSION, self.seed, self.layout, self.micro_batch, self.global_batch, self.seq_len]
        order += [self.documents] * (self.documents != "joined")
        parts = {"data": tokens, "split": self.manifest["split"], "tokenizer": tokenizer, "order": order}
        return {name: digest(part) for name, part in parts.items()}

    def datasheet(self) -> list[dict[str, Any]]:
        """A row per domain: documents and tokens per split."""
        documents, tokens = self.manifest["documents"], self.manifest["tokens"]
        return [
            {"domain": d, "documents": sum(documents[d].values()), "tokens": sum(tokens[d].values()), **tokens[d]}
            for d in self.domains
        ]


def folder_corpus(*, path: str, field: str = "text", **settings: Any) -> CorpusDataModule:
    """A user's own text in a folder of domain folders."""
    return CorpusDataModule(source=FolderSource(path=path, field=field), **settings)


def hub_corpus(*, hub: dict[str, dict[str, Any]], **settings: Any) -> CorpusDataModule:
    """Hugging Face datasets, one entry per domain."""
    return CorpusDataModule(source=HubSource(domains=hub), **settings)

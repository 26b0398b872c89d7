"""From documents to batches: the cache, the split, the loaders, a user's own text."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.corpus import CorpusDataModule, SyntheticSource, words
from datamodules.corpus import cache as token_cache
from datamodules.corpus.sources import EmbeddedSource
from datamodules.corpus.words import END
from tests import forks

PROJECT = Path(__file__).parents[2]
SMALL = dict(vocab_size=400, seq_len=16, micro_batch=2, global_batch=8, eval_windows=4, eval_batch=4)


def corpus(folder, **changes):
    data = CorpusDataModule(**{"source": SyntheticSource(documents=60), "cache_dir": str(folder), **SMALL, **changes})
    data.prepare_data()
    return data


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return corpus(tmp_path_factory.mktemp("corpus"))


def test_two_builds_are_the_same_and_a_change_is_not(data, tmp_path):
    again = corpus(tmp_path)
    assert again.fingerprint() == data.fingerprint()
    assert again.manifest["sha256"] == data.manifest["sha256"]
    other = corpus(tmp_path, seed=5).fingerprint()
    assert other["order"] != data.fingerprint()["order"]
    assert other["data"] == data.fingerprint()["data"]
    changed = corpus(tmp_path, source=SyntheticSource(documents=60, seed=2))
    assert changed.fingerprint()["data"] != data.fingerprint()["data"]


def test_splits_share_no_document(data):
    texts = {domain: list(texts) for domain, texts in data.source.documents().items()}
    by_split = {
        split: {t for ts in texts.values() for t in ts if token_cache.split_of(t) == split}
        for split in token_cache.SPLITS
    }
    assert by_split["train"].isdisjoint(by_split["val"] | by_split["test"])
    counts = data.manifest["documents"]
    assert sum(sum(c.values()) for c in counts.values()) == len(set().union(*by_split.values()))
    # The files hold what the manifest says, document by document.
    end = data.tokenizer.eos_token_id
    for domain, split in [("vowels", "train"), ("hard", "val"), ("soft", "test")]:
        tokens = np.fromfile(data.folder / f"{split}-{domain}.bin", dtype=np.uint16)
        assert (tokens == end).sum() == counts[domain][split]
        decoded = set(data.tokenizer.decode(tokens.tolist()).split(END)) - {""}
        assert decoded == {t for t in texts[domain] if token_cache.split_of(t) == split}


def test_the_split_of_a_text_is_its_hash_whatever_the_process():
    import hashlib

    def bucket(text):
        return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) % 100

    for text in (f"document {i}" for i in range(300)):
        wanted = "test" if bucket(text) < 5 else "val" if bucket(text) < 10 else "train"
        assert token_cache.split_of(text) == wanted


def test_a_text_that_comes_twice_is_kept_once(tmp_path):
    class Twice:
        def description(self):
            return {"source": "twice"}

        def documents(self):
            texts = [f"text number {i}" for i in range(80)]
            return {"a": iter(texts + texts), "b": iter([*texts[:10], *(f"other {i}" for i in range(60))])}

    documents = corpus(tmp_path, source=Twice(), seq_len=4).manifest["documents"]
    assert sum(documents["a"].values()) == 80
    assert sum(documents["b"].values()) == 60


def test_tokens_are_memory_mapped_and_batches_are_shifted_by_one(data):
    windows = data.training
    assert all(isinstance(tokens, np.memmap) for tokens in windows._tokens)
    batch = windows.__getitems__([0, 1, windows.sizes[0]])
    assert batch["input_ids"].shape == batch["targets"].shape == (3, 16)
    assert torch.equal(batch["input_ids"][:, 1:], batch["targets"][:, :-1])
    assert batch["domain"].tolist() == [0, 0, 1]
    # Consecutive windows continue each other.
    assert batch["input_ids"][1, 0] == batch["targets"][0, -1]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_loader_yields_train_batch(data, workers):
    loader = corpus(data.cache_dir, workers=workers).train_dataloader()
    for index, batch in zip(range(5), loader, strict=False):
        for name, value in data.train_batch(index).items():
            assert torch.equal(value, batch[name])


def test_validation_windows_are_fixed_and_from_every_domain(data):
    loader = list(data.val_dataloader())
    assert {int(d) for b in loader for d in b["domain"]} == {0, 1, 2, 3}
    assert all(torch.equal(a["input_ids"], b["input_ids"]) for a, b in zip(loader, data.val_dataloader(), strict=True))


def test_choice_items_hold_the_true_continuation_at_the_answer(data):
    items = data.choice_items(split="test", per_domain=4, seed=0)
    assert items["choices_ids"].shape[1:] == (3, 8)
    assert set(items["answer"].tolist()) == {0, 1, 2}
    windows = [w.window(int(i))[0] for w in [data.test_dataloader().dataset] for d in w.spread(4) for i in d]
    whole = {tuple(w[:-1]) for w in windows}
    for prompt, choices, answer in zip(items["prompt_ids"], items["choices_ids"], items["answer"], strict=True):
        continued = [tuple(torch.cat([prompt, c]).tolist()) in whole for c in choices]
        assert continued[answer]
        assert sum(continued) == 1


def test_a_domain_of_too_few_windows_for_a_choice_has_no_items(data):
    items = data.choice_items(split="test", per_domain=2, seed=0)
    assert {name: tuple(value.shape) for name, value in items.items()} == {
        "prompt_ids": (0, 8),
        "choices_ids": (0, 3, 8),
        "answer": (0,),
        "domain": (0,),
    }
    assert {value.dtype for value in items.values()} == {torch.int64}


@pytest.mark.parametrize("split", ["test", "val"])
def test_a_domain_without_a_held_out_window_is_refused(tmp_path, split):
    """What nothing is measured of would have the best perplexity there is. An analysis asks for no validation."""
    texts = [f"the document of number {i}" for i in range(300)]
    few = [t for t in texts if token_cache.split_of(t) != split]

    class Few:
        def description(self):
            return {"source": "few", "split": split}

        def documents(self):
            return {"a": iter(f"{t} is of another kind {t}" for t in texts), "b": iter(few)}

    said = f"domain 'b' has 0 tokens of 0 documents in the {split} split, and no window of data.seq_len=16"
    if split == "test":
        with pytest.raises(ValueError, match=said):
            corpus(tmp_path, source=Few())
        return
    with pytest.raises(ValueError, match=said):
        corpus(tmp_path, source=Few()).setup("fit")


def test_a_tokenizer_saved_with_truncation_and_padding_is_the_one_without(data, tmp_path):
    tokenizer = data.tokenizer
    tokenizer(["a", "b b"], truncation=True, max_length=4, padding=True)
    tokenizer.save_pretrained(tmp_path / "used")
    plain = corpus(data.cache_dir, tokenizer=str(data.folder / "tokenizer"))
    used = corpus(tmp_path, tokenizer=str(tmp_path / "used"))
    assert json.loads((tmp_path / "used" / "tokenizer.json").read_text())["truncation"]
    assert used.folder.name == plain.folder.name and used.domains == data.domains


@pytest.mark.parametrize("kind", ["marks", "python"])
def test_tokenizers_that_cut_otherwise_have_caches_of_their_own(data, tmp_path, kind):
    """Of equal words: one that takes no mark within a text, and one in Python that does not lower it."""
    from transformers import AutoTokenizer, BertJapaneseTokenizer

    (tmp_path / "vocab.txt").write_text("\n".join(["[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]", "a", "A"]))
    found = []
    for otherwise in (False, True):
        if kind == "marks":
            tokenizer = AutoTokenizer.from_pretrained(data.folder / "tokenizer", split_special_tokens=otherwise)
        else:
            how = dict(word_tokenizer_type="basic", subword_tokenizer_type="wordpiece", do_lower_case=otherwise)
            tokenizer = BertJapaneseTokenizer(str(tmp_path / "vocab.txt"), eos_token="[SEP]", **how)
        tokenizer.save_pretrained(tmp_path / f"{otherwise}")
        loaded, again = (words.loaded(str(tmp_path / f"{otherwise}"), revision=None) for _ in range(2))
        assert words.digest_of(loaded) == words.digest_of(again)
        found.append((words.digest_of(loaded), list(words.encoded(loaded, [f"A a {END}"]))))
    (one, its_ids), (other, other_ids) = found
    assert its_ids != other_ids and one != other


def test_a_domain_of_which_nothing_would_be_trained_on_is_refused(data):
    sizes = data.training.sizes
    least = sizes.index(min(sizes))
    few = CorpusDataModule(
        source=data.source, cache_dir=str(data.cache_dir), **SMALL | {"micro_batch": sizes[least] + 1}
    )
    few.prepare_data()
    told = (
        f"domain '{data.domains[least]}' has {sizes[least]} windows of data.seq_len=16 to train on, fewer than "
        f"data.micro_batch, which is {sizes[least] + 1}.*data.micro_batch={sizes[least]} at most"
    )
    with pytest.raises(ValueError, match=told):
        few.setup("fit")
    data.setup("fit")


def test_resuming_the_datamodule_continues_its_order(data):
    first = corpus(data.cache_dir)
    stream = iter(first.train_dataloader())
    for _ in range(3):
        next(stream)
    resumed = corpus(data.cache_dir)
    resumed.load_state_dict({"forwards": 3, "fingerprint": first.fingerprint()})
    assert torch.equal(next(iter(resumed.train_dataloader()))["input_ids"], next(stream)["input_ids"])


def test_a_run_of_other_data_is_told_what_has_changed(data):
    then = {**data.fingerprint(), "split": "another", "filter": "none any more"}
    with pytest.raises(
        ValueError, match=r"of split, filter has changed \(another then, \w+ now, none any more then, none"
    ):
        corpus(data.cache_dir).load_state_dict({"forwards": 3, "fingerprint": then})


def test_a_corrupted_token_file_is_named(tmp_path):
    folder = corpus(tmp_path).folder
    file = folder / "train-hard.bin"
    content = bytearray(file.read_bytes())
    content[10] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"train-hard\.bin is damaged: its SHA-256 is .* Delete the folder"):
        corpus(tmp_path)
    file.unlink()
    with pytest.raises(ValueError, match=r"train-hard\.bin is damaged: its SHA-256 is missing"):
        corpus(tmp_path)


@pytest.mark.parametrize(("documents", "limit"), [(60, 4_000), (15, 12_000)], ids=["spool", "tokenizer"])
def test_a_full_disk_leaves_nothing_half_written(tmp_path, documents, limit):
    """A limit on file size stands for the full disk: the same code path, errno EFBIG instead of ENOSPC."""
    code = f"""
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from tests.datamodules.test_corpus import SyntheticSource, corpus
import tokenizers, transformers
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
corpus({str(tmp_path)!r}, source=SyntheticSource(documents={documents}))
"""
    done = forks.run([sys.executable, "-c", code], cwd=PROJECT, timeout=120)
    assert done.returncode != 0
    assert "the disk is full" in done.stderr.splitlines()[-1]
    assert "nothing half-written is left. Free some space, set paths.cache, or ask for less." in done.stderr
    assert [p.suffixes[-2] for p in (tmp_path / "tokens").iterdir()] == [".lock"]


def test_a_source_without_training_text_is_refused(tmp_path):
    class Empty:
        def description(self):
            return {"source": "empty"}

        def documents(self):
            return {"full": iter(f"text {i}" for i in range(40)), "void": iter([" ", ""])}

    with pytest.raises(ValueError, match="domain 'void' has no training document"):
        corpus(tmp_path, source=Empty())


# The embedded corpus


@pytest.fixture(scope="session")
def embedded():
    data = CorpusDataModule(
        source=EmbeddedSource(downloads=str(PROJECT / ".cache/downloads")), cache_dir=str(PROJECT / ".cache")
    )
    data.prepare_data()
    return data


@pytest.mark.slow
def test_the_embedded_corpus_is_large_enough(embedded):
    rows = embedded.datasheet()
    assert len(rows) >= 6
    assert sum(r["tokens"] for r in rows) >= 2_000_000
    assert min(r["tokens"] for r in rows) >= 200_000
    assert all(r["test"] > 64 * 128 * 0.2 and r["val"] > 64 * 128 * 0.2 for r in rows)


def test_the_embedded_tokenizer_is_lossless(embedded):
    for text in ("def f(x): return x ** 2", "今天天气很好。", "naïve café — 7 x 8 = 56\n\t\x00"):
        assert embedded.tokenizer.decode(embedded.tokenizer(text)["input_ids"]) == text


def test_school_mathematics_is_right(embedded):
    """Every `a op b = c` that the generator writes holds."""
    import itertools
    import re

    from datamodules.corpus.mathematics import school_mathematics

    texts = list(itertools.islice(school_mathematics(seed=0), 300))
    checked = 0
    for a, op, b, c in re.findall(
        r"(?<![\d/^+x-] )(?<![\d.)/])(\d+) ([-+x]) (\d+) = (\d+)(?![\d/x])", "\n".join(texts)
    ):
        value = {"+": int(a) + int(b), "-": int(a) - int(b), "x": int(a) * int(b)}[op]
        checked += 1
        assert value == int(c), f"{a} {op} {b} = {c}"
    assert checked > 300


def test_a_corrupted_download_is_named(tmp_path, embedded):
    from datamodules.fetch import VADER, fetch

    (tmp_path / f"{VADER.name}-{VADER.version}.tar.gz").write_bytes(b"not an archive")
    with pytest.raises(
        ValueError, match=r"vaderSentiment-3.3.2.tar.gz is damaged: its SHA-256 is .*, expected 5d7c06e0"
    ):
        fetch(VADER, tmp_path)


def test_a_package_that_cannot_be_downloaded_says_what_to_do(tmp_path, monkeypatch):
    from datamodules.fetch import Pin, fetch

    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(ValueError, match="nothing-here==1.0 could not be downloaded: .* or bring your own text"):
        fetch(Pin("nothing-here", "1.0", "0" * 64), tmp_path)
    assert list(tmp_path.iterdir()) == []

"""A corpus of Hugging Face datasets: up to a budget, and it goes on where its reading was stopped. All local."""

import json
import os

import pytest
from omegaconf import OmegaConf

from datamodules.corpus import cache, hub, words
from datamodules.corpus.datamodule import hub_corpus
from tests.datamodules.test_corpus import SMALL

DOCUMENTS = 120


@pytest.fixture
def shards(tmp_path, monkeypatch):
    """A datasets folder of four files."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "hf"))
    folder = tmp_path / "law"
    folder.mkdir()
    for shard in range(4):
        rows = [{"text": f"clause {i} of part {shard} says {i * i}"} for i in range(DOCUMENTS // 4)]
        (folder / f"part-{shard}.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return folder


def corpus(shards, tmp_path, place="cache", settings=None, **entry):
    entry = {"path": "json", "data_files": str(shards / "*.jsonl")} | entry
    return hub_corpus(hub={"law": entry}, cache_dir=str(tmp_path / place), **SMALL | (settings or {}))


def stopped_at(monkeypatch, number):
    """A reading that is stopped before its document `number` is put away."""
    plain, seen = cache.split_of, []

    def split_of(document):
        seen.append(document)
        if len(seen) == number:
            raise KeyboardInterrupt
        return plain(document)

    monkeypatch.setattr(cache, "split_of", split_of)
    return seen


def stop(shards, tmp_path, monkeypatch):
    with monkeypatch.context() as stopping:
        stopped_at(stopping, 75)
        with pytest.raises(KeyboardInterrupt):
            corpus(shards, tmp_path).prepare_data()


def tokens_in(data):
    return {path.name: path.read_bytes() for path in data.folder.glob("*.bin")}


def mark_of(tmp_path):
    (found,) = (tmp_path / "cache" / "tokens").glob("*.reading/*/mark.json")
    return json.loads(found.read_text())


@pytest.mark.slow
def test_no_more_documents_are_read_than_the_budget(shards, tmp_path):
    data = corpus(shards, tmp_path, documents=40)
    data.prepare_data()
    assert sum(data.manifest["documents"]["law"].values()) == 40


def test_a_dataset_of_save_to_disk_is_read(shards, tmp_path):
    import datasets

    datasets.Dataset.from_list([{"text": f"saved {i}"} for i in range(80)]).save_to_disk(str(tmp_path / "saved"))
    data = corpus(
        shards, tmp_path, path=str(tmp_path / "saved"), data_files=None, documents=70, settings={"seq_len": 4}
    )
    data.prepare_data()
    assert sum(data.manifest["documents"]["law"].values()) == 70


def test_no_more_tokens_are_read_than_the_budget_and_the_document_that_reaches_it(shards, tmp_path):
    tokenizer = words.trained_on(["clause of part says 0 1 2 3 4 5 6 7 8 9"] * 9, vocab_size=300)
    tokenizer.save_pretrained(tmp_path / "words")
    data = corpus(shards, tmp_path, settings={"tokenizer": str(tmp_path / "words")}, tokens=500)
    data.prepare_data()
    read = sum(data.manifest["tokens"]["law"].values())
    assert 500 <= read < 500 + 40
    with pytest.raises(
        ValueError, match=r"data.hub.law.tokens is counted by a model's tokenizer, .*data.tokenizer=NAME"
    ):
        corpus(shards, tmp_path, tokens=500)
    for wrong in (0, 1.5, "many", True):
        with pytest.raises(ValueError, match=r"data.hub.law.documents is .*; expected a whole number of at least 1"):
            corpus(shards, tmp_path, documents=wrong)


@pytest.mark.parametrize("kill", [False, True])
def test_a_reading_that_was_stopped_goes_on_there_and_ends_in_the_same_corpus(
    shards, tmp_path, monkeypatch, capsys, kill
):
    whole = corpus(shards, tmp_path, "other")
    whole.prepare_data()
    monkeypatch.setattr(hub, "EVERY", 10)
    with monkeypatch.context() as stopping:
        stopped_at(stopping, 75)
        if kill:
            # No last mark: the process is gone before it could write one, but not what it wrote of documents.
            stopping.setattr(hub.Kept, "close", lambda kept, _: kept._file.flush())
        with pytest.raises(KeyboardInterrupt):
            corpus(shards, tmp_path).prepare_data()
    assert mark_of(tmp_path)["count"] == (70 if kill else 75)
    drawn = []
    monkeypatch.setattr(hub, "_text", lambda row, *_: drawn.append(row["text"]) or row["text"])
    data = corpus(shards, tmp_path)
    data.prepare_data()
    assert len(drawn) == DOCUMENTS - (70 if kill else 75), "what was read is not read again"
    assert f"corpus: law goes on behind the {70 if kill else 75} documents" in capsys.readouterr().err
    assert tokens_in(data) == tokens_in(whole)
    assert data.manifest["left_out"] == whole.manifest["left_out"] == {}, "no document came twice"
    assert not list((tmp_path / "cache" / "tokens").glob("*.reading")), "the corpus is made: nothing is kept beside it"


def test_documents_that_did_not_reach_the_disk_are_read_again(shards, tmp_path, monkeypatch):
    stop(shards, tmp_path, monkeypatch)
    (kept,) = (tmp_path / "cache" / "tokens").glob(f"*.reading/*/{hub.DOCUMENTS}")
    os.truncate(kept, kept.stat().st_size - 1)
    data = corpus(shards, tmp_path)
    data.prepare_data()
    assert sum(data.manifest["documents"]["law"].values()) == DOCUMENTS


def test_a_dataset_that_has_changed_is_read_from_its_beginning(shards, tmp_path, monkeypatch, capsys):
    stop(shards, tmp_path, monkeypatch)
    os.utime(shards / "part-0.jsonl", (1, 1))
    data = corpus(shards, tmp_path)
    data.prepare_data()
    assert "goes on" not in capsys.readouterr().err
    assert sum(data.manifest["documents"]["law"].values()) == DOCUMENTS


def test_behind_a_document_that_is_refused_no_reading_goes_on(shards, tmp_path, monkeypatch):
    plain = hub._text

    def refuses(row, field, key, number):
        if number == 30:
            raise ValueError("refused on purpose")
        return plain(row, field, key, number)

    with monkeypatch.context() as refusing:
        refusing.setattr(hub, "_text", refuses)
        with pytest.raises(ValueError, match="refused on purpose"):
            corpus(shards, tmp_path).prepare_data()
    data = corpus(shards, tmp_path)
    data.prepare_data()
    assert sum(data.manifest["documents"]["law"].values()) == DOCUMENTS


def test_numbers_in_the_place_of_texts_are_refused_each_time(tmp_path, shards):
    for part in shards.iterdir():
        part.write_text('{"text": 7}\n')
    for _ in range(2):
        with pytest.raises(ValueError, match=r"data.hub.law: field 'text' of document 1 holds int; expected text"):
            corpus(shards, tmp_path).prepare_data()


@pytest.mark.parametrize("named", ["pattern", "list", "splits", "folder"])
def test_a_file_that_was_edited_is_another_corpus(named, shards, tmp_path):
    every = sorted(map(str, shards.iterdir()))
    entry = {
        "pattern": {"data_files": str(shards / "*.jsonl")},
        "list": {"data_files": every},
        "splits": {"data_files": {"train": every}},
        "folder": {"path": str(shards), "data_files": None},
    }[named]
    before = corpus(shards, tmp_path, **entry).source.description()
    assert corpus(shards, tmp_path, **entry).source.description() == before
    with open(every[1], "a") as file:
        file.write("\n" + json.dumps({"text": "one clause more"}))
    assert corpus(shards, tmp_path, **entry).source.description() != before
    plain = hub.HubSource(domains={"law": {"path": "somebody/law", "revision": "main"}}).description()
    assert plain == {"source": "hub", "domains": {"law": {"path": "somebody/law", "revision": "main"}}}


def test_a_domain_that_no_file_can_be_called_by_is_refused():
    with pytest.raises(ValueError, match="data.hub has a domain called 'en/law'; expected a name that a file can have"):
        hub_corpus(hub={"en/law": {"path": "json"}}, cache_dir="unused")


def test_a_domain_may_be_a_year(shards, tmp_path):
    """YAML reads a whole number, which is a name in the manifest."""
    entry = {"path": "json", "data_files": str(shards / "*.jsonl")}
    data = hub_corpus(hub={2023: entry}, cache_dir=str(tmp_path / "cache"), **SMALL)
    data.prepare_data()
    assert [(row["domain"], row["documents"]) for row in data.datasheet()] == [("2023", DOCUMENTS)]


@pytest.mark.parametrize("given", [lambda all_: all_, lambda all_: {"train": all_}, lambda all_: {"train": all_[0]}])
def test_data_files_may_be_a_list_or_a_mapping_of_splits_as_a_config_holds_them(shards, tmp_path, given):
    files = given(sorted(map(str, shards.glob("*.jsonl"))))
    entry = {"path": "json", "data_files": files}
    data = hub_corpus(hub=OmegaConf.create({"law": entry}), cache_dir=str(tmp_path / "cache"), **SMALL)
    data.prepare_data()
    plain = hub_corpus(hub={"law": entry}, cache_dir=str(tmp_path / "plain"), **SMALL)
    plain.prepare_data()
    assert tokens_in(data) == tokens_in(plain)
    assert data.fingerprint() == plain.fingerprint()

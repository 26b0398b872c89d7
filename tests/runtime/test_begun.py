"""A folder is of one config and one state of the user's files: another is refused, finished or not."""

import json

import pytest
import torch
from omegaconf import OmegaConf

from lightning_modules.runtime import begun, records
from lightning_modules.runtime.config import register_resolvers
from lightning_modules.runtime.run import clear
from tests.runtime.cli import PLAIN, PROJECT, main


def config(**values):
    found = {
        "seed": 1,
        "threads": 0,
        "optimizer": {"lr": 1e-3, "betas": [0.9, 0.95]},
        "data": {"path": "${paths.cache}/text"},
        "paths": {"cache": ".cache"},
        "hydra": {"run": {"dir": "out"}},
    }
    return OmegaConf.merge(found, values)


def test_the_same_config_goes_on(tmp_path):
    begun.keep(config(), tmp_path)
    begun.check(config(threads=2, paths={"cache": "elsewhere"}, hydra={"run": {"dir": "moved"}}), tmp_path)
    begun.check(config(optimizer={"weight_decay": None}), tmp_path / "no run")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"seed": 2}, "seed was 1, is 2"),
        ({"optimizer": {"lr": 0.01}}, "optimizer.lr was 0.001, is 0.01"),
        ({"optimizer": {"betas": [0.9, 0.99]}}, "optimizer.betas.1 was 0.95, is 0.99"),
        ({"optimizer": {"fused": True}}, "optimizer.fused is new"),
        ({"data": {"path": "mine"}}, "data.path was ${paths.cache}/text, is mine"),
    ],
)
def test_another_config_is_named(tmp_path, values, said):
    begun.keep(config(), tmp_path)
    with pytest.raises(ValueError, match="was begun with something else") as refused:
        begun.check(config(**values), tmp_path)
    assert f"else: {said}. fresh=true begins anew" in str(refused.value)


def test_of_many_changes_the_first_are_named_and_a_key_that_is_gone_too(tmp_path):
    begun.keep(config(more={"a": 1, "b": float("nan"), "c": 3}), tmp_path)
    begun.check(config(more={"a": 1, "b": float("nan"), "c": 3}), tmp_path)
    with pytest.raises(ValueError, match=r"seed was 1, is 2; more.a is gone; more.b is gone and 1 more\."):
        begun.check(config(seed=2), tmp_path)


@pytest.mark.parametrize("named", ["{0}/texts", "{0}/texts/law.txt", "{0}/texts/*.txt"])
def test_a_file_edited_since_is_named_and_one_only_touched_is_not(tmp_path, named):
    text = tmp_path / "texts" / "law.txt"
    text.parent.mkdir()
    text.write_text("one " * 100_000)
    cfg = config(data={"path": named.format(tmp_path)})
    run = tmp_path / "run"
    run.mkdir()
    begun.keep(cfg, run)
    text.touch()
    begun.check(cfg, run)
    # As long as before, and other in its midst.
    text.write_text("one " * 50_000 + "two " + "one " * 49_999)
    with pytest.raises(ValueError, match=r"data\.path: the content of .* is another"):
        begun.check(cfg, run)


def test_a_folder_named_by_a_word_alone_counts_and_any_other_word_does_not(tmp_path, monkeypatch):
    """As README has it: `data.path=text`, beside which `data.field` is `text` too."""
    monkeypatch.chdir(tmp_path)
    for name in ("text", "mixed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "law.txt").write_text("one")
    cfg = config(data={"path": "text", "layout": "mixed", "field": "mixed", "hub": {"a": {"data_files": ["law"]}}})
    (tmp_path / "law").write_text("one")
    run = tmp_path / "runs" / "a-s1"
    run.mkdir(parents=True)
    begun.keep(cfg, run)
    (tmp_path / "mixed" / "law.txt").write_text("two")
    begun.check(cfg, run)
    for file in ("law", "text/law.txt"):
        (tmp_path / file).write_text("two")
        with pytest.raises(ValueError, match=r"data\..*: the content of .* is another"):
            begun.check(cfg, run)
        (tmp_path / file).write_text("one")
    begun.check(cfg, run)


def test_a_folder_that_is_a_link_counts_and_a_circle_of_links_ends(tmp_path):
    texts, elsewhere, run = tmp_path / "texts", tmp_path / "elsewhere", tmp_path / "run"
    for place in (texts, elsewhere, run):
        place.mkdir()
    (elsewhere / "1.txt").write_text("one")
    (texts / "law").symlink_to(elsewhere)
    (texts / "round").symlink_to(texts)
    cfg = config(data={"path": str(texts)})
    begun.keep(cfg, run)
    begun.check(cfg, run)
    (elsewhere / "1.txt").write_text("two")
    with pytest.raises(ValueError, match=r"data\.path: the content of .* is another"):
        begun.check(cfg, run)


def test_a_gpu_of_another_precision_is_named(tmp_path, monkeypatch):
    """conf/trainer/gpu.yaml leaves it to the machine: bf16 and fp16 are no one run, and no seeds of one setting."""
    register_resolvers(project=PROJECT)
    cfg = config(trainer={"precision": "${gpu_precision:}"})
    places = [tmp_path / f"a-s{seed}" for seed in (1, 2)]
    for place, of_the_gpu in zip(places, (True, False), strict=True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, there=of_the_gpu: there)
        place.mkdir()
        begun.keep(cfg, place)
        begun.check(cfg, place)
    with pytest.raises(
        ValueError, match=r"trainer\.precision was bf16-mixed on the machine .*, is 16-mixed on this one"
    ):
        begun.check(cfg, places[0])
    # A sweep's jobs are submitted from a machine of another GPU, or of none.
    begun.check(cfg, places[0], here=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    begun.check(cfg, places[0])
    (said,) = begun.mixed({"a": places})
    assert "the machine's trainer.precision (bf16-mixed in a-s1, 16-mixed in a-s2)" in said
    # Of before it was kept.
    told = json.loads((places[0] / records.BEGUN).read_text())
    del told["machine"]
    (places[0] / records.BEGUN).write_text(json.dumps(told))
    begun.check(cfg, places[0])
    assert begun.mixed({"a": places}) == []


def test_a_text_that_moved_to_another_domain_is_named(tmp_path):
    """The last of one folder, then the first of the next: names and contents stand in the same order as before."""
    texts, run = tmp_path / "texts", tmp_path / "run"
    for place in (texts / "law", texts / "med", run):
        place.mkdir(parents=True)
    for name in ("law/1.txt", "law/2.txt", "med/3.txt"):
        (texts / name).write_text(name)
    cfg = config(data={"path": str(texts)})
    begun.keep(cfg, run)
    (texts / "law" / "2.txt").rename(texts / "med" / "2.txt")
    with pytest.raises(ValueError, match=r"data\.path, by folders: the content of .* is another"):
        begun.check(cfg, run)
    # A record of before says nothing of folders.
    path = run / "begun.json"
    record = json.loads(path.read_text())
    del record["files"][f"data.path{begun.PLACES}"]
    path.write_text(json.dumps(record))
    begun.check(cfg, run)


def test_a_files_name_may_look_like_a_pattern(tmp_path):
    text = tmp_path / "law [1].txt"
    text.write_text("one")
    cfg = config(data={"path": str(text)})
    run = tmp_path / "run"
    run.mkdir()
    begun.keep(cfg, run)
    text.write_text("two")
    with pytest.raises(ValueError, match=r"data\.path: the content of .* is another"):
        begun.check(cfg, run)


def test_of_a_folder_neither_hidden_folders_nor_the_runs_own_count(tmp_path, monkeypatch):
    monkeypatch.setattr(begun, "LISTED", 3)
    texts = tmp_path / "texts"
    for name in ("b/2.txt", "b/3.txt", "a/1.txt", "c/4.txt", ".git/index"):
        (texts / name).parent.mkdir(parents=True, exist_ok=True)
        (texts / name).write_text(name)
    (texts / "a" / "gone.txt").symlink_to("nowhere")
    cfg = config(data={"path": str(texts)})
    run = tmp_path / "run"
    run.mkdir()
    begun.keep(cfg, run)
    (texts / ".git" / "index").write_text("another")
    (texts / "c" / "4.txt").write_text("beyond those that are listed")
    begun.check(cfg, run)
    (texts / "b" / "3.txt").write_text("other")
    with pytest.raises(ValueError, match=r"data\.path"):
        begun.check(cfg, run)
    inside = texts / "runs" / "a-s1"
    inside.mkdir(parents=True)
    begun.keep(cfg, inside)
    (inside / "result.json").write_text("{}")
    begun.check(cfg, inside)


def test_a_damaged_record_is_named_with_its_remedy(tmp_path):
    (tmp_path / records.BEGUN).write_text("{")
    with pytest.raises(ValueError, match=r"begun\.json is damaged .*delete it"):
        begun.check(config(), tmp_path)


def test_a_run_of_another_config_is_not_done_in_one_and_in_a_sweep(tmp_path):
    here = ["trainer.max_steps=2", "hydra.run.dir=run", *PLAIN, "logger=none"]
    first = main(tmp_path, *here)
    result = (tmp_path / "run" / "result.json").read_bytes()
    assert "Already done" in main(tmp_path, *here, "threads=1").text
    other = main(tmp_path, *here, "optimizer.lr=0.01", check=False)
    assert other.code == 2, other.text
    assert "optimizer.lr was " in " ".join(other.text.split())
    assert (tmp_path / "run" / "result.json").read_bytes() == result
    # One that was begun and is not done is none of the other's either.
    (tmp_path / "run" / "result.json").unlink()
    assert main(tmp_path, *here, "optimizer.lr=0.01", check=False).code == 2
    assert main(tmp_path, *here, "optimizer.lr=0.01", "fresh=true").code == 0
    assert json.loads((tmp_path / "run" / "begun.json").read_text())["config"]["optimizer.lr"] == 0.01
    assert first.code == 0

    sweep = ["-m", "trainer.max_steps=2", "seed=1,2", "experiment_name=test/begun", *PLAIN, "logger=none"]
    main(tmp_path, *sweep)
    (_, second) = sorted((tmp_path / "runs" / "test" / "begun").glob("*/begun.json"))
    told = json.loads(second.read_text())
    told["config"]["optimizer.weight_decay"] = 0.5
    second.write_text(json.dumps(told))
    # Extended past what was edited, a setting has runs of two configs: no mean is shown without saying so.
    third = main(tmp_path, *(o.replace("seed=1,2", "seed=3") for o in sweep))
    said = " ".join(third.text.split())
    assert "runs of default are not of one config: optimizer.weight_decay (" in said
    report = (second.parent.parent / "report.md").read_text()
    assert "## Not of one config" in report
    again = main(tmp_path, *sweep, check=False)
    assert again.code == 1, again.text
    assert again.text.count("Already done") == 1
    assert "optimizer.weight_decay was 0.5" in " ".join(again.text.split())


def test_runs_of_a_setting_may_differ_in_their_seed_alone(tmp_path):
    places = {name: tmp_path / name for name in ("a-s1", "a-s2", "a-s3", "old")}
    for name, place in places.items():
        place.mkdir()
        if name != "old":
            begun.keep(config(seed=int(name[-1])), place)
    assert begun.mixed({"a": list(places.values())}) == []
    text = tmp_path / "text.txt"
    for name in ("b-s1", "b-s2", "b-s3"):
        (tmp_path / name).mkdir()
        text.write_text(name)
        begun.keep(config(data={"path": str(text)}, optimizer={"lr": min(2.0, float(name[-1]))}), tmp_path / name)
    (found,) = begun.mixed({"a": [places["a-s1"]], "b": sorted(tmp_path.glob("b-*"))})
    assert found.startswith(
        "runs of b are not of one config: optimizer.lr (1.0 in b-s1, 2.0 in 2 runs); the content of data.path ("
    )


def test_fresh_forgets_all_that_was_told_of_the_run_before(tmp_path):
    told = ("result.json", "begun.json", "failure.txt", "failure-1.txt", "look.html")
    for name in (*told, "tracking.jsonl", "tracking.done", "tracking.refused.jsonl"):
        (tmp_path / name).touch()
    (tmp_path / "figures").mkdir()
    (tmp_path / "console.log").touch()
    clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["console.log"]

"""A run made again from MLflow, two runs compared, a run planned, its page made again."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient
from omegaconf import OmegaConf

from lightning_modules.look import page
from lightning_modules.runtime import config, diff, errors, foreign, known, preflight, replay
from lightning_modules.runtime import look as looking
from lightning_modules.runtime.look import look
from tests.runtime.cli import PROJECT, main

config.register_resolvers(project=PROJECT)
NAME = "experiment_name=test/replay"


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """(folder, client, ids of a run and of one with another weight and seed)."""
    folder = tmp_path_factory.mktemp("replay")
    ids = []
    for settings in ([], ["seed=2", "balance.weight=0.5", "look.page=false"]):
        done = main(folder, NAME, "trainer.log_every_n_steps=1", *settings)
        ids += [r["run_id"] for r in done.results().values() if r["run_id"] not in ids]
    return folder, MlflowClient(f"sqlite:///{folder}/tracking/mlflow.db"), ids


def places(folder):
    return ["debug=smoke", *(f"paths.{name}={folder}/{name}" for name in ("cache", "runs", "tracking"))]


def test_the_page_of_a_run_is_made_again_from_what_is_kept_of_it(two):
    """Alone it is the page that the run wrote itself; two stand side by side, and a text of one's own is read by both."""
    folder, client, (a, b) = two
    own = folder / "own.txt"
    own.write_text("the proof of the theorem " * 20)
    (before,) = page.read(Path(client.download_artifacts(a, "look.html")))["runs"]
    assert before["load"]["steps"]
    assert look(preflight.check(config.spelled_out([*places(folder), f"look={a}"]))) == 0
    (again,) = page.read(folder / "runs" / "look" / a / "look.html")["runs"]
    assert again == before | {"name": client.get_run(a).info.run_name}
    both = preflight.check(config.spelled_out([*places(folder), f"look={a},{b}", f"look.text={own}"]))
    assert look(both) == 0
    (written,) = (folder / "runs" / "look" / f"{a}-{b}").glob("look.html")
    assert [run["texts"][0]["title"] for run in page.read(written)["runs"]] == ["own.txt", "own.txt"]


def test_what_a_run_kept_off_its_page_stays_off_when_it_is_made_again(two, capsys):
    """Whoever makes it again may not know why; a text of their own is theirs to show."""
    folder, _, (a, _) = two
    (kept,) = (path for path in folder.glob("runs/**/result.json") if f'"{a}"' in path.read_text())
    config_file = kept.parent / ".hydra" / "config.yaml"
    before = config_file.read_text()
    cfg = OmegaConf.load(config_file)
    cfg.look.text = False
    OmegaConf.save(cfg, config_file)
    own = folder / "own.txt"
    own.write_text("the proof of the theorem " * 20)
    assert look(preflight.check(config.spelled_out([*places(folder), f"look={kept.parent}", f"look.text={own}"]))) == 0
    config_file.write_text(before)
    (written,) = (folder / "runs" / "look").glob(f"{kept.parent.name}*/look.html")
    (found,) = page.read(written)["runs"]
    assert {text["title"] for text in found["texts"]} == {"own.txt"}
    assert not any(expert["words"] for layer in found["portraits"] for expert in layer)
    assert "was made with look.text=false" in capsys.readouterr().err


def test_diff_tells_config_data_and_curve(two):
    _, client, ids = two
    rows = {(kind, name): (a, b) for kind, name, a, b in diff.differences(client, *ids)}
    assert rows["config", "seed"] == ("1", "2")
    assert rows["config", "balance.weight"] == ("0.008", "0.5")
    assert ("data", "order") in rows
    assert ("data", "data") not in rows
    assert not [name for kind, name in rows if "paths" in name or "dirpath" in name]
    assert ("metric", "train/loss parts at step 0") in rows
    assert diff.differences(client, ids[0], ids[0]) == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            "look=nothing",
            "look=nothing: expected a run's id as the MLflow UI shows it, or the folder of a finished run",
        ),
        (f"look={'0' * 32}", "the tracking server knows no such run"),
        ("look=.", "look=.: the run is not finished (it has no result.json)"),
        ("look.text=missing.txt", "look.text=missing.txt is no file"),
        ("logger=none", "with logger=none: expected the tracking server that keeps the run"),
    ],
)
def test_what_cannot_be_looked_at_is_refused(two, given, said, capsys):
    folder, _, (a, _) = two
    runs = [] if given.startswith("look=") else [f"look={a}"]
    with pytest.raises(SystemExit, match="2"):
        preflight.check(config.spelled_out([*places(folder), *runs, given]))
    assert said in capsys.readouterr().err


def test_what_a_run_turns_out_to_lack_is_refused_as_a_wrong_command_is(two, monkeypatch, capsys):
    """With 2, for nothing was made: a run that never came to its end, one whose config is none, runs of two kinds."""
    folder, client, (a, b) = two
    kept = Path(client.download_artifacts(b, "config.yaml")).read_text()
    client.set_terminated(b, "KILLED")
    client.log_text(b, "seed: 1\n", "config.yaml")
    looked, again = (main(folder, f"{key}={b}", check=False) for key in ("look", "replay"))
    client.set_terminated(b, "FINISHED")
    client.log_text(b, kept, "config.yaml")
    assert (looked.code, again.code) == (2, 2)
    assert f"error: look={b}: the run is KILLED; expected a finished one" in looked.text
    assert f"error: config.yaml of run {b} is no config of a run" in again.text
    assert not (folder / "runs" / "replay" / b).exists()
    kinds = iter([{"kind": kind, "title": "", "runs": [{"name": kind}]} for kind in ("experts", "pairs")])
    monkeypatch.setattr("lightning_modules.runtime.look._found", lambda *_, **__: next(kinds))
    with pytest.raises(errors.RefusedError, match="these are of several") as refused:
        look(preflight.check(config.spelled_out([*places(folder), f"look={a},{b}"])))
    with pytest.raises(SystemExit, match="2"):
        errors.leave(refused.value)
    assert "HYDRA_FULL_ERROR" in capsys.readouterr().err


OLD_PLACES = {
    "lightning_modules.training.": "lightning_modules.callbacks.",
    "lightning_modules.moe.callbacks.figures.": "lightning_modules.callbacks.moe_figures.",
    "lightning_modules.moe.callbacks.": "lightning_modules.callbacks.",
}


def test_a_replay_is_bitwise_the_same_though_classes_have_moved(two):
    """The stored config names callbacks by the places where they stood before rooms were cut by system."""
    folder, client, (first, _) = two
    text = Path(client.download_artifacts(first, "config.yaml")).read_text()
    for now, then in OLD_PLACES.items():
        assert now in text
        text = text.replace(f"_target_: {now}", f"_target_: {then}")
    # The page came later than the move.
    text = text.replace("lightning_modules.callbacks.look.", "lightning_modules.moe.callbacks.look.")
    # Keys of then: the option's name, which nothing read, and the callback's `mode`.
    text = text.replace("  mode: ranks\n", "  scope: ranks\n").replace("\nbalance:\n", "\nbalance:\n  scope: global\n")
    assert text.count("  scope: ") == 2
    client.log_text(first, text, "config.yaml")
    done = main(folder, f"replay={first}")
    assert "1 tables: bitwise the same." in done.text
    (again,) = client.search_runs([client.get_run(first).info.experiment_id], f"tags.replay_of = '{first}'")
    assert again.data.tags["replay.verdict"] == "bitwise the same"
    assert again.info.run_id != first
    assert again.info.status == "FINISHED"
    assert client.get_run(first).info.status == "FINISHED"


def test_a_word_that_has_changed_is_taken_for_what_it_meant():
    then = {"_target_": "lightning_modules.prompt.studies.SkillNeurons", "scope": "global", "trials": 2}
    now = {"_target_": "lightning_modules.skill_neurons.studies.SkillNeurons", "rank_within": "model", "trials": 2}
    assert foreign.moved({"study": then}) == {"study": now}
    pairs = {"_target_": "lightning_modules.svco.studies.ComparePairs", "steps": 2}
    for name in ("Perturb", "Origin", "Prune"):
        before = {"_target_": f"lightning_modules.skill_neurons.interventions.{name}"}
        assert foreign.moved(before) == {"_target_": f"lightning_modules.skill_neurons.{name.lower()}.{name}"}
    assert foreign.moved(pairs) == {"_target_": "lightning_modules.svco.studies.Compare", "steps": 2}


def test_a_replay_of_what_has_changed_says_where_it_parts(two):
    """The stored config is made another one, as a faulty record would be."""
    folder, client, (_, second) = two
    path = client.download_artifacts(second, "config.yaml")
    cfg = OmegaConf.load(path)
    cfg.balance.weight = cfg.module.weight = 0.1
    client.log_text(second, OmegaConf.to_yaml(cfg), "config.yaml")
    done = main(folder, f"replay={second}", check=False)
    assert done.code == 1
    assert "train/loss parts at step 0: " in done.text


def test_other_data_is_refused_and_other_packages_are_told(two, monkeypatch):
    folder, client, (first, _) = two
    client.set_tag(first, "fingerprint.data", "0" * 16)
    done = main(folder, f"replay={first}", check=False)
    assert done.code == 1
    assert "error: the data is not that of the run (data: 0000000000000000 then," in done.text
    tags = {**client.get_run(first).data.tags, "package.torch": "1.0", "git.commit": "abc"}
    found = replay.drift(tags)
    assert any(line.startswith("commit abc then") for line in found)
    assert any(line.startswith("torch 1.0 then") for line in found)


def test_foreign_code_is_not_run(two):
    folder, client, (first, _) = two
    cfg = OmegaConf.load(client.download_artifacts(first, "config.yaml"))
    cfg.callbacks.progress = {"_target_": "os.system", "command": f"touch {folder}/attacked"}
    client.log_text(first, OmegaConf.to_yaml(cfg), "config.yaml")
    done = main(folder, f"replay={first}", check=False)
    assert done.code == 2
    assert "error: callbacks.progress._target_ is 'os.system', which a config may not call" in done.text
    assert not (folder / "attacked").exists()


def test_an_unknown_run_is_refused_before_anything_is_imported(two):
    folder, _, (first, _) = two
    uri = f"sqlite:///{folder}/tracking/mlflow.db"
    assert known.problem(uri, "A", first) == ""
    assert f"the whole id of one; {first} begins so" in known.problem(uri, "A", first[:20])
    assert "nowhere.db is not there" in known.problem(f"sqlite:///{folder}/nowhere.db", "A", first)
    command = [sys.executable, "-X", "importtime", "-m", "lightning_modules.runtime.diff", "abc", "def", "--uri", uri]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    said = "the tracking server knows no such run; expected the whole id of one.\n"
    assert done.stderr.endswith(f"error: A=abc: {said}  B=def: {said}")
    assert not re.search(r"\| +(mlflow|torch|scipy)$", done.stderr, re.M), "they take seconds"
    with pytest.raises(SystemExit, match="2"):
        preflight.check(config.spelled_out([*places(folder), "replay=abcdef"]))


def test_a_run_id_cannot_escape_its_folder(two):
    done = main(two[0], "replay=../../etc", check=False)
    assert done.code == 2
    assert "replay=../../etc: expected a run's id, hexadecimal digits" in done.text


def test_a_plan_trains_nothing(tmp_path):
    done = main(tmp_path, "-m", "balance=micro,global", "seed=1,2", "plan=true")
    assert "balance=global seed=2" in done.text
    for name in ("parameters", "active", "tokens", "FLOPs", "seconds", "memory", "disk", "sum"):
        assert name in done.text
    assert "81,920" in done.text, "the tokens of four jobs of 20 steps of 32 sequences of 32"
    assert not (tmp_path / "runs").exists()
    # The tests' own empty database is there, and nothing beside it.
    assert [path.name for path in (tmp_path / "tracking").iterdir()] == ["mlflow.db"]


def test_a_folder_with_the_name_of_a_run_is_that_folder(tmp_path, monkeypatch):
    """A replay's folder is named by the run that it replays."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(looking, "finished", lambda name, **_: f"the folder {name}")
    monkeypatch.setattr(looking, "get_run", lambda *_, **__: pytest.fail("the tracking server was asked"))
    Path("f" * 32).mkdir()
    cfg = OmegaConf.create({"look": {"text": True}, "logger": {"tracking_uri": f"sqlite:///{tmp_path}/mlflow.db"}})
    assert looking._found("f" * 32, cfg, own=None) == f"the folder {'f' * 32}"

"""Composing is faster by what `composition` replaces, and gives what Hydra and OmegaConf give by themselves."""

import subprocess
import sys

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf, open_dict, read_write

from lightning_modules.runtime import composition, config
from tests.runtime.cli import PROJECT

COMPOSE = """
import sys
from pathlib import Path
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from lightning_modules.runtime import composition, config
if not {hasten}:
    composition.hasten = lambda: None
config.register_resolvers(project=Path.cwd())
# Those that choose the same options share what these give.
commands = [["debug=smoke", "seed=3"], ["debug=smoke", "seed=4", "~callbacks.figures", "+trainer.benchmark=true"]]
commands += [["debug=smoke"], ["debug=smoke", "balance=micro"], ["debug=smoke", "balance=micro", "balance.weight=0.5"]]
commands += [["debug=smoke", "balance={{weight:0.25}}"], ["debug=smoke", "~export"], ["debug=smoke", "seed=5", "~export"]]
commands += [["experiment=prompt/transfer"], ["experiment=prompt/transfer", "+backbone@source_backbone=hub"]]
commands += [["experiment=svco/compare"], ["seed=3"]]
for overrides in commands:
    with initialize_config_dir(str(Path("conf").resolve()), version_base="1.3"):
        cfg = compose("config", overrides=overrides, return_hydra_config=True)
    print(OmegaConf.to_yaml(cfg), cfg.paths.cache, cfg.hydra.runtime.config_sources)
"""


def test_a_config_is_as_hydra_composes_it_by_itself():
    found = []
    for hasten in (True, False):
        command = [sys.executable, "-c", COMPOSE.format(hasten=hasten)]
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        found.append(done.stdout)
    assert found[0] == found[1]
    assert len(found[0]) > 10_000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1e-3", {"a": 0.001}),
        ("a: 1_000", {"a": 1000}),
        ("a: 2026-11-26", {"a": "2026-11-26"}),
        ("a: yes", {"a": True}),
        ("a: [1.5, null, 'x: y']", {"a": [1.5, None, "x: y"]}),
        ("a: .inf", {"a": float("inf")}),
    ],
)
def test_values_of_a_file_have_omegaconfs_types(text, expected):
    composition.hasten()
    assert OmegaConf.to_container(OmegaConf.create(text)) == expected


def test_a_key_that_stands_twice_is_refused():
    composition.hasten()
    with pytest.raises(yaml.constructor.ConstructorError, match="found duplicate key a"):
        OmegaConf.create("a: 1\na: 2")


def test_an_interpolation_that_is_kept_is_resolved_where_it_stands():
    composition.hasten()
    cfg = OmegaConf.create({"a": 1, "b": "${.a}", "inner": {"a": 2, "b": "${.a}"}})
    assert (cfg.b, cfg.inner.b) == (1, 2)
    cfg.a = 3
    assert cfg.b == 3


@pytest.fixture
def hydra():
    """Hydra, as main.py and preflight ask it; every test with a seed of its own, so that nothing of it is kept yet."""
    config.register_resolvers(project=PROJECT)
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3", job_name="main"):
        yield GlobalHydra.instance().hydra


def test_the_same_command_is_composed_once_whoever_asks(hydra, monkeypatch):
    overrides = ["debug=smoke", "seed=90001"]
    first = compose("config", overrides=overrides, return_hydra_config=True)
    monkeypatch.setattr(type(hydra.config_loader), "_load_configuration_impl", None)
    for mode, checked in ((RunMode.MULTIRUN, False), (RunMode.RUN, True)):
        again = hydra.compose_config("config", overrides, run_mode=mode, validate_sweep_overrides=checked)
        assert OmegaConf.to_container(again) == OmegaConf.to_container(first)
        assert OmegaConf.is_struct(again)
        # Hydra writes into what it has composed.
        again.seed = 5
        again.hydra.mode = mode


def test_another_command_or_folder_is_composed_anew(hydra, tmp_path, monkeypatch):
    first = compose("config", overrides=["seed=90002"], return_hydra_config=True)
    assert compose("config", overrides=["seed=90003"]).seed == 90003
    monkeypatch.chdir(tmp_path)
    there = compose("config", overrides=["seed=90002"], return_hydra_config=True)
    assert (first.hydra.runtime.cwd, there.hydra.runtime.cwd) == (str(PROJECT), str(tmp_path))


def test_options_are_read_once_and_what_is_written_into_a_config_stays_there(hydra, tmp_path, monkeypatch):
    # A folder that nobody else has looked in.
    options = ["debug=smoke", f"hydra.searchpath=[{tmp_path}]"]
    first = compose("config", overrides=[*options, "seed=90006"], return_hydra_config=True)
    first.trainer.max_steps = 1
    with read_write(first.hydra), open_dict(first):
        first.hydra.job.name = first.new = "other"
    repository, read = type(hydra.config_loader.repository), []
    load = repository.load_config
    monkeypatch.setattr(
        repository, "load_config", lambda *a, config_path: read.append(config_path) or load(*a, config_path)
    )
    second = compose("config", overrides=[*options, "seed=90007"], return_hydra_config=True)
    assert (second.seed, second.hydra.job.name, "new" in second) == (90007, "main", False)
    assert second.trainer.max_steps > 1
    assert read == ["config"], "Hydra looks there for hydra.searchpath"
    compose("config", overrides=[*options, "balance=micro"])
    assert "balance/micro" in read


def test_options_of_another_folder_are_read_there(hydra, tmp_path):
    compose("config", overrides=["balance=global"])
    (tmp_path / "balance").mkdir()
    (tmp_path / "balance" / "global.yaml").write_text("other: 1\n")
    found = compose("config", overrides=["balance=global", f"hydra.searchpath=[{tmp_path}]"])
    assert "weight" in found.balance
    (tmp_path / "balance" / "mine.yaml").write_text("other: 1\n")
    found = compose("config", overrides=["balance=mine", f"hydra.searchpath=[{tmp_path}]"])
    assert found.balance.other == 1
    (tmp_path / "elsewhere" / "balance").mkdir(parents=True)
    (tmp_path / "elsewhere" / "balance" / "mine.yaml").write_text("other: 2\n")
    found = compose("config", overrides=["balance=mine", f"hydra.searchpath=[{tmp_path}/elsewhere]"])
    assert found.balance.other == 2
    with pytest.raises(HydraException, match="Could not find 'balance/mine'"):
        compose("config", overrides=["balance=mine"])


def test_what_a_run_refuses_is_refused_though_a_sweep_has_composed_it(hydra):
    hydra.compose_config("config", ["seed=90004,90005"], run_mode=RunMode.MULTIRUN)
    assert hydra.get_mode("config", ["seed=90004,90005"]) is None
    with pytest.raises(HydraException, match="To sweep over it, add --multirun"):
        hydra.compose_config("config", ["seed=90004,90005"], run_mode=RunMode.RUN)

"""Composing is faster by what `composition` replaces, and gives what Hydra and OmegaConf give by themselves."""

import subprocess
import sys

import pytest
import yaml
from omegaconf import OmegaConf

from lightning_modules.runtime import composition
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
for overrides in (["debug=smoke", "seed=3"], ["experiment=prompt/transfer"], ["experiment=svco/compare"]):
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

"""What somebody who writes to the tracking server, or to a folder that a run reads, could try; none of it may happen.

Each attack would leave a file `attacked`; `make soak` counts them. A stored config is altered on a real local store.
"""

import json
import pickle
import sys

import pytest
import torch
from mlflow import MlflowClient
from omegaconf import OmegaConf

from lightning_modules.moe import comparison
from lightning_modules.moe.pretrained import pretrained_moe
from lightning_modules.prompt.backbones import HubBackbone
from lightning_modules.prompt.prompt_file import PromptFile
from lightning_modules.runtime import foreign, preflight, schema, trust
from lightning_modules.runtime.config import register_resolvers
from lightning_modules.training.checkpoints import CheckedCheckpoints
from tests.runtime.cli import PROJECT, main


class Touch:
    """Unpickled, it makes the file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """(client, run id, config of this machine, stored config as text) of a run that was never trained."""
    folder = tmp_path_factory.mktemp("store")
    register_resolvers(project=PROJECT)
    places = [f"paths.{name}={folder}/{name}" for name in ("cache", "runs", "tracking")]
    errors, here = preflight.examine(["debug=smoke", *places])
    assert not errors
    here.paths.run = f"{folder}/runs/a/0123-s1"
    (folder / "tracking").mkdir()
    client = MlflowClient(here.logger.tracking_uri)
    run_id = client.create_run(client.create_experiment("a", artifact_location=str(folder / "artifacts"))).info.run_id
    plain = OmegaConf.to_container(OmegaConf.masked_copy(here, [k for k in here if k != "hydra"]), resolve=True)
    return client, run_id, here, OmegaConf.to_yaml(OmegaConf.create(plain))


@pytest.fixture
def replayed(store, tmp_path):
    """A function of an alteration of the stored config that takes it as a replay would; the folder of the replay."""
    client, run_id, here, text = store

    def take(alter=lambda cfg: None, *, text=text):
        cfg = OmegaConf.create(text)
        altered = alter(cfg)
        client.log_text(run_id, altered if isinstance(altered, str) else OmegaConf.to_yaml(cfg), "config.yaml")
        return foreign.config_of(client, run_id, folder=tmp_path / "replay", here=here)

    return take


@pytest.mark.slow
def test_what_a_run_stores_is_taken(replayed, store, tmp_path):
    cfg = replayed()
    assert cfg.callbacks.resume_point.folder == f"{tmp_path}/replay/checkpoints"
    assert cfg.logger.tracking_uri == store[2].logger.tracking_uri


# Name -> (the altered part of the config, from the path of the file that must not appear; words of the refusal)
NAMES = {
    "a library's function that runs a command": (
        lambda f: {"callbacks": {"x": {"_target_": "torch.utils.collect_env.run", "command": f"touch {f}"}}},
        "callbacks.x._target_ is 'torch.utils.collect_env.run'",
    ),
    "a mapping inside lists": (
        lambda f: {"data": {"source": {"budget": [[{"a": {"_target_": "os.system", "command": f"touch {f}"}}]]}}},
        r"data.source.budget\[0\]\[0\].a._target_ is 'os.system'",
    ),
    "an argument by position of what is allowed": (
        lambda f: {"module": {"_target_": "torch.nn.Sequential", "_args_": [{"_target_": "os.mknod", "_args_": [f]}]}},
        r"module._args_\[0\]._target_ is 'os.mknod'",
    ),
    "a partial that the trainer would call": (
        lambda f: {"callbacks": {"x": {"_target_": "pathlib.Path.touch", "_partial_": True, "_args_": [f]}}},
        "callbacks.x._target_ is 'pathlib.Path.touch'",
    ),
    "a pickle through torch": (
        lambda f: {"model": {"_target_": "torch.load", "f": f"{f}.pickle", "weights_only": False}},
        "model._target_ is 'torch.load'",
    ),
    "a module that ours imports": (
        lambda f: {"callbacks": {"x": {"_target_": "datamodules.fetch.subprocess.run", "args": ["touch", f]}}},
        "'datamodules.fetch.subprocess.run'",
    ),
    "a function of ours that writes": (
        lambda f: {"callbacks": {"x": {"_target_": "lightning_modules.common.files.write_atomically", "path": f}}},
        "'lightning_modules.common.files.write_atomically'",
    ),
    "a function of ours that builds a package": (
        lambda f: {"data": {"_target_": "datamodules.fetch.fetch", "pin": {"_target_": "datamodules.fetch.Pin"}}},
        "'datamodules.fetch.fetch'",
    ),
    "a module to import as checks": (lambda f: {"checks": "attacker.checks"}, "checks is 'attacker.checks'"),
    "a launcher of Hydra's": (
        lambda f: {"hydra": {"callbacks": {"x": {"_target_": "os.system", "command": f"touch {f}"}}}},
        "hydra.callbacks.x._target_ is 'os.system'",
    ),
    "a name that an interpolation makes": (
        lambda f: {"callbacks": {"x": {"_target_": "${oc.decode:'os.system'}", "command": f"touch {f}"}}},
        "callbacks.x._target_ is .* expected a plain value",
    ),
    "a secret of the environment": (lambda f: {"run_name": "${oc.env:HOME}"}, "run_name is '.{oc.env:HOME}'"),
    "checkpoints elsewhere": (
        lambda f: {"callbacks": {"resume_point": {"folder": f}}},
        "callbacks.resume_point.folder is .* writes below",
    ),
    "checkpoints beside the folder": (
        lambda f: {"callbacks": {"checkpoint": {"filename": "../../attacked"}}},
        "callbacks.checkpoint.filename is '../../attacked'",
    ),
    "a cache elsewhere": (lambda f: {"data": {"cache_dir": f"{f}/cache"}}, "data.cache_dir is .* writes below"),
    "another folder by a moved one": (
        lambda f: {"callbacks": {"figures": {"folder": "/then/../../../../../../" + f}}, "paths": {"run": "/then"}},
        "callbacks.figures.folder is .* writes below",
    ),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_config_of_the_server_calls_nothing(replayed, tmp_path, monkeypatch, name):
    alteration, said = NAMES[name]
    attacked = tmp_path / "attacked"
    (tmp_path / "attacker").mkdir()
    (tmp_path / "attacker" / "checks.py").write_text(f"open({str(attacked)!r}, 'w')")
    (tmp_path / "attacked.pickle").write_bytes(pickle.dumps(Touch(attacked)))
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=said):
        replayed(lambda cfg: cfg.merge_with(alteration(str(attacked))))
    assert not attacked.exists()


def test_a_tag_of_yaml_makes_no_object(replayed, tmp_path):
    call = f"run_name: !!python/object/apply:os.system ['touch {tmp_path}/attacked']"
    with pytest.raises(ValueError, match="is no config: could not determine a constructor"):
        replayed(lambda cfg: OmegaConf.to_yaml(cfg).replace("run_name: null", call))
    with pytest.raises(ValueError, match="run_name is PosixPath"):
        replayed(
            lambda cfg: OmegaConf.to_yaml(cfg).replace(
                "run_name: null", "run_name: !!python/object/apply:pathlib.Path [/etc]"
            )
        )
    assert not (tmp_path / "attacked").exists()


def test_another_tracking_server_is_not_reached(replayed, store, tmp_path):
    theirs = {"tracking_uri": f"sqlite:///{tmp_path}/attacked", "artifact_location": f"{tmp_path}/attacked"}

    def alter(cfg):
        cfg.logger, cfg.prompts, cfg.paths.tracking = theirs, {"tracking_uri": theirs["tracking_uri"]}, "/attacked"

    cfg = replayed(alter)
    assert "attacked" not in OmegaConf.to_yaml(cfg)
    assert cfg.prompts.tracking_uri == cfg.logger.tracking_uri == store[2].logger.tracking_uri
    assert cfg.logger.artifact_location == store[2].logger.artifact_location


def test_a_package_let_in_is_no_way_through(replayed, tmp_path, monkeypatch):
    package = tmp_path / "mylab"
    package.mkdir()
    (package / "__init__.py").write_text("import subprocess\nclass Mine: ...\n")
    monkeypatch.syspath_prepend(tmp_path)

    def name(target):
        return lambda cfg: cfg.merge_with({"callbacks": {"x": {"_target_": target}}})

    with pytest.raises(ValueError, match="'mylab.Mine', which a config may not call.* FACET_PACKAGES=NAME"):
        replayed(name("mylab.Mine"))
    assert "mylab" not in sys.modules
    monkeypatch.setenv(trust.PACKAGES, "mylab")
    assert replayed(name("mylab.Mine")).callbacks.x._target_ == "mylab.Mine"
    for through in ("mylab.subprocess.run", "mylab.subprocess.os.system", "mylab.Mine.__class__", "os.system"):
        with pytest.raises(ValueError, match=f"'{through}', which a config may not call"):
            replayed(name(through))


@pytest.mark.parametrize("value", ["${oc.decode:${oc.env:ATTACK}}", "${oc.create:${oc.decode:${oc.env:ATTACK}}}"])
def test_preflight_sees_what_interpolations_make(store, monkeypatch, value):
    monkeypatch.setenv("ATTACK", "{_target_: os.system}")
    cfg = OmegaConf.create(store[3])
    cfg.callbacks.x = value
    cfg.data.source.missing = "${nowhere}"
    assert any("callbacks.x._target_ is 'os.system', which" in e for e in schema.problems(cfg))
    cfg.callbacks.x = [{"a": value, "b": "${nowhere}"}]
    assert any("'os.system', which a config may not call" in e for e in schema.problems(cfg))


def test_preflight_imports_no_foreign_checks():
    assert any(
        "checks is 'antigravity.checks', which" in e for e in preflight.examine(["checks=antigravity.checks"])[0]
    )
    assert "antigravity" not in sys.modules


def test_conf_calls_nothing_that_is_not_allowed():
    """And the list is exact: nothing that runs, loads, downloads or writes for whoever names it."""
    assert "lightning_modules.moe.MoELM" in trust.names()
    assert not [n for n in trust.names() if n.startswith(("transformers.", "torch.utils", "torch.hub", "optuna."))]
    assert not [n for n in trust.names() if n.rpartition(".")[2] in ("fetch", "load", "run", "made", "compile")]


@pytest.mark.slow
def test_a_pickle_in_the_place_of_an_artifact_is_not_loaded(tmp_path):
    attacked = tmp_path / "attacked"
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    run_id = client.create_run(client.create_experiment("a", artifact_location=str(tmp_path / "artifacts"))).info.run_id
    (tmp_path / "prompt.safetensors").write_bytes(pickle.dumps(Touch(attacked)))
    client.log_artifact(run_id, str(tmp_path / "prompt.safetensors"), "export")
    with pytest.raises(ValueError, match="damaged or not safetensors"):
        PromptFile.of_run(run_id, f"sqlite:///{tmp_path}/mlflow.db")
    (tmp_path / "figures").mkdir()
    for file in ("figures/routing_test.pt", "last.ckpt"):
        torch.save({"counts_NLE": Touch(attacked)}, tmp_path / file)
    with pytest.raises(pickle.UnpicklingError, match="Weights only"):
        comparison.shares({"folder": tmp_path})
    with pytest.raises(ValueError, match="checkpoint .* start anew"):
        CheckedCheckpoints().load_checkpoint(tmp_path / "last.ckpt", weights_only=False)
    assert not attacked.exists()
    pickle.loads(pickle.dumps(Touch(attacked)))
    assert attacked.exists(), "the attack itself works"


@pytest.mark.parametrize("load", ["model.pretrained", "backbone.name"])
def test_a_model_folder_brings_no_code_and_no_pickle(tmp_path, load):
    attacked = tmp_path / "attacked"
    (tmp_path / "theirs.py").write_text(f"open({str(attacked)!r}, 'w')\n")
    config = {"model_type": "theirs", "auto_map": dict.fromkeys(("AutoConfig", "AutoModelForCausalLM"), "theirs.Model")}
    loads = {
        "model.pretrained": lambda: pretrained_moe(pretrained=str(tmp_path)),
        "backbone.name": lambda: HubBackbone(name=str(tmp_path)).load(),
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="trust_remote_code|custom code"):
        loads[load]()
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}))
    torch.save({"wte": Touch(attacked)}, tmp_path / "pytorch_model.bin")
    with pytest.raises((ValueError, OSError), match="safetensors"):
        loads[load]()
    assert not attacked.exists()


def test_the_command_line_refuses_it_too(store, tmp_path):
    """The whole way once: `main.py replay=RUN` of a run whose config was altered on the server."""
    client, run_id, here, text = store
    cfg = OmegaConf.create(text)
    cfg.callbacks.x = {"_target_": "torch.utils.collect_env.run", "command": f"touch {tmp_path}/attacked"}
    client.log_text(run_id, OmegaConf.to_yaml(cfg), "config.yaml")
    done = main(tmp_path, f"replay={run_id}", f"logger.tracking_uri={here.logger.tracking_uri}", check=False)
    assert done.code == 2
    assert "error: callbacks.x._target_ is 'torch.utils.collect_env.run', which a config may not call" in done.text
    # The tests' own empty database is there.
    assert [place.name for place in tmp_path.iterdir()] == ["tracking"]

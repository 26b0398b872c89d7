"""Malformed command lines: each answered by one message that names the key and the nearest right thing."""

import sys

import pytest
from omegaconf import OmegaConf

from lightning_modules.runtime import preflight, system
from lightning_modules.runtime.config import register_resolvers
from tests import forks
from tests.runtime.cli import PROJECT

# (overrides, what the one message must hold)
MALFORMED = [
    # Misspelt keys: the whole path, then the last segment; groups by their own name.
    (["model.layer=3"], ["model.layer: no such key", "'model.layers'"]),
    (["trainer.max_step=5"], ["trainer.max_step: no such key", "'trainer.max_steps'"]),
    (["optimiser.lr=1"], ["optimiser.lr: no such key", "'optimizer.lr'"]),
    (["data.microbatch=4"], ["data.microbatch: no such key", "'data.micro_batch'"]),
    (["balance.wieght=1"], ["balance.wieght: no such key", "'balance.weight'"]),
    (["model.warmup_steps=5"], ["model.warmup_steps: no such key", "'optimizer.warmup_steps'"]),
    (["max_steps=5"], ["max_steps: no such key", "'trainer.max_steps'"]),
    (["balance=global", "balance.scope=micro"], ["balance.scope: no such key", "'balance=micro'"]),
    (["balance.scope=nonsense"], ["balance.scope: no such key", "balance has weight, block, micro_weight"]),
    (["balance=aux_free", "callbacks.aux_free_bias.scope=all"], ["scope is 'all'", "'micro' or 'batch'"]),
    (
        ["experiment=prompt/skill_neurons", "study.rank_within=global"],
        ["rank_within is 'global'", "'layer' or 'model'"],
    ),
    (["experiment=moe/claims/global_lowers_ppl"], ["experiment=moe/claims/global_lowers_ppl: no such option"]),
    (["sed=2"], ["sed: no such key", "'seed'"]),
    (["logger.uri=x"], ["logger.uri: no such key"]),
    (["callbacks.resume_piont.every_n_steps=5"], ["no such key", "'callbacks.resume_point.every_n_steps'"]),
    (["+model.devise=cpu"], ["build_moe takes no 'devise'", "'device'"]),
    (["+trainer.max_stps=5"], ["pytorch_lightning.Trainer takes no 'max_stps'", "'max_steps'"]),
    (["+modle.layers=3"], ["there is no 'modle' to add to", "'model'"]),
    # Misspelt groups and options.
    (["balance=globl"], ["balance=globl: no such option", "'global'"]),
    (["modl=small"], ["modl: no such key", "'model'"]),
    (["model=smal"], ["model=smal: no such option", "'small'"]),
    (["experiment=moe/scop"], ["experiment=moe/scop: no such option", "'moe/scope'"]),
    (["experiment=scope"], ["experiment=scope: no such option", "moe/scope"]),
    (["balance=micro,globl"], ["balance=globl: no such option", "'global'"]),
    (["trainer=ddp"], ["trainer=ddp: no such option", "ddp_cpu"]),
    (["experiment=prompt/project", "backbone@source_backbone=hubb"], ["backbone=hubb: no such option", "'hub'"]),
    # Of another system.
    (
        ["experiment=svco/train", "model=tiny"],
        ["model=tiny is of moe, and this is svco; expected one of vlm_tiny, vlm_emoji, vlm."],
    ),
    (["data=scenes"], ["data=scenes is of svco, and this is moe; expected one of corpus, corpus_folder,"]),
    (["experiment=prompt/pretrain", "data=task"], ["data=task is of prompt, and this is pretraining; expected one of"]),
    (["experiment=prompt/tune", "debug=smoke"], ["In 'debug/smoke': Could not override 'model'", "for systems which"]),
    # Twice.
    (
        ["experiment=moe/scope", "experiment=prompt/tune"],
        ["experiment is given 2 times", "=moe/scope and", "prompt/tune"],
    ),
    (["balance=global", "balance=micro,global"], ["balance is given 2 times", "balance=A,B"]),
    (["seed=1", "seed=2", "seed=1"], ["seed is given 3 times, seed=1 and seed=2 and seed=1; expected once"]),
    (
        ["+model.device=meta", "++model.device=cpu"],
        ["model.device is given 2 times, +model.device=meta and ++model.device"],
    ),
    (
        ["experiment=prompt/project", "backbone@source_backbone=language_wide", "backbone@source_backbone=minilm"],
        ["backbone@source_backbone is given 2 times"],
    ),
    # A search.
    (
        ["experiment=prompt/tune", "hydra/sweeper=search", "tuner.length=choice(4,8)"],
        ["would choose by objective_metric=test/accuracy", "as objective_metric=val/accuracy"],
    ),
    # Types.
    (["optimizer.lr=abc"], ["optimizer.lr is 'abc'", "number"]),
    (["seed=one"], ["seed is 'one'", "integer"]),
    (["model.layers=2.5"], ["model.layers is 2.5", "integer"]),
    (["fresh=maybe"], ["fresh is 'maybe'", "boolean"]),
    (["optimizer.betas=[0.9]"], ["optimizer.betas is [0.9]", "a list of 2 values"]),
    (["seed=1,x"], ["seed is 'x'", "integer"]),
    (["data.workers=true"], ["data.workers is True", "integer"]),
    # Ranges.
    (["seed=-1"], ["seed is -1", "greater than or equal to 0"]),
    (["model.dropout=1.5"], ["model.dropout is 1.5", "less than or equal to 1"]),
    (["balance.weight=-0.1"], ["balance.weight is -0.1", "greater than or equal to 0"]),
    (["optimizer.lr=0"], ["optimizer.lr is 0", "greater than 0"]),
    (["callbacks.resume_point.every_n_steps=0"], ["every_n_steps is 0", "greater than or equal to 1"]),
    (["trainer.max_steps=-1"], ["trainer.max_steps is -1", "at least 1"]),
    # Missing.
    (["data=corpus_folder"], ["data.path is missing: set data.path=VALUE"]),
    (["data=corpus_hub"], ["data.hub is missing"]),
    (
        ["data=corpus_hub", "data.hub={a: {path: json, tokens: 9}}"],
        ["data.hub.a.tokens is counted by a model's tokenizer, and here one is trained on the text"],
    ),
    (
        [
            "experiment=prompt/tune",
            "data=task_hub",
            "data.source.dataset=a/b",
            "data.source.words={0: [bad, x y], 1: z}",
        ],
        ["task custom: label word 'x y' is unknown to this backbone"],
    ),
    # Choices that contradict each other.
    (["model.top_k=17"], ["model.top_k is 17", "model.experts, which is 16"]),
    (["data.global_batch=30", "data.micro_batch=4"], ["data.global_batch is 30", "the nearest is 32"]),
    (["balance=group", "balance.block=5"], ["balance.block is 5", "the nearest is 4"]),
    (["balance=aux_free", "model.family=olmoe"], ["balance=aux_free", "model.family=deepseek_v3"]),
    (["data.layout=mixd"], ["data.layout is 'mixd'", "the nearest is mixed"]),
    (["model.family=qwen3"], ["model.family is 'qwen3'", "the nearest is qwen3_moe"]),
    (["data.seq_len=4096"], ["data.seq_len is 4096", "model.max_positions, which is 1024"]),
    (["balance.from_step=10", "balance.until_step=5"], ["balance.until_step is 5", "balance.from_step, which is 10"]),
    (["balance.layer_reduction=max"], ["balance.layer_reduction is 'max'", "mean, sum"]),
    (["data=corpus_folder", "data.path=/nowhere/at/all"], ["data.path=/nowhere/at/all is no folder"]),
    (["model.pretrained=NAME"], ["model.pretrained: no such key; the nearest is 'model=pretrained'"]),
    (["model=pretrained", "model.pretrained=NAME", "model.layers=2"], ["model.layers: no such key"]),
    (["model=pretrained", "model.pretrained=/nowhere/at/all"], ["model.pretrained=/nowhere/at/all", "no config.json"]),
    (["objective_metric=ppl"], ["objective_metric is 'ppl'", "val/ppl"]),
    (["experiment_name=../../escape"], ["experiment_name is '../../escape'", "none of them '..'"]),
    (["experiment_name=/tmp/escape"], ["experiment_name is '/tmp/escape'", "names a folder under paths.runs"]),
    # In the place of what a group makes.
    (["data.source=5"], ["data.source is 5; expected an instance of Source"]),
    (["experiment=prompt/tune", "data.source=agnews"], ["data.source is 'agnews'; expected an instance of Source"]),
    # Not a command line at all.
    (["seed"], ["seed: cannot be read", "KEY=VALUE"]),
    (["data.hub={a: "], ["data.hub={a: : cannot be read"]),
    # Code that a config may not name.
    (["+callbacks.mine._target_=os.system"], ["'os.system'", "lightning_modules"]),
    (["callbacks.progress._target_=subprocess.run"], ["'subprocess.run'", "lightning_modules"]),
]


@pytest.fixture(scope="module", autouse=True)
def resolvers():
    register_resolvers(project=PROJECT)


@pytest.mark.parametrize(("overrides", "expected"), MALFORMED, ids=[" ".join(o) for o, _ in MALFORMED])
@pytest.mark.slow
def test_one_message_names_the_key_and_the_nearest_right_thing(overrides, expected):
    errors, _ = preflight.examine(overrides)
    assert len(errors) == 1, errors
    for words in expected:
        assert words in errors[0]
    assert "+" not in errors[0] or overrides[0].startswith("+"), "never the advice to add"


def test_there_are_forty():
    assert len(MALFORMED) >= 40


def test_all_errors_come_at_once():
    errors, _ = preflight.examine(["seed=-1", "optimizer.lr=abc", "data.layout=mixd", "model.top_k=17"])
    assert [e.split(" is ")[0] for e in errors] == ["seed", "optimizer.lr", "data.layout", "model.top_k"]
    errors, _ = preflight.examine(["balance=globl", "model.layer=3", "seed"])
    assert len(errors) == 3


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["debug=smoke"],
        ["experiment=moe/scope", "balance=micro,global", "seed=1,2,3"],
        ["balance=group", "balance.block=8", "+model.device=meta"],
        ["seed=range(1,4)", "optimizer.lr=0.001,1e-2"],
        ["data=corpus_hub", "data.hub={a: {path: json}}"],
        ["hydra/sweeper=search", "optimizer.lr=interval(1e-4,1e-2)"],
        ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
        ["balance=aux_free"],
        ["trainer=ddp_cpu", "trainer.devices=4"],
        ["callbacks.figures=null", "logger=none"],
        ["model=paper_3b"],
        ["experiment=prompt/project", "backbone@source_backbone=hub", "source_backbone.name=user/model"],
        ["experiment=prompt/project", "backbone@source_backbone=language_wide", "backbone=language_small"],
        [
            "experiment=prompt/tune",
            "data=task_hub",
            "data.source.dataset=user/reviews",
            "data.source.words={0: bad, 1: good}",
        ],
    ],
    ids=lambda o: " ".join(o) or "nothing",
)
@pytest.mark.slow
def test_what_is_right_passes(overrides):
    errors, cfg = preflight.examine(overrides)
    assert errors == []
    assert cfg is not None


@pytest.mark.parametrize(
    ("overrides", "direction"),
    [([], "minimize"), (["system=svco"], "maximize"), (["objective_metric=moe/maxvio_global"], "minimize")],
)
def test_a_search_goes_the_way_in_which_its_metric_is_better(overrides, direction):
    with preflight.composing():
        cfg = preflight.composed([*overrides, "hydra/sweeper=search"], [])
    assert cfg.hydra.sweeper.direction == direction


def test_an_option_that_changes_other_groups_is_told_with_them():
    errors, _ = preflight.examine(["experiment=svco/train", "debug=smoke"])
    assert {error.partition(",")[0] for error in errors} == {
        "debug=smoke is of moe",
        "data=synthetic is of moe",
        "model=tiny is of moe",
    }


@pytest.mark.parametrize("group", ["model", "data"])
def test_every_option_of_a_group_is_a_systems_own(group):
    owned = [name for groups in system.of_all("OPTIONS").values() for name in groups.get(group, ())]
    assert sorted(owned) == sorted(path.stem for path in (PROJECT / "conf" / group).glob("*.yaml"))


def test_an_option_of_nobody_and_a_system_of_the_users_are_left_alone():
    def said(name, **choices):
        checks = "lightning_modules.svco.checks" if name == "svco" else None
        cfg = {"system_name": name, "checks": checks, "hydra": {"runtime": {"choices": choices}}}
        return system.elsewhere(OmegaConf.create(cfg))

    assert said("svco", model="mine", data="scenes") == [] == said("toy", model="tiny", data="scenes")
    assert said("svco", model="tiny", data="mine") == [
        "model=tiny is of moe, and this is svco; expected one of vlm_tiny, vlm_emoji, vlm."
    ]


def test_a_rank_is_told_by_lightning_to_write_no_settings(monkeypatch):
    for rank, refused in (("0", 1), ("1", 0)):
        monkeypatch.setenv("LOCAL_RANK", rank)
        assert len(preflight.examine(["trainer=ddp_cpu", "hydra.output_subdir=null"])[0]) == refused


def run(folder, *arguments, really=False):
    command = [sys.executable, str(PROJECT / "main.py"), *arguments]
    return forks.run(command, cwd=folder, timeout=120, really=really)


def test_the_exit_code_is_two_and_nothing_is_created(tmp_path):
    places = [f"paths.{name}={tmp_path}/made/{name}" for name in ("cache", "runs", "tracking")]
    done = run(tmp_path, *places, "model.layer=3", "seed=x", really=True)
    assert done.returncode == 2
    assert done.stderr.startswith("2 errors in the command line or config; nothing was created:\n")
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
    assert run(tmp_path, "-m", *places, "seed=1,x").returncode == 2
    assert list(tmp_path.iterdir()) == []


def test_hydras_own_flags_still_work(tmp_path):
    shown = run(tmp_path, "--cfg", "job", "balance=micro")
    assert shown.returncode == 0
    assert "micro_weight: 0.0" in shown.stdout
    assert run(tmp_path, "--info", "defaults").returncode == 0
    assert run(tmp_path, "--help").stdout.startswith("Facet: ")
    completion = run(tmp_path, "-sc", "install=bash")
    assert "complete -o" in completion.stdout

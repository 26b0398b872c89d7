"""What the trainer names is there, and is asked for before anything is made."""

import pytest
import torch

from lightning_modules.runtime import devices, preflight
from lightning_modules.runtime.config import register_resolvers
from lightning_modules.runtime.preflight.composing import composed, composing
from tests.runtime.cli import PROJECT

TRAINERS = sorted(p.stem for p in (PROJECT / "conf" / "trainer").glob("*.yaml"))


register_resolvers(project=PROJECT)


def said(*overrides):
    return preflight.examine(["debug=smoke", *overrides])[0]


@pytest.mark.parametrize("name", TRAINERS)
@pytest.mark.slow
def test_every_trainer_goes_through_preflight_where_its_devices_are(name, eight_gpus):
    assert said(f"trainer={name}", "data.micro_batch=4", "data.global_batch=32") == []


@pytest.mark.parametrize("name", [name for name in TRAINERS if "cpu" not in name])
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_trainer_without_a_gpu_is_one_line(name):
    (error,) = said(f"trainer={name}")
    assert error.startswith("trainer.accelerator is gpu, but torch ")
    assert "trainer=cpu" in error


def test_more_devices_than_there_are(eight_gpus):
    assert said("trainer=gpu", "trainer.devices=16", "data.global_batch=64") == [
        "trainer.devices is 16, but this machine has 8; the nearest is 8."
    ]


def test_a_precision_that_the_device_lacks(eight_gpus):
    (error,) = said("trainer=gpu", "trainer.precision=bf16-true")
    assert error == "trainer.precision is bf16-true, which this GPU lacks; the nearest is 16-true."
    (error,) = said("trainer.precision=16-mixed")
    assert error == "trainer.precision is 16-mixed, which the CPU lacks; the nearest is bf16-mixed."


def test_a_study_casts_no_model_that_it_measures_with():
    found = preflight.examine(["experiment=prompt/transfer", "trainer.precision=bf16-true"])[0]
    assert found == [
        "trainer.precision is bf16-true, which would cast the model that a study trains on and measures with; the nearest "
        "is bf16-mixed."
    ]


def test_float64_has_no_grouped_product():
    (error,) = said("trainer.precision=64-true", "model.experts_implementation=grouped_mm")
    assert error.endswith("the nearest is model.experts_implementation=sorted.")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_machine_that_only_submits_needs_no_gpu():
    assert said("trainer=ddp_gpu", "trainer.devices=8", "data.global_batch=64", "hydra/launcher=slurm") == []


@pytest.mark.parametrize("given", ["0", "two", "-2", "[]"])
def test_what_is_no_number_of_devices(given):
    errors = said(f"trainer.devices={given}")
    assert errors == [
        f"trainer.devices is {given if given != 'two' else repr(given)}; expected a number of at least 1, a list of device "
        "numbers, or auto."
    ]


def test_processes_of_all_nodes_share_the_global_batch(eight_gpus, monkeypatch):
    """`auto` counts as the eight devices that it will be."""
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    (error,) = said("trainer=ddp_gpu", "trainer.num_nodes=2", "data.global_batch=32")
    assert "trainer.devices (16) = 64; the nearest is 64" in error
    assert said("trainer=ddp_gpu", "trainer.num_nodes=2", "data.global_batch=64") == []


def test_a_process_that_would_wait_for_nodes_nobody_started_is_refused():
    (error,) = said("trainer=ddp_cpu", "trainer.num_nodes=2", "data.global_batch=64")
    assert (
        "nothing told this process which node it is on; expected it started on each node by srun or torchrun" in error
    )
    assert said("trainer=ddp_cpu", "trainer.num_nodes=2", "data.global_batch=64", "plan=true") == []


def test_a_batch_script_without_srun_has_started_no_node(monkeypatch):
    for name, value in {**BATCH, "SLURM_NTASKS_PER_NODE": "1"}.items():
        monkeypatch.setenv(name, value)
    told = said("trainer=ddp_cpu", "trainer.num_nodes=2", "trainer.devices=1")
    assert "nothing told this process which node it is on" in told[0]
    assert told[1].startswith("SLURM_NTASKS=2, and this process, which would wait for others, was not started by srun")
    assert said("trainer.devices=1") == []


BATCH = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "mine.sh", "SLURM_NTASKS": "2", "SLURM_PROCID": "0"}
STEP = {**BATCH, "SLURM_STEP_ID": "0"}
TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}
TWO = ("trainer=ddp_cpu", "trainer.devices=2")


@pytest.mark.parametrize(
    ("environment", "overrides", "told"),
    [
        (STEP, (), "SLURM_NTASKS=2: 2 processes were started for this run"),
        (
            {**STEP, "SLURM_PROCID": "1"},
            (),
            "expected trainer.devices=2, or srun --ntasks=1. Runs side by side are each an",
        ),
        ({**STEP, "SLURM_NTASKS": "3"}, ("trainer=ddp_cpu", "trainer.num_nodes=2"), "expected srun --ntasks=4."),
        ({**STEP, "SLURM_JOB_NAME": "interactive", "SLURM_PROCID": "1"}, (), "SLURM_NTASKS=2: "),
        (
            TORCHRUN,
            (),
            "WORLD_SIZE=2: 2 processes were started for this run, and trainer.devices x trainer.num_nodes is 1;",
        ),
        ({"RANK": "1"}, (), "RANK=1: several processes were started for this run"),
        ({"RANK": "2"}, TWO, "expected 2 started. Where no launcher has, RANK, LOCAL_RANK and WORLD_SIZE are unset."),
        (STEP, TWO, None),
        ({**STEP, **TORCHRUN, "SLURM_NTASKS": "1"}, TWO, None),
        # Lightning starts the others itself: a batch script without srun, a shell within a step, an image's own habit.
        (BATCH, (), None),
        ({**STEP, "SLURM_JOB_NAME": "bash", "SLURM_NTASKS": "1"}, TWO, None),
        ({"RANK": "0", "WORLD_SIZE": "1"}, TWO, None),
        # As it starts them, and as people do by hand.
        ({"LOCAL_RANK": "1", "WORLD_SIZE": "2", "NODE_RANK": "0"}, TWO, None),
        ({"LOCAL_RANK": "1"}, TWO, None),
        ({**STEP, "SLURM_PROCID": "1"}, ("hydra/launcher=slurm",), None),
    ],
)
def test_as_many_processes_as_were_started_are_wanted(monkeypatch, environment, overrides, told):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with composing():
        found = list(devices.started_as_many(composed(["debug=smoke", *overrides], [])))
    assert len(found) == (told is not None)
    assert (told or "") in "".join(found)


def test_tasks_whose_nodes_lightning_cannot_tell_are_no_riddle(monkeypatch):
    for name, value in STEP.items():
        monkeypatch.setenv(name, value)
    (error,) = said(*TWO)
    assert error.endswith(
        "no SLURM_NTASKS_PER_NODE, which Lightning goes by; expected --ntasks-per-node=N, not --ntasks."
    )


def test_a_study_takes_one_process_whatever_devices_it_may_use(monkeypatch):
    for name, value in {**STEP, "SLURM_NTASKS": "1"}.items():
        monkeypatch.setenv(name, value)
    with composing():
        assert list(devices.started_as_many(composed(["experiment=prompt/transfer", *TWO], []))) == []
    (error,) = said("trainer.devices=2", "trainer=ddp_cpu")
    assert error.startswith("SLURM_NTASKS=1: 1 processes were started")


@pytest.mark.slow
def test_the_devices_of_each_form(eight_gpus):
    forms = {"3": 3, "auto": 8, "-1": 8, "[0,2]": 2, "'0,1,2'": 3}
    found = {}
    for form in forms:
        cfg = preflight.examine(["debug=smoke", "trainer=gpu", f"trainer.devices={form}"])[1]
        found[form] = devices.devices(cfg)
    assert found == forms

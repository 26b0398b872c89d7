"""What the trainer names is there, and is asked for before anything is made."""

import pytest
import torch

from lightning_modules.runtime import devices, preflight
from lightning_modules.runtime.config import register_resolvers
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
    monkeypatch.setenv("SLURM_PROCID", "0")
    (error,) = said("trainer=ddp_gpu", "trainer.num_nodes=2", "data.global_batch=32")
    assert "trainer.devices (16) = 64; the nearest is 64" in error
    assert said("trainer=ddp_gpu", "trainer.num_nodes=2", "data.global_batch=64") == []


def test_a_process_that_would_wait_for_nodes_nobody_started_is_refused():
    (error,) = said("trainer=ddp_cpu", "trainer.num_nodes=2", "data.global_batch=64")
    assert (
        "nothing told this process which node it is on; expected it started on each node by srun or torchrun" in error
    )
    assert said("trainer=ddp_cpu", "trainer.num_nodes=2", "data.global_batch=64", "plan=true") == []


@pytest.mark.slow
def test_the_devices_of_each_form(eight_gpus):
    forms = {"3": 3, "auto": 8, "-1": 8, "[0,2]": 2, "'0,1,2'": 3}
    found = {}
    for form in forms:
        cfg = preflight.examine(["debug=smoke", "trainer=gpu", f"trainer.devices={form}"])[1]
        found[form] = devices.devices(cfg)
    assert found == forms

"""What a plan counts by arithmetic is what a training allocates; what the machine lacks, memory or time, is told."""

import gc
import weakref

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch.utils.flop_counter import FlopCounterMode

from lightning_modules.common.making import Thing
from lightning_modules.moe.module import MoELM
from lightning_modules.runtime import memory, pace, plan, preflight
from lightning_modules.runtime.config import register_resolvers
from lightning_modules.runtime.openmp import ASLEEP, USERS
from lightning_modules.runtime.run import run
from lightning_modules.runtime.teller import Teller
from tests import pretended
from tests.runtime.cli import PROJECT

register_resolvers(project=PROJECT)
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


def places(folder):
    return [f"paths.{name}={folder}/{name}" for name in ("cache", "runs", "tracking")]


def composed(folder, *overrides, base="debug=smoke"):
    for _, cfg in preflight.every_job([base, "logger=none", *places(folder), *overrides]):
        # While Hydra's own node is there.
        plain = OmegaConf.to_container(OmegaConf.masked_copy(cfg, [k for k in cfg if k != "hydra"]), resolve=True)
    return OmegaConf.create(plain)


def planned(folder, *overrides):
    with_plan = ["debug=smoke", "logger=none", *places(folder), *overrides, "plan=true"]
    errors, _ = preflight.examine(with_plan)
    assert errors == []
    ((_, found),) = plan.plans(preflight.every_job(with_plan))
    return found


def test_a_plan_counts_nothing_that_the_job_before_it_held(tmp_path, monkeypatch):
    """A model and its trainer hold each other: they go when the collector comes, which may be after the next job's plan."""

    class Held:
        pass

    held = Held()
    held.itself, gone = held, weakref.ref(held)
    del held
    seen = []
    monkeypatch.setattr(plan, "plan_run", lambda cfg: seen.append(gone()) or {})
    gc.disable()
    try:
        plan.plan(composed(tmp_path), set())
    finally:
        gc.enable()
    assert seen == [None]


@pytest.mark.slow
@without_gpu
def test_a_gpu_run_is_planned_on_a_machine_without_one(tmp_path):
    ddp = planned(tmp_path, "trainer=ddp_gpu", "trainer.devices=4", "trainer.num_nodes=2", "data.global_batch=64")
    fsdp = planned(tmp_path, "trainer=fsdp", "trainer.devices=8", "data.global_batch=64", "plan_flops=1e9")
    assert ddp["devices"] == fsdp["devices"] == 8
    assert ddp["tokens"] == 20 * 64 * 32
    assert ddp["FLOPs"] == fsdp["FLOPs"]
    # Forward and backward of all active parameters but the embedded words, which no product reads; and attention.
    assert 0.8 < ddp["FLOPs"] / (6 * ddp["active parameters"] * ddp["tokens"]) < 1.3
    assert ddp["seconds"] == plan.NEEDS_MACHINE
    assert fsdp["seconds"] == pytest.approx(fsdp["FLOPs"] / 8e9)
    for part in ("weights", "gradients", "optimizer"):
        assert fsdp[f"{part}, MiB a device"] == pytest.approx(ddp[f"{part}, MiB a device"] / 8)
    assert ddp["exchange, MiB a device"] == ddp["gradients, MiB a device"]
    assert ddp["memory, MiB a device"] == pytest.approx(
        sum(v for k, v in ddp.items() if k.endswith("MiB a device") and not k.startswith("memory"))
    )
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
@without_gpu
def test_a_model_that_is_read_from_files_is_planned_too(tmp_path):
    """Its training is counted in earnest, on the CPU."""
    fresh = planned(tmp_path, "trainer=gpu")
    cfg = composed(tmp_path, "trainer=gpu")
    datamodule = instantiate(cfg.data)
    real, _ = counted_in_training(cfg, datamodule)
    # Its first step also finds out how the head computes, once.
    assert real.flops * cfg.trainer.max_steps == pytest.approx(fresh["FLOPs"], rel=0.02)


def counted_in_training(cfg, datamodule):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "made_from_sizes", lambda _: False)
        return memory.count(cfg, datamodule)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_pass_that_counts_ahead_of_a_step_is_in_its_plan(tmp_path, accumulate):
    def counted(balance):
        cfg = composed(tmp_path, f"balance={balance}", f"trainer.accumulate_grad_batches={accumulate}")
        datamodule = instantiate(cfg.data)
        datamodule.prepare_data()
        return *memory.count(cfg, datamodule), datamodule

    plain, _, datamodule = counted("global")
    two, _, _ = counted("global_two_pass")
    real = instantiate(composed(tmp_path, "balance=global").module)
    batch = {k: v[: len(v) // accumulate] for k, v in datamodule.train_batch(0).items()}
    with FlopCounterMode(display=False, custom_mapping=memory.ATTENTION) as ahead, torch.no_grad():
        real.counts(batch)
    assert two.flops - plain.flops == ahead.get_total_flops() > 0
    assert two.activations == plain.activations


@pytest.mark.slow
@pytest.mark.parametrize("changes", ["", "model.gradient_checkpointing=true", "trainer.accumulate_grad_batches=2"])
def test_what_is_counted_is_what_is_allocated(tmp_path, changes):
    cfg = composed(tmp_path, "data.seq_len=64", *changes.split())
    datamodule = instantiate(cfg.data)
    datamodule.prepare_data()
    counted, module = memory.count(cfg, datamodule)
    need = memory.need(cfg, module, activations=counted.activations)
    module = instantiate(cfg.module)
    batch = {k: v[: len(v) // cfg.trainer.accumulate_grad_batches] for k, v in datamodule.train_batch(0).items()}
    with torch.no_grad():
        # Finds out how the head computes, once.
        module.training_step(batch, 0)
    optimizer = torch.optim.AdamW(module.parameters())
    for _ in range(cfg.trainer.accumulate_grad_batches - 1):
        module.training_step(batch, 0)["loss"].backward()
    flops = FlopCounterMode(display=False, custom_mapping=memory.ATTENTION)
    # What tests before this one left in circles would be freed meanwhile, and counted.
    gc.collect()
    with torch.profiler.profile(profile_memory=True) as profile, flops:
        loss = module.training_step(batch, 0)["loss"]
        loss.backward()
    assert counted.flops == flops.get_total_flops()
    optimizer.step()
    assert need.weights == sum(p.nbytes for p in module.parameters())
    assert need.gradients == sum(p.grad.nbytes for p in module.parameters())
    states = [t for state in optimizer.state.values() for t in state.values()]
    assert need.optimizer == sum(t.nbytes for t in states)
    # What lay there before the step is not in the profile.
    before = need.gradients if cfg.trainer.accumulate_grad_batches > 1 else 0
    allocated = max(running(e.nbytes() for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"))
    assert 0.8 < (need.activations + need.gradients - before) / allocated < 1.25


def running(sizes):
    total = 0
    for size in sizes:
        total += size
        yield total


def full(*_, **__):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 1 GiB.")


def test_out_of_memory_says_what_was_needed_and_what_lowers_it(tmp_path, monkeypatch):
    cfg = composed(tmp_path, "test=false", "export=false")
    cfg.trainer.accelerator = "auto"
    hidden = MoELM.hidden
    # Of the run's own step; what is counted afterwards is on the CPU.
    device = lambda module, *given: full() if module.device.type == "pretend" else hidden(module, *given)  # noqa: E731
    monkeypatch.setattr(MoELM, "hidden", device)
    monkeypatch.setattr("lightning_modules.runtime.run.instantiate", on_the_device(cfg))
    (tmp_path / "run").mkdir()
    with pretended.machine(), pytest.raises(memory.OutOfMemoryError) as told:
        run(cfg, folder=tmp_path / "run", overrides=[])
    said = str(told.value)
    assert "\n" not in said
    parts = ["out of memory: needed are ", "weights", "activations", "tried to allocate 2.00 GiB"]
    parts += ["trainer.accumulate_grad_batches=2", "model.gradient_checkpointing=true", "trainer.precision=bf16-mixed"]
    for part in [*parts, "trainer=fsdp"]:
        assert part in said
    assert "OutOfMemoryError: out of memory" in (tmp_path / "run" / "failure.txt").read_text()


def on_the_device(cfg):
    def made(node, *args, **kwargs):
        found = instantiate(node, *args, **kwargs)
        return {**found, "strategy": pretended.strategy()} if node is cfg.trainer else found

    return made


def test_a_study_says_what_it_was_making(tmp_path):
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    one = Thing(kind="prompt", name="film", steps=5)
    with (
        pytest.raises(memory.OutOfMemoryError, match="^out of memory while making prompt film: .* 2.00 .iB; less"),
        memory.out_of_memory_told(composed(tmp_path, base="system=prompt")),
        Teller(None).making(one),
    ):
        raise error


def test_a_run_that_is_slower_than_its_plan_says_why(tmp_path, monkeypatch):
    cfg = composed(tmp_path)
    assert pace.planned(cfg) is None
    pace.remember(cfg, 0.25)
    assert pace.planned(composed(tmp_path)) == 0.25
    assert pace.planned(composed(tmp_path, "data.seq_len=16")) is None
    said, clock = [], Clock()
    monkeypatch.setattr(pace.time, "perf_counter", clock)
    monkeypatch.setattr(pace.Load, "others", lambda _: 1.0)
    monkeypatch.setattr(pace, "cores", lambda: [0, 1])
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    one = pace.Pace(planned=0.25, say=said.append)
    for name, value in ASLEEP.items():
        monkeypatch.setenv(name, value)
    steps(one, clock, seconds=0.4)
    assert said == []
    steps(one, clock, seconds=4.2)
    assert said == [
        "Steps take 4.2 s, 16.8 times as long as planned: other processes take 1.0 of its 2 cores, and this one has 2 "
        "threads."
    ]
    for name in USERS:
        monkeypatch.delenv(name, raising=False)
    assert one._reason().endswith("; stopped and begun again beside the others, they would sleep")
    unplanned = pace.Pace(planned=None, say=said.append)
    steps(unplanned, clock, seconds=0.1)
    steps(unplanned, clock, seconds=0.1)
    assert len(said) == 1
    monkeypatch.setattr(pace.Load, "others", lambda _: 0.0)
    steps(unplanned, clock, seconds=0.3)
    assert (
        said[1]
        == "Steps take 0.3 s, 3.0 times as long as they did before: no other process is at work; 2 threads on 2 cores."
    )


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


class At:
    global_step = 0


def steps(one, clock, *, seconds):
    at = At()
    at.global_step = one._step
    for _ in range(pace.WINDOW + 1):
        at.global_step += 1
        clock.now += seconds
        one.on_train_batch_end(at)
    one.taken.clear()


@pytest.mark.slow
def test_a_plan_on_a_busy_machine_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(plan, "LONG", 0.05)
    monkeypatch.setattr(plan.Load, "others", lambda _: 1.2)
    found = planned(tmp_path)
    assert found[plan.OTHERS] == 1.2
    plan.show([("", found)])
    assert "The machine is busy: other processes took 1.2 of its" in " ".join(capsys.readouterr().out.split())
    monkeypatch.setattr(plan.Load, "others", lambda _: 0.1)
    assert plan.OTHERS not in planned(tmp_path)


def test_heads_that_share_their_keys_are_counted_as_if_each_had_its_own(monkeypatch):
    """torch 2.11 hands on keys and values of fewer heads than the queries have, and its own count refuses them."""

    def strict(q, k, v):
        assert q[:2] == torch.Size(k[:2]) == torch.Size(v[:2])
        return 4 * q.numel() * k[2]

    monkeypatch.setattr(memory, "sdpa_flop_count", strict)
    monkeypatch.setattr(memory, "sdpa_backward_flop_count", lambda grad, *qkv: 2 * strict(*qkv))
    forward, backward = memory.ATTENTION.values()
    q, shared = torch.Size([2, 4, 16, 8]), torch.Size([2, 2, 16, 8])
    assert forward(q, shared, shared) == forward(q, q, q) == 2 * (2 * 2 * 4 * 16 * 16 * 8)
    assert backward(q, q, shared, shared) == backward(q, q, q, q) > 0

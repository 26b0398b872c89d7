"""Two processes that share the weights over gloo train as one process does, for every scope of the balance."""

import pytest
import torch
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM

from lightning_modules.moe.callbacks.aux_free_bias import AuxFreeBias
from lightning_modules.moe.callbacks.expert_frequency_sync import ExpertFrequencySync
from lightning_modules.moe.callbacks.held_out import HeldOutEvaluation
from lightning_modules.moe.callbacks.routing_metrics import RoutingMetrics
from lightning_modules.training.checkpoints import CheckedCheckpoints, newest_valid
from lightning_modules.training.finite_loss import FiniteLoss, NonFiniteLossError, check_weights
from lightning_modules.training.resume_point import ResumePoint
from lightning_modules.training.sharded import FullySharded, gather
from tests.moe.toy import fit, tiny_model
from tests.ranks import run_ranks
from tests.results import took_its_steps

STEPS, SAVED, ACCUMULATE = 20, 12, 2
# `shuffle` is another draw on two ranks than on one.
SCOPES = ("micro", "ranks", "buffer", "two_pass", "aux_free")


def trained(scope, folder, *, ranks=1, callbacks=(), **settings):
    balance = {"micro": list, "aux_free": lambda: [AuxFreeBias()]}
    synced = balance.get(scope) or (lambda: [ExpertFrequencySync(mode=scope)])
    family = "deepseek_v3" if scope == "aux_free" else "qwen3_moe"
    measured = [HeldOutEvaluation(folder=str(folder)), FiniteLoss(), RoutingMetrics()]
    curve, module, trainer = fit(
        callbacks=[*synced(), *measured, *callbacks],
        model=tiny_model(family, gradient_checkpointing=True),
        ranks=ranks,
        steps=STEPS,
        accumulate=ACCUMULATE,
        weight=1.0,
        **settings,
    )
    trainer.test(module, datamodule=trainer.datamodule, verbose=False)
    return curve.loss, {n: float(v) for n, v in trainer.callback_metrics.items()}, module, trainer


def decayed(trainer):
    """{weight decay: weights that it is of}."""
    return {g["weight_decay"]: sum(p.numel() for p in g["params"]) for g in trainer.optimizers[0].param_groups}


def on_rank(rank, ranks, folder):
    found = {}
    for scope in SCOPES:
        sharded = scope == "two_pass"
        settings = dict(ranks=ranks, plugins=[CheckedCheckpoints()])
        place = folder / scope

        def once(point, scope=scope, sharded=sharded, place=place, settings=settings, **more):
            strategy = FullySharded(sharded_checkpoint=sharded)
            return trained(scope, place, callbacks=point, strategy=strategy, **settings, **more)

        points = [ResumePoint(folder=str(place), every_n_steps=SAVED)] if scope in ("two_pass", "aux_free") else []
        losses, metrics, module, trainer = once(points)
        row = {"losses": losses, "metrics": metrics, "decayed": decayed(trainer)}
        row["sharded"] = all(isinstance(p, DTensor) for g in trainer.optimizers[0].param_groups for p in g["params"])
        if points:
            point = [ResumePoint(folder=str(place / "again"), every_n_steps=SAVED)]
            row["resumed"] = once(point, resume=newest_valid(place))[0]
        if scope == "micro":
            row["bad weight"] = bad_weight(module, rank)
        gather(module)
        row["state"] = {n: v.clone() for n, v in module.state_dict().items()} if rank == 0 else {}
        if rank == 0:
            module.model.save_pretrained(place / "export")
        found[scope] = row
    return found


def bad_weight(module, rank):
    """What every process says of a weight that is not finite on the second one."""
    module.reshard()
    share = module.model.get_input_embeddings().weight.data.to_local()
    before = share.clone()
    if rank == 1:
        share[0, 0] = float("nan")
    with pytest.raises(NonFiniteLossError) as caught:
        check_weights(module, 7)
    share.copy_(before)
    return str(caught.value)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """{scope: what each of two processes found}, and the folder."""
    folder = tmp_path_factory.mktemp("sharded")
    first, second = run_ranks(on_rank, 2, folder)
    return {scope: (first[scope], second[scope]) for scope in SCOPES}, folder


@pytest.mark.machines
@pytest.mark.parametrize("scope", SCOPES)
def test_two_processes_equal_one(two, scope, tmp_path):
    """Losses, held-out perplexity, who went where and every weight; with activation checkpointing and accumulation."""
    first, second = two[0][scope]
    losses, metrics, module, trainer = trained(scope, tmp_path)
    found = [sum(pair) / 2 for pair in zip(first["losses"], second["losses"], strict=True)]
    assert len(losses) == STEPS * ACCUMULATE
    difference = max(abs(a - b) for a, b in zip(found, losses, strict=True))
    took_its_steps(
        f"moe, FSDP2: {scope}", on="2 processes over gloo", steps=STEPS, equal_to="one process", difference=difference,
        limit=1e-5,
    )  # fmt: skip
    assert first["sharded"] and first["decayed"] == decayed(trainer) and len(first["decayed"]) == 2
    for name in ("test/ppl", "test/ppl_a", "test/mutual_information", "test/routing_entropy"):
        assert first["metrics"][name] == pytest.approx(metrics[name], abs=1e-3), name
    for name, weight in module.state_dict().items():
        torch.testing.assert_close(first["state"][name], weight, rtol=0, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("scope", ["two_pass", "aux_free"])
def test_a_resume_is_exact(two, scope):
    """From a folder of shares (two_pass) and from one file (aux_free), at step 12 of 20."""
    rows, folder = two
    assert (folder / scope / "last.ckpt").is_dir() == (scope == "two_pass")
    for row in rows[scope]:
        assert row["resumed"] == row["losses"][SAVED * ACCUMULATE :]


def test_a_harmed_share_is_told(two):
    share = next((two[1] / "two_pass" / "last.ckpt").glob("*.distcp"))
    whole = share.read_bytes()
    share.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match="is damaged: its SHA-256"):
        newest_valid(two[1] / "two_pass")
    share.write_bytes(whole)
    assert newest_valid(two[1] / "two_pass")


def test_the_export_is_the_model(two):
    state = two[0]["micro"][0]["state"]
    model = AutoModelForCausalLM.from_pretrained(two[1] / "micro" / "export")
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, state[f"model.{name}"]), name


def test_a_weight_that_is_no_number_is_told_by_every_process(two):
    for row in two[0]["micro"]:
        assert row["bad weight"].startswith(
            "weight model.model.embed_tokens.weight is not finite after optimizer step 7"
        )

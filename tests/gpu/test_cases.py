"""Every case of `make gpu` at its smallest size, on the pretended device where that can: none is code that never ran."""

import os

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lightning_modules.moe import compiled
from lightning_modules.runtime.memory import ATTENTION
from tests import pretended
from tests.gpu import command_line, losses, moe, others
from tests.gpu.place import CPU, Place
from tests.moe.toy import experts_as_on_a_gpu

pytestmark = pytest.mark.slow

DEVICE = Place(
    name="a pretended device",
    device=pretended.DEVICE,
    trainer=lambda: {"accelerator": "auto", "strategy": pretended.strategy()},
    large=False,
    processes=1,
)


def found(case, place=DEVICE):
    if place is CPU:
        return list(case(place))
    with pretended.machine(float64=False):
        return list(case(place))


def names(rows):
    return [row.get("row") or row["case"] for row in rows]


def test_losses():
    rows = found(losses.losses)
    assert names(rows) == list(losses.SYSTEMS)
    assert [row["case"] for row in rows if not row["ok"]] == []


def test_losses_that_differ_are_told(monkeypatch):
    monkeypatch.setattr(losses, "SYSTEMS", {"moe": lambda place, count: [float(place is CPU)] * count})
    (row,) = found(losses.losses)
    assert (row["ok"], row["difference"]) == (False, 1.0)


def test_a_resume():
    # A pretended tensor cannot be read from a file.
    (row,) = found(losses.resume, CPU)
    assert (row["ok"], row["difference"]) == (True, 0.0)


def test_throughput_of_every_scope():
    rows = found(moe.throughput)
    speeds = [row["value"] for row in rows if "tokens/s" in row["row"]]
    assert len(speeds) == len(moe.SCOPES)
    assert min(speeds) > 0
    assert {row["row"] for row in rows} >= {"GPU: tokens/s at base", "GPU: share of the bf16 peak at base"}
    assert all("is not known" in row["why"] for row in rows if "share" in row["row"])


def test_the_share_of_a_known_peak():
    _, share, _ = moe.rows(CPU._replace(name="NVIDIA H100 80GB"), "ranks", (1.0, 494.5e12, 1.0), "")
    assert share["value"] == pytest.approx(0.5)


def test_flops_are_those_that_torch_counts():
    """But for attention, which torch counts as if every token saw those behind it as well."""
    sizes = moe.Sizes(CPU)
    model = sizes.build("micro").eval()
    text = sizes.data(1).train_batch(0)
    with FlopCounterMode(display=False, custom_mapping=ATTENTION) as counter:
        model(input_ids=text["input_ids"]).logits.sum().backward()
    assert counter.get_total_flops() / text["input_ids"].numel() == pytest.approx(sizes.flops(model), rel=0.06)


def test_the_cost_of_the_scope():
    (row,) = found(moe.scope_cost)
    assert row["goal"] == "<= 1"
    assert row["value"] > -100


def test_svco():
    rows = found(others.svco, CPU)
    assert [row["value"] > 0 for row in rows if row["table"] == "bench"] == [True, True]
    assert rows[-1]["ok"]


def test_svco_without_peft(monkeypatch):
    monkeypatch.setattr(others, "find_spec", lambda name: None)
    (row,) = found(others.svco)
    assert (row["value"], row["why"]) == (None, "not measured: peft is not installed")


def test_prompts_in_one_batch_are_each_alone():
    compared, measured = found(others.together)
    assert compared["ok"]
    assert compared["difference"] < 1e-5
    assert measured["value"] > 0


@pytest.mark.parametrize("case", [others.finder, others.matrix])
def test_finder_and_matrix(case):
    (row,) = found(case)
    assert row["value"] > 0


def test_compiled(monkeypatch):
    experts_as_on_a_gpu(monkeypatch)
    whole = torch.compile
    monkeypatch.setattr(compiled.torch, "compile", lambda call, **how: whole(call, backend="aot_eager", **how))
    rows = found(moe.compiled, CPU)
    assert rows[0]["row"] == "GPU: tokens/s at base, compiled"
    assert rows[0]["value"] > 0


def test_a_command_that_fails_says_why(tmp_path):
    with pytest.raises(RuntimeError, match="(?s)main.py debug=smok: .*no such option; the nearest is 'smoke'"):
        command_line.metrics(tmp_path / "run", "debug=smok")


@pytest.mark.machines
@pytest.mark.processes
@pytest.mark.skipif(os.environ.get("FACET_RESULTS") != "1", reason="runs by the command line: in make machines")
@pytest.mark.parametrize("case", [command_line.processes, command_line.systems])
def test_by_the_command_line(case):
    assert [row["case"] for row in found(case, CPU) if not row["ok"]] == []

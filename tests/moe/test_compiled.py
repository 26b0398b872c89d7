"""torch.compile changes no loss, and makes one graph of the body without a break."""

import json
import os

import pytest
import torch
from omegaconf import OmegaConf

from lightning_modules.moe import compiled
from lightning_modules.moe.checks import can_be_compiled
from tests.golden import FOLDER
from tests.moe.toy import experts_as_on_a_gpu, fit, tiny_model
from tests.results import took_its_steps

pytestmark = pytest.mark.slow

# Compiling to machine code takes a minute: only where the table is renewed. The graph is the same.
BACKEND = "inductor" if os.environ.get("FACET_RESULTS") == "1" else "aot_eager"


@pytest.fixture(autouse=True)
def compiler(monkeypatch):
    whole = torch.compile
    monkeypatch.setattr(compiled.torch, "compile", lambda call, **how: whole(call, backend=BACKEND, **how))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()


def graphs():
    """(graphs made, breaks between them)."""
    counters = torch._dynamo.utils.counters
    return counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())


@pytest.mark.machines
def test_the_golden_losses_without_a_break():
    expected = json.loads((FOLDER / "balancing.json").read_text())["micro"]
    found, module, _ = fit(steps=20, model=tiny_model(experts_implementation="grouped_mm"), compile=True)
    made, breaks = graphs()
    assert made >= 1
    assert breaks == 0
    assert not any("_orig_mod" in name for name in module.state_dict())
    difference = max(abs(a - b) for a, b in zip(found.loss, expected, strict=True))
    took_its_steps(
        "moe: compiled", on=f"CPU, {BACKEND}", steps=20, equal_to="the golden losses", difference=difference, limit=1e-4
    )


@pytest.mark.parametrize("family", ["qwen3_moe", "deepseek_v3"])
def test_activations_that_are_computed_again(family):
    settings = dict(experts_implementation="grouped_mm", gradient_checkpointing=True)
    expected, _, _ = fit(steps=3, model=tiny_model(family, **settings))
    found, _, _ = fit(steps=3, model=tiny_model(family, **settings), compile=True)
    assert graphs()[0] >= 1
    assert graphs()[1] == 0
    assert found.loss == pytest.approx(expected.loss, abs=1e-5)
    assert found.lbl == pytest.approx(expected.lbl, abs=1e-5)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_the_way_of_a_gpu_is_one_graph(precision, monkeypatch):
    experts_as_on_a_gpu(monkeypatch)
    expected, _, _ = fit(steps=3, model=tiny_model(), precision=precision)
    found, _, _ = fit(steps=3, model=tiny_model(), precision=precision, compile=True)
    assert graphs()[0] >= 1
    assert graphs()[1] == 0
    assert found.loss == pytest.approx(expected.loss, abs=2e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "sorted reads how many tokens .* the nearest is model.experts_implementation=grouped_mm"),
        ({"trainer": {"accelerator": "gpu", "strategy": "auto"}}, None),
        ({"model": {"experts_implementation": "grouped_mm"}}, None),
        ({"trainer": {"accelerator": "gpu", "strategy": {"_target_": "x.FullySharded"}}}, "is true with trainer=fsdp"),
        ({"module": {"compile": False}}, None),
    ],
)  # fmt: skip
def test_what_would_break_the_graph_is_refused(settings, message):
    plain = {
        "module": {"compile": True},
        "model": {"experts_implementation": "sorted"},
        "trainer": {"accelerator": "cpu", "strategy": "auto"},
    }
    found = list(can_be_compiled(OmegaConf.merge(plain, settings)))
    assert len(found) == (message is not None)
    if message:
        with pytest.raises(ValueError, match=message):
            raise ValueError(found[0])

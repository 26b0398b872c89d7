"""S-VCO, and the shape of `model=paper_3b`, on two processes that share the weights: as one process trains them."""

import pytest
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

from lightning_modules.moe.callbacks.expert_frequency_sync import ExpertFrequencySync
from lightning_modules.prompt.backbones import HubBackbone
from lightning_modules.prompt.module import PromptTuning
from lightning_modules.prompt.tuners import SoftPrompt
from lightning_modules.svco.callbacks.scene_evaluation import SceneEvaluation
from lightning_modules.training.checkpoints import CheckedCheckpoints
from lightning_modules.training.resume_point import ResumePoint
from lightning_modules.training.sharded import FullySharded, gather
from tests.moe.toy import fit as fit_moe
from tests.moe.toy import tiny_model
from tests.prompt import tiny
from tests.ranks import run_ranks
from tests.results import PROJECT, took_its_steps
from tests.svco.test_module import fit as fit_svco

STEPS = 8
SVCO = {
    "svco, cached reference": {},
    "svco, live reference": {"reference": "live"},
    "svco, LoRA": {"lora_rank": 2, "reference": "live"},
}
PAPER = "moe, shape of paper_3b"


def paper_shape():
    """All that conf/model/paper_3b.yaml says, but for widths, words and depth."""
    files = [OmegaConf.load(PROJECT / "conf" / "model" / f"{name}.yaml") for name in ("parts/moe", "paper_3b")]
    shape = OmegaConf.to_container(OmegaConf.merge(*files))
    kept = {k: v for k, v in shape.items() if k not in ("defaults", "_target_", "vocab_size", "max_positions")}
    share = kept["shared_width"] // kept["expert_width"]
    narrow = dict(hidden_size=64, layers=2, expert_width=16, shared_width=16 * share)
    return tiny_model(**{**kept, **narrow})


def trained(case, folder, **machine):
    """Losses, and what was measured of the base."""
    if case == PAPER:
        curve, _, _ = fit_moe(
            callbacks=[ExpertFrequencySync(mode="ranks")], model=paper_shape(), steps=STEPS, weight=1.0, **machine
        )
        return curve.loss, {}
    told = {"devices": machine["ranks"], **machine} if machine else {}
    told.pop("ranks", None)
    measured = SceneEvaluation(folder=str(folder), scenes_each=2, pairs=4)
    curve, _, _ = fit_svco(steps=STEPS, callbacks=[measured], **SVCO[case], **told)
    return curve.loss, measured.base.metrics


def on_rank(rank, ranks, folder):
    return {case: trained(case, folder, ranks=ranks, strategy=FullySharded()) for case in (*SVCO, PAPER)}


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return run_ranks(on_rank, 2, tmp_path_factory.mktemp("sharded"))


@pytest.mark.machines
@pytest.mark.parametrize("case", [*SVCO, PAPER])
def test_two_processes_equal_one(case, two, tmp_path):
    (first, base), (second, _) = (found[case] for found in two)
    expected, expected_base = trained(case, tmp_path)
    found = [sum(pair) / 2 for pair in zip(first, second, strict=True)]
    assert len(found) == len(expected) == STEPS
    assert base == pytest.approx(expected_base, abs=1e-4, nan_ok=True)
    difference = max(abs(a - b) for a, b in zip(found, expected, strict=True))
    told = dict(on="2 processes over gloo", steps=STEPS, equal_to="one process", difference=difference)
    took_its_steps(f"{case}, FSDP2", limit=1e-5 if case == PAPER else 1e-4, **told)


def exported(rank, ranks, folder):
    """LoRA merged into a copy, as the weights that the first process put together."""
    told = dict(devices=ranks, strategy=FullySharded()) if ranks > 1 else {}
    _, module, _ = fit_svco(steps=3, lora_rank=2, reference="live", **told)
    gather(module)
    if rank == 0:
        module.export(folder, datamodule=None)


def test_the_export_of_adapters_is_that_of_one_process(tmp_path):
    exported(0, 1, tmp_path / "one")
    run_ranks(exported, 2, tmp_path / "two")
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=0, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def tuned(rank, ranks, folder, name):
    """(weights, loss on the test split) of a tuner on BERT, whose word embedding is its output layer's."""
    spec = HubBackbone(name=folder)
    pl.seed_everything(0, verbose=False)
    tuner, length = (SoftPrompt(length=3), 3) if name == "soft_prompt" else (tiny.TUNERS[name](), 0)
    module, data = PromptTuning(backbone=spec, tuner=tuner, lr=0.01), tiny.data(spec, prompt_length=length)
    machine = dict(devices=ranks, strategy=FullySharded()) if ranks > 1 else {}
    trainer = tiny.trainer(3, **machine)
    trainer.fit(module, datamodule=data)
    trainer.test(module, datamodule=data, verbose=False)
    gather(module)
    weights = {n: w.detach().clone() for n, w in module.trained().items() if rank == 0}
    return weights, float(trainer.callback_metrics["test/loss"])


@pytest.mark.parametrize("name", ["soft_prompt", "lora", "full"])
def test_prompts_and_tuners_are_those_of_one_process(name, tmp_path):
    folder = tiny.save("bert", tmp_path)
    (expected, loss), ((found, two), _) = tuned(0, 1, folder, name), run_ranks(tuned, 2, folder, name)
    assert two == pytest.approx(loss, abs=1e-4)
    for weight, value in expected.items():
        # What a key's bias adds is the same for all keys: its gradient is rounding, which Adam makes a step of.
        if "key" not in weight or "lora" in weight or weight.endswith("weight"):
            torch.testing.assert_close(found[weight], value, rtol=0, atol=1e-3, msg=weight)


def resumed_on_two(rank, ranks, folder):
    with pytest.raises(ValueError) as caught:  # noqa: PT011, its message is what the test looks at
        fit_moe(
            ranks=ranks, strategy=FullySharded(), steps=4, plugins=[CheckedCheckpoints()],
            callbacks=[ResumePoint(folder=str(folder / "again"), every_n_steps=2)], resume=folder / "last.ckpt",
        )  # fmt: skip
    return str(caught.value)


def test_a_checkpoint_of_another_number_of_processes_is_refused_by_name(tmp_path):
    fit_moe(steps=2, plugins=[CheckedCheckpoints()], callbacks=[ResumePoint(folder=str(tmp_path), every_n_steps=2)])
    said = run_ranks(resumed_on_two, 2, tmp_path)
    assert said == ["this run was started on 1 processes and is resumed on 2: it would not be the same run. Set "
                    "trainer.devices=1, or start anew with fresh=true."] * 2  # fmt: skip

"""The first steps of every system's training, and skill neurons' predictivity, are what they have always been."""

import sys

import pytest
import torch

from lightning_modules.moe.callbacks.expert_frequency_sync import ExpertFrequencySync
from lightning_modules.prompt.module import PromptTuning
from lightning_modules.prompt.pretraining import TRAINER, MaskedLM
from lightning_modules.prompt.tuners import LoRA, SoftPrompt
from lightning_modules.skill_neurons import predictivity
from lightning_modules.training.inner import inner_trainer, seeded
from lightning_modules.transfer import projector
from tests import golden
from tests.moe import toy as moe
from tests.prompt import tiny, toy
from tests.svco.test_module import fit as fit_svco

STEPS = 12
TASKS = ("sentiment_film", "topic_four")


def losses(module, *, data=None, loader=None, **settings):
    seen = golden.Losses()
    inner_trainer(max_steps=STEPS, callbacks=[seen], **settings).fit(module, loader, datamodule=data)
    return seen.values


def balancing(cache):
    modes = {"micro": [], "global": [ExpertFrequencySync(mode="ranks")]}
    return {name: moe.fit(steps=20, callbacks=callbacks)[0].loss for name, callbacks in modes.items()}


def pretraining(cache):
    spec = toy.spec(cache, random_init=False, sentences=64, batch=8, steps=STEPS)
    with seeded(0):
        return {"masked_lm": losses(MaskedLM(backbone=spec), data=spec.data(), **TRAINER)}


def tuning(cache):
    spec, found = tiny.HubBackbone(name=tiny.save("roberta", cache)), {}
    for name, tuner in {"prompt": SoftPrompt(length=3, seed=0), "lora": LoRA(rank=2)}.items():
        with seeded(0):
            module = PromptTuning(backbone=spec, tuner=tuner, lr=0.05, warmup_steps=2, weight_decay=0.01)
            found[name] = losses(module, data=tiny.data(spec))
    return found


def skill_neurons(cache):
    prompts, found = toy.prompts(cache), {}
    for task in TASKS:
        data = prompts.data(task)
        examples = {split: data.examples(split) for split in ("train", "val")}
        batches = {split: [e[:]] for split, e in examples.items()}
        pred_RLF = predictivity.find(
            prompts.backbone,
            train=batches["train"],
            dev=batches["val"],
            labels_N=batches["val"][0]["labels"],
            prompt=torch.randn(4, 16, generator=torch.Generator().manual_seed(0)),
            classes=len(data.task.classes),
            permutations=1,
        )
        found[task] = pred_RLF.tolist()
    return found


def transfer(cache):
    spec, draw, found = tiny.HubBackbone(name=tiny.save("roberta", cache)), torch.Generator().manual_seed(0), {}
    source_NPH, target_NPG = torch.randn(2, 3, 24, generator=draw), torch.randn(2, 3, tiny.WIDTH, generator=draw)
    data = [tiny.data(spec, seed=seed) for seed in (0, 1)]
    for objective in projector.OBJECTIVES:
        for variant in projector.VARIANTS:
            with seeded(0):
                module = projector.ProjectorTraining(
                    projector=projector.Projector(length=3, source=24, target=tiny.WIDTH, variant=variant),
                    backbone=spec.load(),
                    prompts_NPH=source_NPH,
                    targets_NPG=target_NPG,
                    data=data,
                    objective=objective,
                )
                steps = torch.utils.data.DataLoader(torch.arange(STEPS), batch_size=None)
                found[f"{objective} {variant}"] = losses(module, loader=steps, gradient_clip_val=1.0)
    return found


def svco(cache):
    return {reference: fit_svco(reference=reference)[0].loss for reference in ("cached", "live")}


CURVES = {f.__name__: f for f in (balancing, pretraining, tuning, skill_neurons, transfer, svco)}


@pytest.mark.parametrize("name", CURVES)
def test_golden(name, tmp_path):
    found = CURVES[name](tmp_path)
    if name == "skill_neurons":
        golden.compare_shares(name, found, of=32)
    else:
        golden.compare(name, found)


if __name__ == "__main__":
    import tempfile

    torch.set_num_threads(1)
    for name in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as folder:
            golden.write(name, CURVES[name](folder))

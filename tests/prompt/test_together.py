"""Prompts tuned in one batch are those tuned one by one."""

import pytest
import torch

from lightning_modules.common.making import Thing, Watcher, watched_by
from lightning_modules.prompt.together import merged, scores_of_each
from tests.prompt import tiny, toy

ASKED = [("sentiment_film", 0), ("topic_four", 0), ("number_film", 1), ("sentiment_film", 1), ("domain_three", 0)]
TUNING = toy.TUNING | {"steps": 12, "lr": 0.05, "warmup_steps": 2, "min_lr_ratio": 0.1, "weight_decay": 0.01}


class Trainings(Watcher):
    def __init__(self):
        self.count, self.losses = 0, []

    def trains(self, steps):
        self.count += 1

    def step(self, step, loss):
        self.losses.append(float(loss))


def tuned(asked, folder, together, **settings):
    """{(task, seed): prompt} of all asked for, the number of trainings, and the losses told of the first."""
    prompts = toy.prompts(folder, tuning=TUNING, together=together, **settings)
    for task, seed in asked:
        prompts.needs([task], [seed])
    with watched_by(Trainings()) as seen:
        found = {(task, seed): prompts.prompt(task, seed=seed).weight for task, seed in asked}
    return found, seen.count, seen.losses[: TUNING["steps"]]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["ours", "roberta", "gpt2", "t5"])
def test_each_prompt_is_the_one_tuned_alone(tmp_path, family):
    """Tasks of two, three and four classes, texts of other lengths, weight decay and a schedule; to 1e-5 after 12 steps."""
    asked, settings = ASKED, {"backbone": toy.spec(tmp_path / "backbone")}
    if family != "ours":
        asked = [("reviews", seed) for seed in range(5)]
        settings = {"backbone": tiny.HubBackbone(name=tiny.save(family, tmp_path)), "source": tiny.Reviews()}
    alone, trainings, _ = tuned(asked, tmp_path / "alone", 1, **settings)
    assert trainings == len(asked)
    together, trainings, losses = tuned(asked, tmp_path / "together", 3, **settings)
    assert trainings == 2, "three at once, then two"
    for each, prompt in alone.items():
        torch.testing.assert_close(together[each], prompt, rtol=0, atol=1e-5, msg=lambda m, e=each: f"{e}: {m}")
    moved = (alone[asked[0]] - alone[asked[3]]).abs().max()
    assert moved > 0.01, "the prompts differ from each other by more than they may from those alone"
    assert all(0 < loss < 5 for loss in losses), "what is told is a prompt's mean loss, not the sum"


def test_scores_are_those_of_each_batch_alone(tmp_path):
    prompts = toy.prompts(tmp_path)
    datas = [prompts.data(task) for task in ("sentiment_film", "topic_four", "domain_three")]
    batches = [data.examples("val")[: 3 + n] for n, data in enumerate(datas)]
    drawn = list(torch.randn(3, 4, prompts.backbone.width, generator=torch.Generator().manual_seed(0)))
    found = scores_of_each(prompts.backbone, batches, drawn, pad=datas[0].pad)
    for scores, batch, prompt in zip(found, batches, drawn, strict=True):
        torch.testing.assert_close(scores, prompts.backbone.scores(batch, prompt), rtol=1e-5, atol=1e-5)


def test_a_prompt_that_stands_elsewhere_is_no_part_of_the_batch():
    rows = torch.ones(1, 4, dtype=torch.long)
    batch = {"input_ids": rows, "attention_mask": rows, "ask": torch.tensor([1]), "prompt_at": 0}
    with pytest.raises(ValueError, match="too many values"):
        merged([batch, {**batch, "prompt_at": 2}], pad=0)


def test_prompts_tuned_together_are_kept_apart_and_taken_again(tmp_path):
    alone, together = (toy.prompts(tmp_path, together=n) for n in (1, 2))
    asked = [("sentiment_film", 0), ("topic_four", 0), ("number_film", 0)]
    needed = {n: p.needs([task for task, _ in asked], [0]) for n, p in ((1, alone), (2, together))}
    prompts = {n: [t for t in things if t.kind == "prompt"] for n, things in needed.items()}
    assert not {t.place for t in prompts[1]} & {t.place for t in prompts[2]}
    assert [t.together for t in prompts[1]] == [1] * 3 and [t.together for t in prompts[2]] == [2] * 3
    for task, seed in asked:
        together.prompt(task, seed=seed)
    with watched_by(Trainings()) as seen:
        for task, seed in asked:
            toy.prompts(tmp_path, together=2).prompt(task, seed=seed)
    assert seen.count == 0
    # Another tuning shares neither what was expected nor what waits.
    short = together.with_tuning(steps=2)
    assert isinstance(short.thing("topic_four", seed=0), Thing) and not short.thing("topic_four", seed=0).is_kept

"""Things of a study made side by side: the same to the bit as one after another, and told as one run."""

import os
import signal

import pytest
import torch
from omegaconf import OmegaConf

from lightning_modules.common import making
from lightning_modules.prompt.prompt_file import PromptFile
from lightning_modules.runtime import at_once
from lightning_modules.runtime.run import _study
from lightning_modules.runtime.study import Desk
from lightning_modules.runtime.teller import Teller
from lightning_modules.skill_neurons.studies import SkillNeurons
from tests.prompt import toy

TASKS = ["sentiment_film", "number_shop"]
PROMPTS = len(TASKS) * 2


class Points:
    """In the place of a tracker: {metric: [(step, value)]}, and the tags."""

    def __init__(self):
        self.points, self.told = {}, {}

    def log_metrics(self, values, step):
        for name, value in values.items():
            self.points.setdefault(name, []).append((step, value))

    def tags(self, found):
        self.told |= found


def config(cache, **settings):
    """The study of `study`, as a config."""
    language = {"_target_": "datamodules.tasks.Language", "train": 48, "val": 32, "test": 40}
    backbone = {
        "_target_": "lightning_modules.prompt.backbones.LanguageBackbone",
        **dict(hidden_size=16, layers=2, heads=2, ffn=24, max_positions=64, sentences=64, batch=8, steps=6),
        **dict(language=language, cache=str(cache)),
    }
    prompts = {
        "_target_": "lightning_modules.prompt.prompts.Prompts",
        **dict(backbone=backbone, source=language, tuning=toy.TUNING, cache=str(cache), length=4),
    }
    study = {
        "_target_": "lightning_modules.skill_neurons.studies.SkillNeurons",
        **dict(prompts=prompts, tasks=TASKS, trials=2, permutations=2, p_values=0),
    }
    return OmegaConf.create({"study": study, "trainer": {"accelerator": "cpu", "devices": 1}, **settings})


def study(cache):
    prompts = toy.prompts(cache, backbone=toy.spec(cache, random_init=False, sentences=64, batch=8, steps=6))
    return SkillNeurons(prompts=prompts, tasks=TASKS, trials=2, permutations=2, p_values=0)


def made(cache, monkeypatch, **settings):
    """Run what is needed, and no analysis; what was told, and each prompt."""
    torch.set_num_threads(1)
    tracker, one = Points(), study(cache)
    monkeypatch.setattr(SkillNeurons, "run", lambda self, desk: {"prompts": float(len([self.tuned(t) for t in TASKS]))})
    monkeypatch.setattr("lightning_modules.runtime.provenance.commit", lambda: "c")
    with making.watched_by(Teller(tracker)) as teller:
        result = _study(one, Desk(folder=cache), cfg=config(cache, **settings))
    places = [thing.place for thing in one.needs() if thing.kind == "prompt"]
    return (
        tracker,
        teller,
        result,
        {p.name: PromptFile.load(p).weight for p in places if (p / "manifest.json").is_file()},
    )


@pytest.mark.processes
def test_side_by_side_is_one_after_another_to_the_bit(tmp_path, monkeypatch):
    alone, teller, result, prompts = made(tmp_path / "a", monkeypatch)
    beside, crew, same, others = made(tmp_path / "b", monkeypatch, side_by_side=2)
    assert len(prompts) == PROMPTS and prompts.keys() == others.keys() and result == same
    assert all(torch.equal(others[name], weight) for name, weight in prompts.items())
    inner = {name for name in alone.points if name.startswith("inner/")}
    assert len(inner) == 1 + len(TASKS)
    assert {n: sorted(beside.points[n]) for n in inner} == {n: sorted(alone.points[n]) for n in inner}
    done = "progress/done"
    assert max(beside.points[done]) == max(alone.points[done]) == (1 + PROMPTS, 1 + PROMPTS)
    assert {kind: len(times) for kind, times in crew.made.items()} == {"backbone": 1, "prompt": PROMPTS}
    assert not crew.stack and not +crew.kept and not teller.stack


def test_a_part_makes_its_share_and_parts_together_make_all(tmp_path, monkeypatch):
    things = study(tmp_path).needs()
    both = [at_once.part(things, which) for which in ("1/2", "2/2")]
    assert [len(one) for one in both] == [1 + PROMPTS // 2, PROMPTS // 2]
    assert {t.identity for one in both for t in one} == {t.identity for t in things}
    *_, result, prompts = made(tmp_path, monkeypatch, part="2/2")
    assert len(prompts) == PROMPTS // 2 and result["metrics"] == {}
    *_, result, prompts = made(tmp_path, monkeypatch)
    assert len(prompts) == PROMPTS and result["metrics"] == {"prompts": 2.0}


@pytest.mark.processes
def test_a_process_that_dies_leaves_its_prompt_to_the_study(tmp_path, monkeypatch, capsys):
    begin = Teller.begin

    def kill(self, thing):
        while thing.kind == "prompt" and alive:
            os.kill(alive.pop()._process.pid, signal.SIGKILL)
        return begin(self, thing)

    crew, alive = [], []
    start = at_once._Worker.__init__
    started = lambda one: crew.append(one) or alive.append(one)  # noqa: E731
    monkeypatch.setattr(at_once._Worker, "__init__", lambda self, *a: start(self, *a) or started(self))
    monkeypatch.setattr(Teller, "begin", kill)
    *_, prompts = made(tmp_path, monkeypatch, side_by_side=2)
    assert len(prompts) == PROMPTS and "was lost" in capsys.readouterr().err
    assert all(worker._process.exitcode == -signal.SIGKILL for worker in crew)


@pytest.mark.processes
def test_what_fails_in_a_process_is_told_by_the_study(tmp_path, monkeypatch):
    broken = config(tmp_path, side_by_side=2)
    broken.study.prompts.tuning.lr = "none"
    one = study(tmp_path)
    one.prompts.tuning["lr"] = "none"
    with making.watched_by(Teller(None)), pytest.raises(Exception, match="learning rate|not supported between") as told:
        _study(one, Desk(folder=tmp_path), cfg=broken)
    assert any("making prompt 1 of 4" in note for note in told.value.__notes__)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"part": "0/2"}, "expected K/N"),
        ({"part": "3/2"}, "expected K/N"),
        ({"part": "half"}, "expected K/N"),
        ({"part": "1/2", "study": None}, "expected null"),
        ({"side_by_side": 2, "study": None}, "expected 1 for a run that trains itself"),
        ({"side_by_side": 2, "prompts": {"together": 4}}, "expected 1 for one of the two"),
        ({"side_by_side": 2, "trainer": {"accelerator": "cuda"}}, "expected 1 on a device"),
        ({"side_by_side": 2, "part": "1/2"}, None),
        ({}, None),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path, settings, message):
    cfg = OmegaConf.merge(config(tmp_path), settings)
    if settings.get("study", "") is None:
        cfg.study = None
    found = list(at_once.can_be_made_at_once(cfg))
    assert message in found[0] if message else not found

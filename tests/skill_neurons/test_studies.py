"""Every study from start to figures on a toy: what it promises to write is there, and its numbers are of this world."""

import contextlib
import csv
import dataclasses
import re
from collections import Counter

import pytest
import torch

from lightning_modules.common.making import Watcher, watched_by
from lightning_modules.prompt.backbone import Backbone
from lightning_modules.prompt.prompts import Prompts
from lightning_modules.runtime.study import Desk
from lightning_modules.skill_neurons import predictivity, studies
from lightning_modules.skill_neurons.origin import Origin
from lightning_modules.skill_neurons.perturb import Perturb
from lightning_modules.skill_neurons.prune import Prune
from lightning_modules.skill_neurons.studies import SkillNeurons
from lightning_modules.transfer.across import Project, Tpt
from lightning_modules.transfer.studies import Indicators, Suggest, Transfer
from tests.desks import Undrawn
from tests.prompt import tiny, toy

TASKS = ["sentiment_film", "sentiment_shop", "number_film", "number_shop", "topic_four"]
SHARED = dict(tasks=TASKS, trials=2, permutations=2, share=0.1)
SMALL = dict(shares=[0.0, 0.1], draws=2, examples=20)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def across(cache):
    other = toy.prompts(cache, backbone=toy.spec(cache, hidden_size=24, heads=2, seed=1))
    return dict(source_prompts=other, train_tasks=["sentiment_film", "number_film"], steps=6)


STUDIES = {
    "skill_neurons": (SkillNeurons, {}, {"predictivity", "spearman", "layers"}),
    "perturb": (Perturb, SMALL, {"perturbation"}),
    "origin": (Origin, SMALL | {"learning_rates": {"bitfit": 0.01, "lora": 0.01}}, {"origin"}),
    "prune": (Prune, {"keep": [0.1], "top_layers": 1, "retune": 2, "rounds": 3}, {"pruning"}),
    "transfer": (Transfer, {}, {"transfer"}),
    "indicators": (Indicators, {"draws": 5}, {"indicators", "transfer"}),
    "suggest": (Suggest, {"target": "number_shop", "probe_steps": 2, "cadence": 2}, {"tuning"}),
    "project": (Project, "across", {"projected"}),
    "tpt": (Tpt, "tpt", {"tuning"}),
    "tpt, one model": (Tpt, "tpt", {"tuning"}),
}


class Listener(Watcher):
    """Identities of all that is asked for."""

    def __init__(self):
        self.asked = set()

    def found(self, thing):
        self.asked.add(thing.identity)

    @contextlib.contextmanager
    def making(self, thing):
        self.asked.add(thing.identity)
        yield


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
def test_a_study_writes_what_it_promises(name, cache, tmp_path):
    kind, own, figures = STUDIES[name]
    if isinstance(own, str):
        own = across(cache) | ({"targets": ["sentiment_shop"], "cadence": 2} if own == "tpt" else {})
    own |= {"other_model": False} if name == "tpt, one model" else {}
    study = kind(prompts=toy.prompts(cache), **SHARED, **own)
    study.prepare()
    assert set(study.fingerprint()) == {"data", "backbone"}
    with watched_by(Listener()) as heard:
        metrics = study.run(Desk(folder=tmp_path))
    # What it says that it needs is what it asks for; backbones here are untrained, so none is made.
    assert {thing.identity for thing in study.needs()} == heard.asked
    assert {p.stem for p in (tmp_path / "figures").iterdir()} == figures
    tables = list((tmp_path / "tables").glob("*.csv"))
    assert tables
    for table in tables:
        # Read as a number, neuron 970 of a layer would be its neuron 97.
        named = [row["best neuron"] for row in csv.DictReader(table.open()) if "best neuron" in row]
        assert all(re.fullmatch(r"L\d+\.N\d+", neuron) for neuron in named)
    # Untrained models answer every prompt alike: their transfer has no ranks to correlate.
    assert (metrics or name == "indicators") and all(value == value for value in metrics.values())
    again = kind(prompts=toy.prompts(cache), **SHARED, **own).run(Undrawn(folder=tmp_path / "again"))
    # All but measured speed is the same again.
    assert {n: v for n, v in again.items() if "speed_up" not in n} == {
        n: v for n, v in metrics.items() if "speed_up" not in n
    }


class Two(tiny.Reviews):
    """Two tasks of two skills."""

    def names(self):
        return ["first", "second"]

    def task(self, name):
        task = super().task("reviews")
        return type(task)(name, name, task.classes, task.texts, task.labels, hint=task.hint)


FAMILIES = {
    "no head": ("bert", {"head": "none"}),
    "masked": ("roberta", {}),
    "causal": ("gpt2", {}),
    "seq2seq": ("t5", {}),
}
OF_MODELS = {name: STUDIES[name][:2] for name in ("skill_neurons", "perturb", "prune", "transfer", "indicators")}
OF_MODELS["origin"] = Origin, SMALL | {"learning_rates": {"bitfit": 0.05, "lora": 0.05}}
# Every study on what scores by phrases, and on every kind of model the one that reads most.
KEPT = [*(("no head", name) for name in OF_MODELS), *((family, "skill_neurons") for family in list(FAMILIES)[1:])]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "name"), KEPT)
def test_what_is_kept_gives_the_numbers_of_the_first_time(family, name, tmp_path):
    network, settings = FAMILIES[family]
    folder = tiny.save(network, tmp_path / network)
    kind, own = OF_MODELS[name]

    def metrics(number):
        spec = tiny.HubBackbone(name=folder, **settings)
        prompts = Prompts(backbone=spec, source=Two(), tuning=toy.TUNING | {"lr": 0.1}, cache=str(tmp_path), length=3)
        study = kind(prompts=prompts, tasks=["first", "second"], trials=1, permutations=2, share=0.1, **own)
        study.prepare()
        found = study.run(Undrawn(folder=tmp_path / str(number)))
        # Correlations of two tasks are none.
        return {n: v for n, v in found.items() if "speed_up" not in n and v == v}

    first = metrics(1)
    assert first and metrics(2) == first


def passes(study, folder, monkeypatch):
    """Examples that went through the backbone by split, in passes over it; and the metrics."""
    asked, answer = Counter(), Backbone.answer
    sizes = {"train": 48, "val": 32, "test": 40}

    def counted(self, batch, prompt=None, *, lean=False):
        if not torch.is_grad_enabled():
            asked[next(split for split, size in sizes.items() if size == len(batch["ask"]))] += 1
        return answer(self, batch, prompt, lean=lean)

    with monkeypatch.context() as patched:
        patched.setattr(Backbone, "answer", counted)
        metrics = study.run(Undrawn(folder=folder))
    return dict(asked), {name: value for name, value in metrics.items() if value == value}


@pytest.mark.slow
def test_a_split_is_read_once_a_prompt_and_neurons_are_kept_for_later_studies(tmp_path, monkeypatch):
    def study(cache, **settings):
        return SkillNeurons(prompts=toy.prompts(cache), tasks=TASKS[:2], trials=2, permutations=2, **settings)

    one, metrics = passes(study(tmp_path / "a", p_values=9), tmp_path / "1", monkeypatch)
    assert one == {"train": 4, "val": 4, "test": 4}
    # Whichever way predictivity is counted, it is the same.
    two, other = passes(study(tmp_path / "b", p_values=0), tmp_path / "2", monkeypatch)
    assert two == {"train": 4, "val": 8, "test": 4} and other == metrics
    again, same = passes(study(tmp_path / "a", p_values=9), tmp_path / "3", monkeypatch)
    assert again == {"train": 4, "val": 4, "test": 4} and same == metrics
    monkeypatch.setattr(predictivity, "find", None)
    monkeypatch.setattr(studies, "of_labellings", None)
    later = study(tmp_path / "a", p_values=9)
    assert torch.equal(later.predictivity(TASKS[0]), study(tmp_path / "b", p_values=0).predictivity(TASKS[0]))
    assert later.significance(TASKS[0]).own_LF.shape == later.predictivity(TASKS[0])[0].shape
    # What the number depends on is in its key.
    for settings in ({"balanced": True}, {"permutations": 3}, {"seed": 5}):
        with pytest.raises(TypeError):
            SkillNeurons(
                **{"prompts": toy.prompts(tmp_path / "b"), "tasks": TASKS[:2], "trials": 2, "permutations": 2}
                | {"p_values": 0}
                | settings
            ).predictivity(TASKS[0])


@pytest.mark.slow
def test_without_the_other_model_tuning_from_a_similar_task_is_as_with_it(cache, tmp_path):
    own = across(cache) | {"targets": ["sentiment_shop"], "cadence": 2}
    both, one = (
        Tpt(prompts=toy.prompts(cache), **SHARED, **own, other_model=other).run(Undrawn(folder=tmp_path))
        for other in (True, False)
    )
    assert one == {name: value for name, value in both.items() if "tpt_model" not in name}
    assert len(one) < len(both)


class Moods(tiny.Reviews):
    """Two tasks of one skill."""

    def names(self):
        return ["first", "second"]


@pytest.mark.slow
@pytest.mark.parametrize(("source", "target"), [("bert", "gpt2"), ("t5_gated", "roberta"), ("llama", "minilm")])
def test_prompts_go_from_any_hugging_face_model_to_any_other(source, target, tmp_path):
    def prompts(family):
        # An encoder without a head answers by prototype, as MiniLM.
        head, network = ("none", "bert") if family == "minilm" else ("auto", family)
        spec = tiny.HubBackbone(name=tiny.save(network, tmp_path / family), head=head)
        settings = dict(source=Moods(), tuning=toy.TUNING, cache=str(tmp_path), length=3)
        return Prompts(backbone=spec, **settings)

    study = Project(
        prompts=prompts(target),
        source_prompts=prompts(source),
        tasks=["first", "second"],
        train_tasks=["first"],
        trials=2,
        steps=4,
    )
    metrics = study.run(Desk(folder=tmp_path))
    arms = ("random_prompt", "flat_distance", "flat_task", "per_token_distance", "per_token_task")
    kinds = ("trained_on", "unseen_same_skill")
    assert set(metrics) == {f"prompt/{arm}_{kind}" for arm in arms for kind in kinds}


def test_more_layers_than_there_are_are_refused_before_anything_is_tuned(tmp_path):
    for family in ("t5", "bert"):
        spec = tiny.HubBackbone(name=tiny.save(family, tmp_path / family))
        prompts = Prompts(backbone=spec, source=Two(), tuning=toy.TUNING, cache=str(tmp_path), length=3)
        Prune(prompts=prompts, tasks=["first"], top_layers=tiny.LAYERS).prepare()
        with pytest.raises(ValueError, match="study.top_layers is 4; expected at most 3, the layers of the backbone"):
            Prune(prompts=prompts, tasks=["first"], top_layers=4).prepare()
    assert toy.spec(tmp_path).layers == len(toy.spec(tmp_path).load().sites())


def test_parameters_left_are_the_mean_over_tasks_that_keep_different_numbers_in_a_layer(tmp_path, monkeypatch):
    tasks = ["sentiment_film", "number_film"]
    study = Prune(
        prompts=toy.prompts(tmp_path),
        tasks=tasks,
        trials=1,
        permutations=0,
        keep=[0.1],
        top_layers=1,
        retune=1,
        rounds=1,
    )
    # Ranked within the whole model, 2 and 12 of the last layer's 24 neurons may be among the best.
    kept = {"sentiment_film": 2, "number_film": 12}
    neurons_LF = torch.arange(24).expand(2, 24)
    monkeypatch.setattr(study, "skill_neurons", lambda task, share: neurons_LF < kept[task])
    monkeypatch.setattr(study, "retuned", lambda smaller, task, prompt, *_, **__: prompt)
    found = study.run(Undrawn(folder=tmp_path))
    whole = sum(p.numel() for p in study.backbone.model.parameters())
    # A neuron has a row of 16 and a bias above it, and a column of 16 below it.
    left = [1 - 33 * (24 - count) / whole for count in kept.values()]
    assert found["prompt/parameters_left_0.1"] == pytest.approx(sum(left) / 2)
    with open(tmp_path / "tables" / "pruning.csv") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["parameters left"]) for row in rows] == pytest.approx([left[0]] * 2 + [left[1]] * 2)


def test_a_pruned_encoder_scores_by_the_whole_ones_phrases(tmp_path, monkeypatch):
    spec = tiny.HubBackbone(name=tiny.save("bert", tmp_path / "bert"), head="none")
    prompts = Prompts(backbone=spec, source=Two(), tuning=toy.TUNING, cache=str(tmp_path), length=3)
    study = Prune(
        prompts=prompts, tasks=["first"], trials=1, permutations=0, keep=[0.1], top_layers=2, retune=1, rounds=1
    )
    seen = []
    monkeypatch.setattr(study, "retuned", lambda smaller, task, prompt, *_, **__: seen.append(smaller) or prompt)
    study.run(Undrawn(folder=tmp_path))
    (batch,) = tiny.batches(prompts.data("first"), "test", 64)
    whole = prompts.backbone._prototype(batch)
    assert len(seen) == 2 and all(torch.equal(smaller._prototype(batch), whole) for smaller in seen)


@pytest.mark.parametrize(("kind", "settings"), [(Transfer, {}), (Origin, {"learning_rates": {}})])
def test_a_task_without_a_hint_is_named_before_anything_is_tuned(kind, settings, tmp_path):
    class Mute(Two):
        def task(self, name):
            task = super().task(name)
            return task if name == "first" else dataclasses.replace(task, hint=" ")

    spec = tiny.HubBackbone(name=tiny.save("bert", tmp_path / "bert"))
    prompts = Prompts(backbone=spec, source=Mute(), tuning=toy.TUNING, cache=str(tmp_path), length=3)
    with pytest.raises(ValueError, match="task second: data.source.hint is empty; expected the words"):
        kind(prompts=prompts, tasks=["first", "second"], **settings).prepare()
    kind(prompts=prompts, tasks=["first"], **settings).prepare()
    SkillNeurons(prompts=prompts, tasks=["second"]).prepare()


def test_what_is_named_twice_is_refused(cache):
    """It was counted twice: a task's own prompt as another one of its skill, a share in an interval of twice as many."""
    prompts, film = toy.prompts(cache), ["sentiment_film"]
    for kind, key, given in [
        (Transfer, "tasks", [*film, *film]),
        (Perturb, "shares", [0.0, 0.1, 0.0]),
        (Perturb, "kinds", ["zero", "zero"]),
        (Prune, "keep", [0.1, 0.1]),
        (Indicators, "names", ["on", "e_avg", "on"]),
    ]:
        with pytest.raises(ValueError, match=rf"study\.{key} names .* twice; expected each once"):
            kind(prompts=prompts, **{key: given})
    both = across(cache)
    for kind, own in ((Project, {"train_tasks": film * 2}), (Tpt, {"targets": film * 2})):
        with pytest.raises(ValueError, match=rf"study\.{next(iter(own))} names sentiment_film twice"):
            kind(prompts=prompts, **SHARED | both | own)


def test_a_share_that_is_no_neuron_is_refused(cache):
    """Nothing was perturbed or kept then, and the overlap of no neurons was 0."""
    study = SkillNeurons(prompts=toy.prompts(cache), tasks=["sentiment_film"], trials=1, permutations=0, p_values=0)
    assert study.skill_neurons("sentiment_film", share=0.0).sum() == 0
    with pytest.raises(
        ValueError, match=r"a share of 0\.02 of the 24 neurons of a layer is none; expected at least 0\.042"
    ):
        study.skill_neurons("sentiment_film", share=0.02)


def test_what_is_not_there_is_refused(cache):
    with pytest.raises(ValueError, match="target is null"):
        Suggest(prompts=toy.prompts(cache), target=None, **SHARED)
    with pytest.raises(ValueError, match="on_top"):
        Indicators(prompts=toy.prompts(cache), names=["on_tip"], **SHARED)
    with pytest.raises(ValueError, match="sentiment_film"):
        Transfer(prompts=toy.prompts(cache), controls=["sentiment_fil"], **SHARED)
    longer = across(cache) | dict(source_prompts=toy.prompts(cache, length=6))
    with pytest.raises(ValueError, match="source_prompts.length is 6; expected prompt.length=4"):
        Project(prompts=toy.prompts(cache), **SHARED, **longer)

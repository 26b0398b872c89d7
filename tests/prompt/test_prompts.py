"""Tuning: what a run leaves, that a study's prompts are a run's, and prompt files that do not fit."""

import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from datamodules.tasks.datamodule import TaskDataModule
from lightning_modules.prompt.backbones import HubBackbone
from lightning_modules.prompt.module import PromptTuning
from lightning_modules.prompt.prompt_file import PromptFile
from lightning_modules.prompt.tuners import Adapter, BitFit, SoftPrompt
from lightning_modules.training.inner import inner_trainer, seeded
from lightning_modules.transfer.stacked import stack
from tests.prompt import toy
from tests.tracking import database

TASK = "sentiment_film"


def test_a_prompt_on_demand_is_trained_once_and_is_that_of_a_run_bitwise(tmp_path):
    prompts = toy.prompts(tmp_path / "a")
    on_demand = prompts.prompt(TASK, seed=3)
    module = PromptTuning(backbone=toy.spec(tmp_path / "b"), tuner=SoftPrompt(length=4, seed=3), lr=0.01)
    trainer = inner_trainer(max_steps=4, limit_val_batches=None, val_check_interval=2, check_val_every_n_epoch=None)
    with seeded(3):
        trainer.fit(module, datamodule=toy.prompts(tmp_path / "b").datamodule(TASK, seed=3))
    assert torch.equal(module.tuner.weight, on_demand.weight)
    stamp = prompts.path(TASK, seed=3).stat().st_mtime_ns
    assert toy.prompts(tmp_path / "a").path(TASK, seed=3).stat().st_mtime_ns == stamp
    assert not torch.equal(prompts.prompt(TASK, seed=4).weight, on_demand.weight)
    other = toy.prompts(tmp_path / "a", tuning=toy.TUNING | {"lr": 0.02})
    assert other.path(TASK, seed=3) != prompts.path(TASK, seed=3)


def test_a_tasks_data_are_read_and_encoded_once_for_all_its_prompts(tmp_path, monkeypatch):
    prompts, read, encoded = toy.prompts(tmp_path), [], []
    task, examples = prompts.source.task, TaskDataModule.read
    monkeypatch.setattr(prompts.source, "task", lambda name: read.append(name) or task(name))
    monkeypatch.setattr(TaskDataModule, "read", lambda self, split: encoded.append(split) or examples(self, split))
    prompts.needs([TASK], [1, 2, 3])
    found = [prompts.datamodule(TASK, seed=seed) for seed in (1, 2, 3)]
    assert len({data.training for data in found}) == 1
    assert len({data.fingerprint()["order"] for data in found}) == 3
    assert (read, encoded) == ([TASK], ["train"])
    assert prompts.with_tuning(steps=1).datamodule(TASK, seed=4).training is found[0].training


def test_a_study_starts_its_prompts_where_the_config_says(tmp_path):
    first = toy.prompts(tmp_path).path(TASK, seed=1)
    short = toy.TUNING | {"steps": 1, "lr": 1e-9}
    given = toy.prompts(tmp_path, tuning=short, start={"file": str(first)})
    assert torch.allclose(given.prompt(TASK, seed=2).weight, PromptFile.load(first).weight, atol=1e-6)
    before = given.path(TASK, seed=2)
    assert toy.prompts(tmp_path, tuning=short, start={"file": str(first)}).path(TASK, seed=2) == before
    # A control that asks for drawn words gets them, whatever tuning starts from.
    assert given.soft(seed=2, init="vocabulary").init == "vocabulary"
    other = toy.prompts(tmp_path).path(TASK, seed=5)
    (tmp_path / "moved").mkdir()
    for name in ("here", "there"):
        place = tmp_path / "moved" / name
        shutil.copytree(first if name == "here" else other, place)
    start = {"file": str(tmp_path / "moved" / "here")}
    assert toy.prompts(tmp_path, tuning=short, start=start).path(TASK, seed=2) == before
    shutil.rmtree(tmp_path / "moved" / "here")
    (tmp_path / "moved" / "there").rename(tmp_path / "moved" / "here")
    assert toy.prompts(tmp_path, tuning=short, start=start).path(TASK, seed=2) != before


def test_a_checkpoint_holds_the_prompt_alone_and_a_file_says_what_it_is_of(tmp_path):
    prompts = toy.prompts(tmp_path)
    module = PromptTuning(backbone=prompts.spec, tuner=SoftPrompt(length=4), lr=0.01)
    assert {n: v.numel() for n, v in module.state_dict().items()} == {"tuner.weight": 4 * 16}
    path = module.export(tmp_path / "export", datamodule=prompts.data(TASK))
    assert path.stat().st_size < 4096
    data = prompts.data(TASK)
    assert PromptFile.load(path).about == {
        "backbone": module.before,
        "width": 16,
        "task": TASK,
        "skill": "sentiment",
        "classes": ["good", "bad"],
        "template": "{mask}{prompt}{text}{sep}",
        "verbaliser": "token",
        "data": data.task.fingerprint(),
    }


def test_a_backbone_that_changed_fails_the_run(tmp_path):
    module = PromptTuning(backbone=toy.spec(tmp_path), tuner=BitFit())
    next(iter(module.backbone.model.parameters())).data.add_(1.0)
    with pytest.raises(AssertionError, match="frozen backbone changed"):
        module.check_frozen()


def test_another_tuner_on_demand_is_that_of_a_run_too(tmp_path):
    """An adapter's first weights come from the run's seed."""
    prompts = toy.prompts(tmp_path)
    on_demand = prompts.tuned(TASK, seed=3, tuner=Adapter(rank=2)).trained()
    with seeded(3):
        module = PromptTuning(backbone=prompts.spec, tuner=Adapter(rank=2), lr=0.01)
        inner_trainer(max_steps=4).fit(module, datamodule=prompts.datamodule(TASK, seed=3))
    own = module.trained()
    assert own.keys() == on_demand.keys() and all(torch.equal(own[n], on_demand[n]) for n in own)


def test_prompt_files_that_do_not_fit(tmp_path):
    prompts = toy.prompts(tmp_path)
    prompt = prompts.prompt(TASK, seed=1)
    wide = toy.spec(tmp_path, hidden_size=32).load()
    with pytest.raises(ValueError, match=r"width 16; this backbone's is 32.*project"):
        prompt.check(wide, length=4)
    with pytest.raises(ValueError, match=r"4 prompt tokens; expected prompt.length=8; set it to 4"):
        prompt.check(prompts.backbone, length=8)
    with pytest.raises(ValueError, match=r"trained on the backbone"):
        prompt.check(toy.spec(tmp_path, seed=9).load(), length=4)
    with pytest.raises(ValueError, match="not there"):
        PromptFile.load(tmp_path / "none")
    (tmp_path / "broken.safetensors").write_bytes(b"not a prompt")
    with pytest.raises(ValueError, match="damaged"):
        PromptFile.load(tmp_path / "broken.safetensors")
    save_file({"weights": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"holds weights \[2\]; expected one tensor"):
        PromptFile.load(tmp_path / "other.safetensors")
    with safe_open(prompts.path(TASK, seed=1) / "prompt.safetensors", "pt") as file:
        assert list(file.keys()) == ["prompt"]


def test_prompts_of_other_lengths_or_backbones_do_not_stack(tmp_path):
    prompts = toy.prompts(tmp_path)
    one = prompts.prompt(TASK, seed=1)
    longer = toy.prompts(tmp_path, length=6).prompt(TASK, seed=1)
    with pytest.raises(ValueError, match=r"\(4, 16\).*\(6, 16\).*one prompt.length"):
        stack([one, longer])
    other = toy.prompts(tmp_path, backbone=toy.spec(tmp_path, seed=9)).prompt(TASK, seed=1)
    with pytest.raises(ValueError, match="two backbones"):
        stack([one, other])


def test_a_run_that_is_not_there_is_named(tmp_path):
    prompts = toy.prompts(tmp_path, runs={TASK: ["0" * 32]}, tracking_uri=database(tmp_path))
    with pytest.raises(ValueError, match=r"prompt.from_run=0{32}: no exported prompt"):
        prompts.prompt(TASK, seed=1)


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """(run id of a prompt for sentiment_film, of a run without one, tracking address)."""
    from mlflow import MlflowClient

    tmp_path = tmp_path_factory.mktemp("logged")
    uri = database(tmp_path)
    client = MlflowClient(uri)
    experiment = client.create_experiment("prompts", artifact_location=(tmp_path / "artifacts").as_uri())
    run, empty = (client.create_run(experiment).info.run_id for _ in range(2))
    client.log_artifact(run, str(toy.prompts(tmp_path).path(TASK, seed=7) / "prompt.safetensors"), "export")
    return run, empty, uri


def test_a_study_takes_a_runs_prompt_and_trains_the_other_trials(tmp_path, logged):
    run, empty, uri = logged
    prompts = toy.prompts(tmp_path, runs={TASK: [run]}, tracking_uri=uri)
    kept = toy.prompts(tmp_path)
    assert torch.equal(prompts.prompt(TASK, seed=1, trial=0).weight, kept.prompt(TASK, seed=7).weight)
    assert torch.equal(prompts.prompt(TASK, seed=2, trial=1).weight, kept.prompt(TASK, seed=2).weight)
    with pytest.raises(
        ValueError, match=f"prompts.runs: run {run} tuned sentiment_film; expected a run of number_film"
    ):
        toy.prompts(tmp_path, runs={"number_film": [run]}, tracking_uri=uri).prompt("number_film", seed=1)
    with pytest.raises(ValueError, match=f"prompt.from_run={empty}: no exported prompt found"):
        toy.prompts(tmp_path, runs={TASK: [empty]}, tracking_uri=uri).prompt(TASK, seed=1)
    with pytest.raises(ValueError, match="prompts.runs is 'sentiment_fil'; .* the nearest is sentiment_film"):
        toy.prompts(tmp_path, runs={"sentiment_fil": [run]}, tracking_uri=uri)


@pytest.mark.parametrize(
    ("key", "settings"),
    [
        ("data.template", {"template": "{prompt}{text}{mask}{sep}"}),
        ("data.verbaliser", {"verbaliser": "sum"}),
        ("data.source", {"source": toy.language(train=50)}),
    ],
)
def test_a_runs_prompt_that_was_asked_otherwise_is_refused(key, settings, tmp_path, logged):
    run, _, uri = logged
    with pytest.raises(ValueError, match=f"prompts.runs: run {run} tuned {TASK} with another {key} .*; here it is "):
        toy.prompts(tmp_path, runs={TASK: [run]}, tracking_uri=uri, **settings).prompt(TASK, seed=1)


def test_every_way_to_begin(tmp_path, logged):
    run, _, uri = logged
    backbone, kept = toy.spec(tmp_path).load(), toy.prompts(tmp_path).path(TASK, seed=7)
    embedding = backbone.model.get_input_embeddings().weight

    def start(**settings):
        tuner = SoftPrompt(**dict(length=4, seed=3, tracking_uri=uri) | settings)
        tuner.attach(backbone)
        return tuner.weight.detach()

    # One that is given needs no init beside it.
    for settings in (dict(init="run"), dict()):
        assert torch.equal(start(from_run=run, **settings), PromptFile.load(kept).weight)
    assert torch.equal(start(file=str(kept)), PromptFile.load(kept).weight)
    ids = [backbone.tokenizer.convert_tokens_to_ids(word) for word in ("mood", "good", "bad", "mood")]
    assert torch.equal(start(text="mood good bad"), embedding[ids])
    drawn = start()
    assert all((row == embedding).all(1).any() for row in drawn)
    assert torch.equal(drawn, start()) and not torch.equal(drawn, start(seed=4))
    long = start(init="random", length=500)
    assert (long.mean(0) - embedding.mean(0)).abs().max() < 0.2 * embedding.std()
    assert torch.allclose(long.std(0), embedding.std(0), rtol=0.2)


@pytest.mark.parametrize("together", [1, 2])
def test_tasks_start_from_the_same_words_or_each_from_its_own(tmp_path, together):
    short, tasks = toy.TUNING | {"steps": 1, "lr": 1e-9}, (TASK, "number_film")
    made = {
        starts: toy.prompts(tmp_path, tuning=short, starts=starts, together=together) for starts in ("shared", "own")
    }
    for prompts in made.values():
        prompts.needs(tasks, [1])
    found = {(starts, task): made[starts].prompt(task, seed=1).weight for starts in made for task in tasks}
    assert torch.allclose(found["shared", TASK], found["shared", tasks[1]], atol=1e-6)
    assert not torch.allclose(found["own", TASK], found["own", tasks[1]], atol=1e-2)
    other = made["own"].started(TASK, seed=2).description()["start"]
    assert other != made["own"].started(TASK, seed=1).description()["start"]


@pytest.mark.parametrize(
    ("settings", "named"),
    [({"init": "text"}, "prompt.init=text"), ({"start": {"file": "a"}}, "prompt.file"), ({}, "")],
)
def test_a_start_that_is_one_for_all_tasks_is_not_each_ones_own(tmp_path, settings, named):
    if named:
        with pytest.raises(ValueError, match=f"prompts.starts is 'own' with {named}: .* or prompts.starts=shared"):
            toy.prompts(tmp_path, starts="own", **settings)
    else:
        with pytest.raises(ValueError, match="prompts.starts is 'owm'; .* the nearest is own"):
            toy.prompts(tmp_path, starts="owm")


WRONG_STARTS = (
    (dict(init="text"), "prompt.text is null; prompt.init=text needs it"),
    (dict(init="run"), "prompt.from_run is null; prompt.init=run needs it"),
    (dict(init="runn"), "prompt.init is 'runn'; .* the nearest is run"),
    (dict(from_run="a", file="b"), "prompt.file=b and prompt.from_run=a with prompt.init=vocabulary; expected one"),
    (dict(from_run="a", init="random"), "prompt.from_run=a with prompt.init=random; expected one start"),
)


@pytest.mark.parametrize(("settings", "message"), WRONG_STARTS)
def test_a_start_that_is_none_or_two(settings, message):
    with pytest.raises(ValueError, match=message):
        SoftPrompt(**settings)


def test_bad_tasks_words_templates_and_names(tmp_path):
    prompts = toy.prompts(tmp_path)
    with pytest.raises(ValueError, match="sentiment_film"):
        prompts.data("sentiment_fil").prepare_data()
    with pytest.raises(ValueError, match=r"leaves none for the text; the nearest is prompt.length="):
        toy.prompts(tmp_path, length=64).data(TASK).prepare_data()
    with pytest.raises(ValueError, match=r"one \{mask\}"):
        toy.prompts(tmp_path, template="{prompt}{text}").data(TASK).prepare_data()
    data = prompts.data("number_film")
    object.__setattr__(data.task, "classes", ("unheardof", "many"))
    with pytest.raises(ValueError, match=r"'unheardof' is unknown"):
        data.prepare_data()
    with pytest.raises(ValueError, match="no example of class"):
        type(data.task)(
            "t",
            "s",
            ("a", "b"),
            {s: ["x"] for s in ("train", "val", "test")},
            {s: [0] for s in ("train", "val", "test")},
        )
    with pytest.raises(ValueError, match=r"backbone.name="):
        HubBackbone(name=str(tmp_path / "nowhere")).tokenizer()

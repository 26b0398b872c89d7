"""Prompts as a user meets them, through main.py: what one command leaves, the next one takes."""

import json

import pytest
import torch
from mlflow import MlflowClient
from safetensors.torch import load_file

from tests.prompt import tiny
from tests.runtime.cli import main

LANGUAGE = [f"language.{split}=48" for split in ("train", "val", "test")]
BACKBONE = ["hidden_size=16", "layers=2", "heads=2", "ffn=24", "steps=4", "batch=8", "sentences=64"]
SMALL = [*LANGUAGE, *(f"backbone.{setting}" for setting in BACKBONE)]
TUNING = ["tuning.steps=4", "tuning.batch=8", "trainer.val_check_interval=2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("prompt")


@pytest.fixture(scope="module")
def pretrained(folder):
    main(folder, "experiment=prompt/pretrain", "trainer.val_check_interval=2", *SMALL, smoke=False)
    return folder


@pytest.fixture(scope="module")
def tuned(pretrained):
    """(run folder, run id) of a prompt for sentiment_film."""
    main(pretrained, "experiment=prompt/tune", "prompt.length=4", *SMALL, *TUNING, smoke=False)
    (result,) = pretrained.glob("runs/prompt/tune/*/result.json")
    return result.parent, json.loads(result.read_text())["run_id"]


def backbones(folder):
    return list(folder.glob("cache/backbones/*/model.safetensors"))


def test_the_experiment_makes_the_backbone_that_runs_take(tuned, pretrained):
    (exported,) = pretrained.glob("runs/prompt/pretrain/*/export/model.safetensors")
    (kept,) = backbones(pretrained)
    assert exported.read_bytes() == kept.read_bytes()


def test_a_run_leaves_its_prompt_and_a_checkpoint_of_nothing_else(tuned):
    run, run_id = tuned
    checkpoint = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    assert {name: tuple(value.shape) for name, value in checkpoint["state_dict"].items()} == {"tuner.weight": (4, 16)}
    moments = checkpoint["optimizer_states"][0]["state"]
    assert {tuple(v.shape) for state in moments.values() for v in state.values()} <= {(), (4, 16)}
    client = MlflowClient(f"sqlite:///{run.parents[3]}/tracking/mlflow.db")
    assert [f.path for f in client.list_artifacts(run_id, "export")] == ["export/prompt.safetensors"]
    saved = load_file(run / "export" / "prompt.safetensors")["prompt"]
    assert torch.equal(saved, checkpoint["state_dict"]["tuner.weight"])


def test_tuning_goes_on_from_a_runs_prompt(tuned, pretrained):
    run, run_id = tuned
    settings = ["experiment_name=test/from_run", "tuning.lr=1e-9", "prompt.length=4", f"prompt.from_run={run_id}"]
    main(pretrained, "experiment=prompt/tune", *settings, *SMALL, *TUNING, smoke=False)
    (again,) = pretrained.glob("runs/test/from_run/*/export/prompt.safetensors")
    start, end = (load_file(path)["prompt"] for path in (run / "export" / "prompt.safetensors", again))
    assert torch.allclose(start, end, atol=1e-6)


def test_a_study_takes_the_prompts_of_runs(tuned, pretrained):
    _, run_id = tuned
    tasks = "study.tasks=[sentiment_film,sentiment_shop,number_film]"
    settings = [
        tasks,
        "study.trials=1",
        "study.controls=[]",
        "prompt.length=4",
        f"prompts.runs={{sentiment_film: [{run_id}]}}",
    ]
    done = main(pretrained, "experiment=prompt/transfer", *settings, *SMALL, *TUNING, smoke=False)
    (run,) = pretrained.glob("runs/prompt/transfer/*")
    assert (run / "figures" / "transfer.png").is_file(), done.text
    # The other two tasks' were trained on demand; nobody trained another backbone.
    assert len(list(pretrained.glob("cache/prompts/*/prompt.safetensors"))) == 2
    assert len(backbones(pretrained)) == 1


def test_any_model_and_dataset_by_path(folder):
    reviews = tiny.Reviews().task("reviews")
    lines = [
        json.dumps({"text": text, "label": label})
        for split in ("train", "val", "test")
        for text, label in zip(reviews.texts[split], reviews.labels[split], strict=True)
    ]
    (folder / "reviews.jsonl").write_text("\n".join(lines))
    model = ["backbone=hub", f"backbone.name={tiny.save('t5', folder / 't5')}", "prompt.length=3"]
    data = ["data=task_hub", f"data.source.dataset={folder}/reviews.jsonl", "data.source.words={0: good, 1: bad}"]
    main(folder, "experiment=prompt/tune", "experiment_name=test/hub", *model, *data, *TUNING, smoke=False)
    (prompt,) = folder.glob("runs/test/hub/*/export/prompt.safetensors")
    assert load_file(prompt)["prompt"].shape == (3, tiny.WIDTH)

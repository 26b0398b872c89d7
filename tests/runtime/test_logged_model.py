"""The export of a run as a logged model of MLflow: it loads again, and its metrics hang on it and on the data set."""

from pathlib import Path

import mlflow
import pytest
import torch
from mlflow import MlflowClient

from lightning_modules.runtime import config, preflight
from lightning_modules.runtime.courier import Delivery
from lightning_modules.runtime.journal import Journal
from lightning_modules.runtime.look import finished
from tests.runtime.cli import PROJECT, main

config.register_resolvers(project=PROJECT)


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """(client, run, its logged model, its folder)"""
    folder = tmp_path_factory.mktemp("model")
    done = main(folder, "logger.model=true", "experiment_name=test/model", "trainer.max_steps=10")
    (result,) = done.results().values()
    client = MlflowClient(f"sqlite:///{folder}/tracking/mlflow.db")
    run = client.get_run(result["run_id"])
    assert "not reached" not in done.text, done.text
    (output,) = run.outputs.model_outputs
    (place,) = folder.glob("runs/test/model/*/result.json")
    return client, run, client.get_logged_model(output.model_id), place.parent


def test_mlflow_loads_it_with_the_weights_of_the_export(logged, monkeypatch):
    from transformers import AutoModelForCausalLM

    client, run, model, folder = logged
    assert (model.status, model.source_run_id) == ("READY", run.info.run_id)
    mlflow.set_tracking_uri(client.tracking_uri)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    loaded = mlflow.transformers.load_model(f"models:/{model.model_id}")
    kept = AutoModelForCausalLM.from_pretrained(folder / "export").state_dict()
    assert all(torch.equal(kept[name], value) for name, value in loaded.model.state_dict().items())
    assert loaded("aeiou", max_new_tokens=3, do_sample=False)[0]["generated_text"].startswith("aeiou")
    text = mlflow.pyfunc.load_model(f"models:/{model.model_id}").predict(["aeiou"])
    assert text[0].startswith("aeiou")


def test_its_metrics_hang_on_it_and_on_the_data_and_the_run_has_each_once(logged):
    client, run, model, _ = logged
    (dataset,) = run.inputs.dataset_inputs
    found = {m.key: m for m in model.metrics}
    assert {"test/ppl", "val/ppl", "test/mutual_information"} <= set(found)
    assert not [name for name in found if name.startswith("train/")]
    for name, metric in found.items():
        assert (metric.dataset_name, metric.dataset_digest) == (dataset.dataset.name, dataset.dataset.digest)
        assert metric.value == run.data.metrics[name]
        steps = [point.step for point in client.get_metric_history(run.info.run_id, name)]
        assert len(steps) == len(set(steps))


def test_its_weights_are_kept_once_and_the_page_of_the_run_finds_them(logged):
    client, run, model, folder = logged
    assert "export" not in {f.path for f in client.list_artifacts(run.info.run_id)}
    kept = [*(folder.parents[3] / "tracking").rglob("*.safetensors")]
    assert len(kept) == len([*(folder / "export").glob("*.safetensors")]) == 1
    assert model.model_id in str(kept[0])
    arguments = ["debug=smoke", *(f"paths.{n}={folder.parents[3] / n}" for n in ("cache", "runs", "tracking"))]
    here = preflight.check(config.spelled_out(arguments))
    assert Path(finished(run.info.run_id, here=here, text=True, own=None).export(), "config.json").is_file()


def test_delivered_a_second_time_it_stays_one(logged):
    client, run, model, folder = logged
    journal = Journal(folder)
    (entry,) = (entry for kind, entry in journal.kinds("model"))
    Delivery(journal, uri=client.tracking_uri, run_id=run.info.run_id).send_model(entry)
    assert len(client.search_logged_models([run.info.experiment_id])) == 1
    assert len(client.get_run(run.info.run_id).outputs.model_outputs) == 1
    assert len(client.get_logged_model(model.model_id).metrics) == len(model.metrics)

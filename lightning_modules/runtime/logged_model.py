"""A run's export as a logged model of MLflow, which `mlflow.transformers.load_model` and `mlflow.pyfunc` load again."""

import importlib.metadata
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient

# Where MLflow's transformers flavour looks for the weights.
INSIDE = "model"
# A run has one model; whoever delivers a second time finds it by this.
TAG = "facet.run"
NOT_IN_NAMES = str.maketrans(dict.fromkeys("/:.%\"'", "-"))


def send(client: "MlflowClient", run_id: str, entry: dict[str, Any]) -> None:
    """Make what of it is not there yet: the model, its files, its place among the run's outputs, its metrics.

    entry: `path` of the export, `task` of transformers' pipelines, `name`, `points` [[key, value, time, step], ...] that the
    run has already, and `dataset` [name, digest] on which they were measured.
    """
    from mlflow.entities import LoggedModelOutput, Metric

    run = client.get_run(run_id)
    experiment = run.info.experiment_id
    there = client.search_logged_models([experiment], filter_string=f"tags.`{TAG}` = '{run_id}'")
    model = next(iter(there), None) or client.create_logged_model(
        experiment,
        name=entry["name"].translate(NOT_IN_NAMES),
        source_run_id=run_id,
        tags={TAG: run_id, "task": entry["task"]},
        params=dict(run.data.params),
    )
    if model.status != "READY":
        upload(client, model, Path(entry["path"]), task=entry["task"])
        client.finalize_logged_model(model.model_id, "READY")
    if model.model_id not in outputs(run):
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    about = dict(model_id=model.model_id, dataset_name=entry["dataset"][0], dataset_digest=entry["dataset"][1])
    points = [Metric(key, value, time, step, **about) for key, value, time, step in entry["points"]]
    # A server keeps points of one key, step and value once: the run's own stay as they are.
    for i in range(0, len(points), 500):
        client.log_batch(run_id, metrics=points[i : i + 500])


def outputs(run: Any) -> list[str]:
    return [output.model_id for output in run.outputs.model_outputs] if run.outputs else []


def upload(client: "MlflowClient", model: Any, export: Path, *, task: str) -> None:
    """The weights go from the export straight to the server: MLflow's own way would copy them beside it first.

    That way (`mlflow.transformers.save_model` of a folder) also fails with transformers 5.23, which names the classes of its
    pipelines as strings. The layout is what its loader reads (mlflow/transformers/model_io.py of 3.17).
    """
    words = [p for p in export.iterdir() if p.name.startswith(("tokenizer", "special_tokens", "chat_template"))]
    with tempfile.TemporaryDirectory() as place:
        describe(Path(place), model, export, task=task)
        client.log_model_artifacts(model.model_id, place)
    for path in words:
        client.log_model_artifact(model.model_id, str(path), "components/tokenizer")
    client.log_model_artifacts(model.model_id, str(export), INSIDE)


def describe(place: Path, model: Any, export: Path, *, task: str) -> None:
    """MLmodel, and what has to be installed for it, into `place`."""
    from mlflow import pyfunc
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, Schema
    from transformers import AutoTokenizer, pipelines

    found, known = pipelines.check_task(task)[1]["impl"], AutoTokenizer.from_pretrained(export)
    text = Schema([ColSpec("string")])
    described = Model(artifact_path=model.name, run_id=model.source_run_id, model_id=model.model_id)
    described.signature = ModelSignature(inputs=text, outputs=text)
    described.model_size_bytes = sum(path.stat().st_size for path in export.rglob("*") if path.is_file())
    described.add_flavor(
        "transformers",
        task=task,
        instance_type=found if isinstance(found, str) else found.__name__,
        pipeline_model_type=json.loads((export / "config.json").read_text())["architectures"][0],
        source_model_name=model.name,
        model_binary=INSIDE,
        tokenizer_type=type(known).__name__,
        components=["tokenizer"],
        transformers_version=importlib.metadata.version("transformers"),
        code=None,
    )
    pyfunc.add_to_model(described, loader_module="mlflow.transformers")
    described.save(str(place / "MLmodel"))
    needed = [f"{name}=={importlib.metadata.version(name)}" for name in ("mlflow", "torch", "transformers")]
    (place / "requirements.txt").write_text("\n".join(needed))


def download(client: "MlflowClient", run_id: str) -> Path:
    """The export of a run that logged it as a model; ValueError where it logged none."""
    from mlflow.artifacts import download_artifacts

    for model_id in outputs(client.get_run(run_id)):
        place = client.get_logged_model(model_id).artifact_location
        return Path(download_artifacts(artifact_uri=f"{place}/{INSIDE}", tracking_uri=client.tracking_uri))
    raise ValueError(f"run {run_id} logged no model")


def last_points(entries: Any, *, wanted: tuple[str, ...]) -> list[list[Any]]:
    """The last of every metric whose name begins with one of `wanted`."""
    last: dict[str, list[Any]] = {}
    for _, entry in entries:
        last |= {point[0]: point for point in entry.get("points", ()) if point[0].startswith(wanted)}
    return list(last.values())

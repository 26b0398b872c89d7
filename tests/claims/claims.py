"""A claim made up for tests, and an MLflow store with runs of it."""

import yaml
from mlflow import MlflowClient

from lightning_modules.claims.claim import Claim
from lightning_modules.claims.table import load
from tests.tracking import database

FIELDS = {
    "statement": "A beats B.",
    "paper": "Nobody, 2026",
    "place": "table 1",
    "number": "1 against 2",
    "metric": "test/score",
    "transform": "none",
    "unit": "points",
    "arms": {"a": {"run": ["balance=global"]}, "b": {"run": ["balance=micro"]}},
    "contrast": {"a": 1, "b": -1},
    "pairing": "same seed",
    "rule": "superiority",
    "margin": 0.1,
    "seeds": [11, 12, 13, 14, 15],
    "trials": [{"experiment": "moe/scope", "scale": "small", "data": "real"}],
}


# Values by arm and seed of runs that reproduce it.
STRONG = {
    "a": dict(zip(FIELDS["seeds"], (1.0, 1.1, 1.05, 0.95, 1.0), strict=True)),
    "b": dict.fromkeys(FIELDS["seeds"], 0.5),
}


def write(folder, name="a_beats_b", table=None, **changes):
    """Put the claim into `folder/moe.yaml`; a change to None leaves a field out. table: more of the file."""
    path = folder / "moe.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    content = yaml.safe_load(path.read_text()) if path.is_file() else {"paper": FIELDS["paper"], "claims": {}}
    content |= table or {}
    content["claims"][name] = {k: v for k, v in {**FIELDS, **changes}.items() if v is not None}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def made(folder, **changes) -> Claim:
    return load(write(folder, **changes))["moe/a_beats_b"]


def store(folder, claim, values, *, status="FINISHED"):
    """An MLflow database with a run of the claim's first trial for every value; values: arm -> seed -> metric."""
    client = MlflowClient(database(folder))
    known = client.get_experiment_by_name("moe/scope")
    experiment = known.experiment_id if known else client.create_experiment("moe/scope", str(folder / "mlruns"))
    for arm, by_seed in values.items():
        for seed, value in by_seed.items():
            job = claim.job(claim.trials[0], arm, seed)
            made_by = {"git.commit": "0123456789abcdef", "machine": "2 cores, of a toy"}
            run = client.create_run(experiment, tags={"folder": job.folder, **made_by})
            client.log_metric(run.info.run_id, claim.metric, value)
            client.set_terminated(run.info.run_id, status=status)
    return client

"""What makes another run, asked of all who name or group runs: the folders, the claims, the run's name, the reports."""

import pytest

from lightning_modules.claims.claim import Job
from lightning_modules.runtime import config, identity, naming, preflight
from tests.runtime.cli import PROJECT

PLAIN = ("experiment=moe/scope", "balance=micro")
# Added to PLAIN: whether it is the same run.
COMMANDS = [
    ((), True),
    (("threads=2",), True),
    (("fresh=true", "plan=true"), True),
    (("run_name=mine",), True),
    (("logger=none",), True),
    (("logger=mlflow_server", "logger.tracking_uri=http://127.0.0.1:5001"), True),
    (("++logger.tracking_uri=http://elsewhere:5000",), True),
    (("paths.runs=RUNS", "paths.cache=/elsewhere", "paths.tracking=/elsewhere"), True),
    (("hydra.job.name=x", "hydra/launcher=joblib"), True),
    (("trainer.enable_progress_bar=false", "++trainer.enable_model_summary=true"), True),
    (("callbacks.progress=null",), True),
    (("~callbacks.progress",), True),
    (("trainer.max_steps=7",), False),
    (("trainer=ddp_cpu",), False),
    (("~callbacks.figures",), False),
    (("model=tiny",), False),
    (("+model.device=meta",), False),
    (("data.seed=${seed}",), False),
    (("experiment_name=other",), False),
    (("test=false",), False),
]


@pytest.fixture(scope="module", autouse=True)
def resolvers():
    config.register_resolvers(project=PROJECT)


def folder(*overrides):
    errors, cfg = preflight.examine(list(overrides))
    assert not errors
    name = preflight.folder(cfg).name
    with preflight.as_running(cfg):
        assert cfg.hydra.sweep.subdir == name, "a job of a sweep is called as the run alone"
    return name


@pytest.mark.slow
@pytest.mark.parametrize(("more", "same"), COMMANDS, ids=lambda c: " ".join(c) if isinstance(c, tuple) else "")
def test_what_makes_another_run(tmp_path, more, same):
    more = tuple(o.replace("RUNS", str(tmp_path)) for o in more)
    name = folder(*PLAIN, *more, "seed=3")
    assert (name == "ce8e489d-s3") == same
    # What the claims look for, what the run is called in MLflow, and which runs a report takes together.
    assert name == Job((*PLAIN, *more), 3).folder
    assert (naming.run_name([*PLAIN, *more], 3) == "balance=micro s3") == (same or "experiment_name=other" in more)
    assert len(identity.by_setting([{"overrides": [*PLAIN, *o]} for o in (more, ())])) == (1 if same else 2)


def test_names_are_those_of_the_runs_there_are():
    """A change of these would train everybody's finished runs again."""
    assert folder("seed=1") == "e3b0c442-s1"
    assert folder(*PLAIN) == "ce8e489d-s1"
    assert folder("seed=7", "data.seed=${seed}", "balance=micro") == "b33277ae-s7"

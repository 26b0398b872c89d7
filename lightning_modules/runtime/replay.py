"""`python main.py replay=RUN_ID`: the same run again, from what MLflow keeps of it, and whether its curve is the same."""

import importlib.metadata
import re
import sys
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from omegaconf import DictConfig
from rich.console import Console

from lightning_modules.runtime import foreign, provenance

CURVE = "train/loss"
console = Console(stderr=True)


def replay(run_id: str, *, here: DictConfig) -> int:
    """Run `run_id` again under paths.runs/replay/; the exit code: 0 when the curves are bitwise the same, else 1.

    here: the config of this machine: where runs, cache and the tracking server are.
    Raises ValueError for an unknown run, one whose config calls what it may not or writes elsewhere (`foreign`), and
    one on other data. Another commit or other packages are told and the replay goes on.
    """
    from lightning_modules.common.lock import held
    from lightning_modules.runtime.run import run

    client = MlflowClient(here.logger.tracking_uri)
    original = get_run(client, run_id)
    folder = Path(here.paths.runs) / "replay" / original.info.run_id
    cfg = foreign.config_of(client, original.info.run_id, folder=folder, here=here)
    differences = drift(original.data.tags)
    for line in differences:
        console.print(f"[yellow]differs[/yellow]: {line}")
    check_data(cfg, original.data.tags)
    folder.mkdir(parents=True, exist_ok=True)
    cfg.fresh = True
    cfg.run_name = f"replay of {original.info.run_name}"
    options = {name: value for name, value in original.data.params.items() if "." not in name and name != "seed"}
    tags = {"replay_of": original.info.run_id}
    with held(folder / "lock"):
        result = run(cfg, folder=folder, overrides=[f"replay={run_id}"], tags=tags, options=options)
    return report(client, original.info.run_id, result["run_id"], differences)


def get_run(client: MlflowClient, run_id: str) -> Any:
    from mlflow.exceptions import MlflowException

    if not re.fullmatch(r"[0-9a-f]+", run_id):
        raise ValueError(f"replay={run_id}: expected a run's id, hexadecimal digits as the MLflow UI shows them.")
    try:
        return client.get_run(run_id)
    except MlflowException as error:
        raise ValueError(f"replay={run_id}: the tracking server knows no such run ({error.message}).") from None


def drift(tags: dict[str, str]) -> list[str]:
    """What of commit, checkout and packages is not as it was, one line each."""
    now = provenance.git("rev-parse", "HEAD") or "none"
    found = [f"commit {tags.get('git.commit')} then, {now} now"] if tags.get("git.commit") != now else []
    if provenance.git("status", "--porcelain", "--untracked-files=no"):
        found.append("the checkout has uncommitted changes")
    for name in provenance.PACKAGES:
        then, here = tags.get(f"package.{name}"), importlib.metadata.version(name)
        if then != here:
            found.append(f"{name} {then} then, {here} now")
    return found


def check_data(cfg: DictConfig, tags: dict[str, str]) -> None:
    from hydra.utils import instantiate

    datamodule = instantiate(cfg.data)
    datamodule.prepare_data()
    now = datamodule.fingerprint()
    changed = [
        f"{n}: {tags[f'fingerprint.{n}']} then, {v} now" for n, v in now.items() if tags.get(f"fingerprint.{n}") != v
    ]
    if changed:
        raise ValueError(
            f"the data is not that of the run ({'; '.join(changed)}); a replay on it would be another run."
        )


def curve(client: MlflowClient, run_id: str, metric: str = CURVE) -> dict[int, float]:
    return {m.step: m.value for m in client.get_metric_history(run_id, metric)}


def first_difference(a: dict[int, float], b: dict[int, float]) -> int | None:
    """First step at which two curves have not bitwise the same value, None when there is none."""
    return next((step for step in sorted({*a, *b}) if a.get(step) != b.get(step)), None)


def report(client: MlflowClient, original: str, again: str, differences: list[str]) -> int:
    a, b = curve(client, original), curve(client, again)
    step = first_difference(a, b)
    verdict = (
        "bitwise the same" if step is None and a else f"parts at step {step}: {a.get(step)} then, {b.get(step)} now"
    )
    client.set_tag(again, "replay.verdict", verdict)
    if differences:
        client.set_tag(again, "replay.differs", "; ".join(differences)[:5000])
    print(f"{CURVE} of {len(a)} points: {verdict}.", file=sys.stderr)
    return 0 if step is None and a else 1

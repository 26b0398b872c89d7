"""`python main.py replay=RUN_ID`: the same run or study again, from what MLflow keeps of it, and whether all is the same.

What the run was made of is made again too: a replay has a cache of its own below its folder, which shares with the common
one what was downloaded and nothing that was trained. Taken from the common one, prompts would prove themselves.
"""

import importlib.metadata
import shutil
import sys
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from omegaconf import DictConfig

from lightning_modules.common import credentials
from lightning_modules.common.lock import held
from lightning_modules.common.say import say
from lightning_modules.runtime import errors, foreign, provenance, records
from lightning_modules.runtime.compare import differences, record

# Folders of the cache that hold nothing trained.
DOWNLOADED = ("downloads", "tokens", "unpacked", "svco/emoji")


def replay(run_id: str, *, here: DictConfig) -> int:
    """Run `run_id` again under paths.runs/replay/; the exit code: 0 when all metrics and tables are bitwise the same.

    here: the config of this machine: where runs, cache and the tracking server are.
    Raises RefusedError for an unknown run and one whose config calls what it may not or writes elsewhere (`foreign`), and
    ValueError for one on other data. Another commit or other packages are told and the replay goes on.
    """
    from lightning_modules.runtime.run import run

    client = credentials.client(here.logger.tracking_uri)
    with errors.nothing_made_yet():
        original = get_run(client, run_id)
        folder, common = Path(here.paths.runs) / "replay" / original.info.run_id, Path(here.paths.cache)
        if not here.replay_from_cache:
            here = here.copy()
            here.paths.cache = str(folder / "cache")
        cfg = foreign.config_of(client, original.info.run_id, folder=folder, here=here)
    drifted = drift(original.data.tags)
    for line in drifted:
        say(f"differs: {line}")
    cfg.fresh = True
    cfg.run_name = f"replay of {original.info.run_name}"
    options = {name: value for name, value in original.data.params.items() if "." not in name and name != "seed"}
    with held(folder / "lock"):
        if not here.replay_from_cache:
            furnish(Path(here.paths.cache), common, anew=(folder / "result.json").is_file())
        result = run(
            cfg,
            folder=folder,
            overrides=[f"replay={run_id}"],
            tags={"replay_of": original.info.run_id},
            options=options,
            expected=original.data.tags,
        )
    return report(client, original.info.run_id, result["run_id"], drifted)


def furnish(own: Path, common: Path, *, anew: bool) -> None:
    """A replay's `own` cache, with what the `common` one has downloaded.

    anew: an earlier replay came to its end; of one that was killed all is kept, and it goes on.
    """
    if anew:
        shutil.rmtree(own, ignore_errors=True)
    for name in DOWNLOADED:
        (own / name).parent.mkdir(parents=True, exist_ok=True)
        (common / name).mkdir(parents=True, exist_ok=True)
        if not (own / name).is_symlink():
            (own / name).symlink_to((common / name).resolve())


def get_run(client: MlflowClient, run_id: str, *, key: str = "replay") -> Any:
    from mlflow.exceptions import MlflowException

    if wrong := records.wrong_id(key, run_id):
        raise ValueError(wrong)
    try:
        return client.get_run(run_id)
    except MlflowException as error:
        unknown = error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
        told = "knows no such run" if unknown else f"{credentials.masked(str(client.tracking_uri))} is not reached"
        raise ValueError(f"{key}={run_id}: the tracking server {told} ({error.message}).") from None


def drift(tags: dict[str, str]) -> list[str]:
    """What of commit, checkout and packages is not as it was, one line each."""
    now = provenance.head() or "none"
    found = [f"commit {tags.get('git.commit')} then, {now} now"] if tags.get("git.commit") != now else []
    if provenance.git("status", "--porcelain", "--untracked-files=no"):
        found.append("the checkout has uncommitted changes")
    for name in provenance.PACKAGES:
        then, here = tags.get(f"package.{name}"), importlib.metadata.version(name)
        if then != here:
            found.append(f"{name} {then} then, {here} now")
    return found


def report(client: MlflowClient, original: str, again: str, drifted: list[str]) -> int:
    """Print and tag the verdict; the exit code."""
    one, other = record(client, original), record(client, again)
    found = [str(difference) for difference in differences(one, other)] + other_models(client, original, again)
    if not one.curves and not one.tables:
        found = ["the run has no metrics and no tables to compare"]
    verdict = "; ".join(found) or "bitwise the same"
    client.set_tag(again, "replay.verdict", verdict[:5000])
    if drifted:
        client.set_tag(again, "replay.differs", "; ".join(drifted)[:5000])
    print(f"{one.size}: {'not' if found else 'bitwise'} the same.", file=sys.stderr)
    for line in found:
        print(f"  {line}", file=sys.stderr)
    return 1 if found else 0


def other_models(client: MlflowClient, original: str, again: str) -> list[str]:
    """Fingerprints of what was trained to work on, where they are not as they were."""
    then, now = (client.get_run(run_id).data.tags for run_id in (original, again))
    keys = [f"fingerprint.{name}" for name in provenance.TRAINED if f"fingerprint.{name}" in then]
    return [
        f"weights of the {k.partition('.')[2]}: {then[k]} then, {now.get(k)} now" for k in keys if then[k] != now.get(k)
    ]

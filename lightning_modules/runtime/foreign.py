"""What a tracking server keeps of runs. A config may be somebody else's work, so it is checked before it is used.

It is resolved and plain, names what `trust` allows, and writes below the folders of this machine or not at all.
"""

import math
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run
from omegaconf import DictConfig, OmegaConf

from lightning_modules.runtime import schema, trust

PAGE = 1000
# Arguments of what a config may call that say where it writes.
WRITES = ("folder", "dirpath", "cache", "cache_dir", "downloads", "default_root_dir")
# Beginning of a class's name -> {argument of an older version: its name now, None where it went}.
ARGUMENTS: dict[str, dict[str, str | None]] = {
    "lightning_modules.moe.callbacks.expert_frequency_sync.": {"scope": "mode"},
    "lightning_modules.skill_neurons.": {"scope": "rank_within"},
    "lightning_modules.transfer.": {"scope": "rank_within"},
}
# Class of an older version -> the one that does its work now.
CLASSES = {"ComparePairs": "Compare"}
# Argument -> {value of an older version: its word now}.
VALUES = {"rank_within": {"global": "model"}}


def stored(client: MlflowClient, run_id: str) -> dict[str, Any]:
    """config.yaml of a run. ValueError where there is none, or it is not what a run writes there."""
    from mlflow.exceptions import MlflowException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        text = Path(client.download_artifacts(run_id, "config.yaml")).read_text()
    except (MlflowException, OSError) as error:
        raise ValueError(f"run {run_id} has no config.yaml among its artifacts, so it cannot be replayed.") from error
    try:
        plain: Any = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    except (YAMLError, OmegaConfBaseException, ValueError) as error:
        raise ValueError(f"config.yaml of run {run_id} is no config: {' '.join(str(error).split())[:300]}") from None
    if not isinstance(plain, dict) or not isinstance(plain.get("paths"), dict):
        raise ValueError(f"config.yaml of run {run_id} is no config of a run: it has no `paths`.")
    for path, _, value in leaves(plain):
        # Of the environment or the files of this machine, such as ${oc.env:TOKEN}, or an object that YAML can make.
        if (isinstance(value, str) and "${" in value) or not isinstance(value, str | int | float | None):
            raise ValueError(f"config.yaml of run {run_id}: {path} is {value!r}; expected a plain value.")
    return plain


def all_runs(client: MlflowClient, experiments: Sequence[str], which: str) -> Iterator[Run]:
    """Every run of some experiments, by their ids, for which MLflow's filter `which` holds; the oldest first."""
    token = None
    while experiments:
        order = ["attributes.start_time ASC"]
        page = client.search_runs(list(experiments), which, max_results=PAGE, order_by=order, page_token=token)
        yield from page
        if not (token := page.token):
            return


def metrics_of(run: Run) -> dict[str, float]:
    """A run's last point of every metric. A database gives infinity back as its largest number, and here it is one again."""
    most = sys.float_info.max
    return {name: math.copysign(math.inf, v) if abs(v) >= most else v for name, v in run.data.metrics.items()}


def config_of(client: MlflowClient, run_id: str, *, folder: Path, here: DictConfig) -> DictConfig:
    """The config of a run for this machine: it runs in `folder`, and cache and tracking server are those of `here`.

    Raises ValueError naming every key by which it would call, write or reach what it may not, and every argument that
    no longer exists.
    """
    plain = moved(stored(client, run_id))
    if isinstance(plain.get("balance"), dict):
        plain["balance"].pop("scope", None)  # nothing read it
    places = {"run": str(folder), **{name: str(here.paths[name]) for name in ("cache", "runs", "tracking")}}
    then = {name: path for name, path in plain["paths"].items() if name in ("run", "cache") and isinstance(path, str)}
    plain = with_places(plain, {then[name]: places[name] for name in then}, uri=here.logger.tracking_uri)
    plain |= {"paths": places, "logger": OmegaConf.to_container(here.logger, resolve=True)}
    found = trust.refusals(plain) + list(escapes(plain, below=(places["run"], places["cache"])))
    if found:
        raise ValueError(" ".join(found))
    cfg = OmegaConf.create(plain)
    if found := schema.problems(cfg):
        raise ValueError(" ".join(found))
    return cfg


def leaves(node: Any, path: str = "", key: str = "") -> Iterator[tuple[str, str, Any]]:
    """(dotted path, last key, value) of all that is no container, in lists too."""
    if isinstance(node, dict):
        for name, value in node.items():
            yield from leaves(value, f"{path}.{name}" if path else str(name), str(name))
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from leaves(value, f"{path}[{number}]", key)
    else:
        yield path, key, node


def moved(node: Any) -> Any:
    """Classes by the places where they stand now: one of ours that is known by its last name alone; arguments likewise."""
    if isinstance(node, list):
        return [moved(value) for value in node]
    if not isinstance(node, dict):
        return node
    target = node.get("_target_")
    if isinstance(target, str) and target.startswith(trust.OURS) and target not in trust.names():
        last = target.rpartition(".")[2]
        last = CLASSES.get(last, last)
        now = [n for n in trust.names() if n.startswith(trust.OURS) and n.rpartition(".")[2] == last]
        target = now[0] if len(now) == 1 else target
        node = {**node, "_target_": target}
    names = next((found for start, found in ARGUMENTS.items() if str(target).startswith(start)), {})
    renamed = {name: moved(value) for key, value in node.items() if (name := names.get(key, key)) is not None}
    return {
        name: VALUES.get(name, {}).get(value, value) if isinstance(value, str) else value
        for name, value in renamed.items()
    }


def with_places(node: Any, places: dict[str, str], *, uri: str, key: str = "") -> Any:
    """Paths at or below a key of `places` moved to its value; a `tracking_uri` anywhere is `uri`."""
    if isinstance(node, dict):
        return {name: with_places(value, places, uri=uri, key=name) for name, value in node.items()}
    if isinstance(node, list):
        return [with_places(value, places, uri=uri, key=key) for value in node]
    if key == "tracking_uri" and node is not None:
        return uri
    for then, now in places.items():
        if isinstance(node, str) and (node == then or node.startswith(f"{then}/")):
            return now + node[len(then) :]
    return node


def escapes(plain: dict[str, Any], *, below: tuple[str, ...]) -> Iterator[str]:
    """Keys that say where something is written and name a place that is not below one of `below`."""
    for path, key, value in leaves(plain):
        if value is None or path.startswith("paths."):
            continue
        if key in WRITES and not any(Path(os.path.abspath(str(value))).is_relative_to(place) for place in below):
            yield f"{path} is {value!r}; a replay writes below {' and '.join(below)} only."
        if key == "filename" and (os.path.isabs(str(value)) or ".." in str(value).split("/")):
            yield f"{path} is {value!r}; expected the name of a file."

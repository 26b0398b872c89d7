"""What a run folder was begun with. The same command with a config file edited since, or other data, is another run.

Kept as `begun.json` beside the result: the config as it was composed, without what changes nothing of what is computed,
and of each file that it names the content.
"""

import glob
import hashlib
import itertools
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lightning_modules.common.digests import digest
from lightning_modules.common.files import private, write_atomically
from lightning_modules.runtime import identity, launched, records

FEW = 3
# In a value: what the machine decides, as the precision of its GPU.
OF_THE_MACHINE = "${gpu_precision:"
# Of a file so many bytes at its begin, middle and end; of a folder so many files by name and size, and into so many of them.
SAMPLE, LISTED, LOOKED_AT = 1 << 16, 20_000, 200
# Behind a key: where in a folder its files lie, which are domains of text. Records of before have no such entry.
PLACES = ", by folders"
# Keys whose values may be files and folders that are named by a word alone, as `data.path=text`; other words are words.
BARE = re.compile(
    r"(^|\.)(path|file|images|archive|pretrained|dataset|tokenizer|(source_)?backbone\.name|data_files|data_dir)(\.|$)"
)


def keep(cfg: DictConfig, folder: Path) -> None:
    """Write it, unless the run was begun before."""
    if records.begun(folder) is None:
        config = dict(_leaves(cfg))
        found = {"config": config, "files": dict(_contents(config, folder)), "job": launched.job()}
        found |= {"machine": _of_the_machine(cfg, config)}
        write_atomically(folder / records.BEGUN, json.dumps(found, indent=1), opener=private)


def check(cfg: DictConfig, folder: Path, *, here: bool = True) -> None:
    """ValueError that names what differs from what the run in `folder` was begun with.

    here: whether it is run on this machine, and not submitted to another one.

    A folder without the record, of a run of before there was one, is taken as it is.
    """
    before = records.begun(folder)
    if before is None:
        return
    now = dict(_leaves(cfg))
    changed = list(_changes(before["config"], now))
    contents = dict(_contents(now, folder))
    changed += [
        f"{key}: the content of {now[key.removesuffix(PLACES)]} is another"
        for key, content in before["files"].items()
        if key in contents and contents[key] != content
    ]
    decided = _of_the_machine(cfg, now) if here else {}
    changed += [
        f"{key} was {value} on the machine that began it, is {decided[key]} on this one"
        for key, value in before.get("machine", {}).items()
        if key in decided and decided[key] != value
    ]
    if changed:
        more = f" and {len(changed) - FEW} more" if len(changed) > FEW else ""
        raise ValueError(
            f"{folder} was begun with something else: {'; '.join(changed[:FEW])}{more}. fresh=true begins anew; without "
            f"{folder / records.BEGUN} it stands, or goes on with what changed as its tag param_drift."
        )


def mixed(settings: Mapping[str, Sequence[Path]]) -> list[str]:
    """A sentence for each setting whose runs, which should differ in their seed alone, were begun with unlike configs.

    settings: name -> folders of its runs. Those without the record count as alike.
    """
    found = []
    for name, folders in settings.items():
        kept = {folder.name: record for folder in folders if (record := records.begun(folder))}
        # What not every record holds, as those of before do not, sets no runs apart where it is lacking.
        more = [
            {f"the content of {key}": digest for key, digest in record["files"].items()}
            | {f"the machine's {key}": value for key, value in record.get("machine", {}).items()}
            for record in kept.values()
        ]
        told = [record["config"] | also for record, also in zip(kept.values(), more, strict=True)]
        beside = {key for also in more for key in also}
        keys = [key for key in dict.fromkeys(key for one in told for key in one) if key != "seed"]
        unlike = [
            key
            for key in keys
            if len({json.dumps(one.get(key)) for one in told if key in one or key not in beside}) > 1
        ]
        if unlike:
            shown = by_value(unlike, dict(zip(kept, told, strict=True)))
            found.append(f"runs of {name} are not of one config: {shown}. fresh=true makes them anew.")
    return found


def by_value(keys: Sequence[str], runs: Mapping[str, Mapping[str, Any]]) -> str:
    """Of the first few `keys` which value each of `runs` has, by its name."""
    shown = [f"{key} ({_who({run: values.get(key) for run, values in runs.items()})})" for key in keys[:FEW]]
    return "; ".join(shown) + (f" and {len(keys) - FEW} keys more" if len(keys) > FEW else "")


def _who(values: Mapping[str, Any]) -> str:
    """`0.1 in 8 runs, 0.2 in a-s9`, by the value that each run has."""
    runs = defaultdict(list)
    for run, value in values.items():
        runs[str(value)].append(run)
    return ", ".join(
        f"{value} in {names[0] if len(names) == 1 else f'{len(names)} runs'}" for value, names in runs.items()
    )


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for key in dict.fromkeys((*before, *now)):
        if key not in now:
            yield f"{key} is gone"
        elif key not in before:
            yield f"{key} is new"
        elif json.dumps(before[key]) != json.dumps(now[key]):  # nan is nan
            yield f"{key} was {before[key]}, is {now[key]}"


def _leaves(cfg: DictConfig) -> Iterator[tuple[str, Any]]:
    """(key with dots, value as it is written) of all that a run computes with, its seed too."""

    def walk(value: Any, key: str) -> Iterator[tuple[str, Any]]:
        if key and key != "seed" and not identity.identifies(key):
            return
        if isinstance(value, (dict, list)) and value:
            for name, below in value.items() if isinstance(value, dict) else enumerate(value):
                yield from walk(below, f"{key}.{name}" if key else str(name))
        else:
            yield key, value

    return walk(OmegaConf.to_container(cfg, resolve=False), "")


def _of_the_machine(cfg: DictConfig, config: Mapping[str, Any]) -> dict[str, str]:
    """What a GPU that is here made of each value of the `config` of `cfg` that another one makes something else of."""
    told = [key for key, value in config.items() if isinstance(value, str) and OF_THE_MACHINE in value]
    if not told:
        return {}
    # It takes seconds to import.
    import torch

    if not torch.cuda.is_available():
        return {}
    return {key: str(OmegaConf.select(cfg, key)) for key in told}


def _contents(config: Mapping[str, Any], run: Path) -> Iterator[tuple[str, str]]:
    """(key, digest) of each value that is a file or a folder of the user's. The project's own are known by their commit.

    run: the run's folder. A folder in which it lies changes with every run.
    """
    for key, value in config.items():
        if not isinstance(value, str) or not value or "${" in value:
            continue
        if not ("/" in value or "." in value or BARE.search(key)):
            continue
        path = Path(value).expanduser()
        if path.is_dir():
            below = _below(path) if path.resolve() not in run.resolve().parents else []
        elif path.is_file():  # its name may look like a pattern
            below = [path]
        else:
            below = sorted(file for file in map(Path, glob.iglob(str(path), recursive=True)) if file.is_file())
        if below:
            yield key, _sampled(below)
        if below and path.is_dir():
            yield key + PLACES, digest([str(file.relative_to(path)) for file in below])


def _below(folder: Path) -> list[Path]:
    """The first `LISTED` files of a folder, those of hidden folders left out, in the order of their names.

    Links to folders are followed, as a domain of text may be one; into no folder twice, as they may lead in a circle.
    """

    def each() -> Iterator[Path]:
        been = set()
        for place, folders, files in os.walk(folder, followlinks=True):
            real = os.path.realpath(place)
            folders[:] = [] if real in been else sorted(name for name in folders if not name.startswith("."))
            if real in been:
                continue
            been.add(real)
            yield from (file for file in (Path(place, name) for name in sorted(files)) if file.is_file())

    return list(itertools.islice(each(), LISTED))


def _sampled(files: list[Path]) -> str:
    """By names and sizes, and what stands at three places of each: a file of gigabytes is not read for it."""
    found = hashlib.sha256()
    for number, path in enumerate(files):
        size = path.stat().st_size
        found.update(f"{path.name} {size}\n".encode())
        if number < LOOKED_AT and os.access(path, os.R_OK):
            with path.open("rb") as file:
                for place in (0, size // 2, max(0, size - SAMPLE)):
                    file.seek(place)
                    found.update(file.read(SAMPLE))
    return found.hexdigest()[:16]

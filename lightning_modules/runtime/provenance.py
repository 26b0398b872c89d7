"""Where a result came from: commit and diff, packages, data fingerprints, size of the model."""

import importlib.metadata
import json
import os
import platform
import re
import subprocess
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

# A sweep asks for the commit, and so does each of joblib's workers: none of them trains.
if TYPE_CHECKING:
    import pytorch_lightning as pl

    from lightning_modules.runtime.tracking import Tracker

PACKAGES = ("torch", "pytorch-lightning", "transformers", "hydra-core", "omegaconf", "mlflow", "tokenizers", "numpy")

# Parts of a study's fingerprint that are results of training, not data.
TRAINED = ("backbone", "base")
# In the place of the machine of a run that was made before runs kept it.
NOT_KEPT = "machine not kept"


def log(tracker: "Tracker", *, data: Any, module: "pl.LightningModule | None" = None) -> None:
    """Tags to filter runs by, the text of the rest, and the data as MLflow's input.

    data: a datamodule or a study: its `fingerprint()` is a dictionary of short hashes, `data` among them.
    ValueError for a replay on other data than those of its run.
    """
    tags = {f"package.{name}": importlib.metadata.version(name) for name in PACKAGES}
    fingerprint = data.fingerprint()
    if tracker.expected is not None:
        refuse_other_data(fingerprint, tracker.expected)
    tags |= {f"fingerprint.{name}": value for name, value in fingerprint.items()}
    tags |= {f"parameters.{name}": str(count) for name, count in (parameters(module) if module else {}).items()}
    tracker.tags({**tags, "git.commit": head() or "none", "python": platform.python_version()})
    tracker.text("provenance/git_diff.patch", git("diff", "HEAD"))
    tracker.text("provenance/packages.txt", "\n".join(installed()))
    source = json.dumps(data.source.description()) if hasattr(data, "source") else "{}"
    name = type(data).__name__.removesuffix("DataModule").lower()
    tracker.inputs(name=name, digest=fingerprint["data"], source_type="facet", source=source[:60_000])


def installed() -> list[str]:
    """NAME==VERSION of every package that can be imported, in order."""
    found = set()
    for package in importlib.metadata.distributions():
        # The library parses whole pages of description to answer, a tenth of a second for all.
        head = (package.read_text("METADATA") or package.read_text("PKG-INFO") or "").partition("\n\n")[0]
        said = dict(re.findall(r"^(Name|Version): *(.+)$", head, re.M))
        if {"Name", "Version"} <= said.keys():
            found.add(f"{said['Name']}=={said['Version']}")
    return sorted(found)


def refuse_other_data(now: Mapping[str, str], then: Mapping[str, str]) -> None:
    told = {name: then.get(f"fingerprint.{name}", "none") for name in now if name not in TRAINED}
    changed = [f"{name}: {value} then, {now[name]} now" for name, value in told.items() if value != now[name]]
    if changed:
        raise ValueError(
            f"the data is not that of the run ({'; '.join(changed)}); a replay on it would be another run."
        )


def parameters(module: "pl.LightningModule") -> dict[str, int]:
    count = getattr(module, "count_parameters", None)
    return count() if count else {"total": sum(p.numel() for p in module.parameters())}


def commit() -> str:
    """Short hash of the checkout, `-dirty` when it differs from it; or FACET_COMMIT, of a copy without its history."""
    return os.environ.get("FACET_COMMIT") or git("describe", "--always", "--abbrev=12", "--dirty") or "unknown"


def head() -> str:
    """The checkout's whole hash, whatever differs from it; or FACET_COMMIT; '' where neither is known."""
    return os.environ.get("FACET_COMMIT") or git("rev-parse", "HEAD")


def machine() -> str:
    """Cores, memory, processor, and the GPUs if this process computed on one; without the machine's name."""
    import torch

    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    # To ask for their names would start CUDA in a process that has no need of it.
    seen = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    gpus = Counter(torch.cuda.get_device_name(n) for n in seen)
    cpu = f"{psutil.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB, {name}"
    return ", ".join([cpu, *(f"{count} x {gpu}" for gpu, count in gpus.items())])


def git(*args: str) -> str:
    """Output of git in this checkout, or '' where there is no git or no checkout."""
    try:
        done = subprocess.run(
            ["git", *args], cwd=Path(__file__).parent, capture_output=True, text=True, errors="replace", timeout=30
        )
    except (OSError, subprocess.SubprocessError):  # a file system may be too slow for it
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""

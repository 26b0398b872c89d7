"""Composing a config as Hydra will, without running anything."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict, read_write

from lightning_modules.runtime.trust import CONF


def composing() -> Any:
    """A context in which `composed` works."""
    GlobalHydra.instance().clear()
    return initialize_config_dir(str(CONF), version_base="1.3", job_name="main")


def composed(overrides: list[str], errors: list[str]) -> DictConfig | None:
    """The config with hydra's node; None, and a line more in `errors`, where Hydra raises."""
    try:
        return compose("config", overrides=overrides, return_hydra_config=True)
    except Exception as error:
        cause = f": {error.__cause__}" if error.__cause__ and str(error.__cause__) not in str(error) else ""
        if "Could not override" in str(error):
            cause += " That option is for systems which have this group."
        errors.append(" ".join(f"{error}{cause}".split("\n    full_key")[0].split("\nfull_key")[0].split()))
        return None


def options(group: str) -> list[str]:
    return GlobalHydra.instance().config_loader().get_group_options(group)


@contextlib.contextmanager
def as_running(cfg: DictConfig) -> Iterator[None]:
    """Lets `${hydra:...}` resolve as it will in the run, whose folder is not known yet."""
    with read_write(cfg.hydra), open_dict(cfg):
        cfg.hydra.runtime.output_dir = str(Path(str(cfg.paths.runs)) / "preflight")
    HydraConfig.instance().set_config(cfg)
    try:
        yield
    finally:
        HydraConfig.instance().cfg = None

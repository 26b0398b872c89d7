"""MLflow as the record of a run: opened on rank 0, told how the run ended."""

import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import MLFlowLogger

PARAM_LIMIT = 250


def open_logger(cfg: DictConfig, *, folder: Path, resolved: dict[str, Any]) -> MLFlowLogger | None:
    """The logger of `conf/logger`, or None for `logger=none`. Nothing is created before the first rank-0 access."""
    if cfg.logger is None or not cfg.logger.get("tracking_uri"):
        return None
    path = sqlite_path(cfg.logger.tracking_uri)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
    logger = MLFlowLogger(
        experiment_name=cfg.experiment_name,
        run_name=cfg.run_name,
        tracking_uri=cfg.logger.tracking_uri,
        artifact_location=cfg.logger.artifact_location,
        tags={"system": cfg.system_name, "folder": folder.name},
    )
    logger.log_hyperparams(short_params(resolved))
    return logger


def sqlite_path(uri: str) -> Path | None:
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def short_params(resolved: dict[str, Any]) -> dict[str, str]:
    """What a person compares runs by: every leaf of the groups that define the science, as short strings."""
    params: dict[str, str] = {"seed": str(resolved["seed"])}
    for group in ("model", "balance", "data", "optimizer", "trainer"):
        flat = OmegaConf.create({group: resolved.get(group) or {}})
        params |= {key: str(value)[:PARAM_LIMIT] for key, value in _leaves(OmegaConf.to_container(flat))}
    return {key: value for key, value in params.items() if "_target_" not in key}


def _leaves(tree: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if not isinstance(tree, dict):
        return [(prefix, tree)]
    return [leaf for key, value in tree.items() for leaf in _leaves(value, f"{prefix}.{key}" if prefix else str(key))]


def log_provenance(logger: MLFlowLogger | None, facts: dict[str, Any]) -> None:
    """Tags for what one filters by (commit, fingerprints), an artifact for the rest."""
    if logger is None or logger.run_id is None:
        return
    client, run_id = logger.experiment, logger.run_id
    for name, value in facts["tags"].items():
        client.set_tag(run_id, name, value)
    for name, text in facts["texts"].items():
        client.log_text(run_id, text, f"provenance/{name}")


def finish(logger: MLFlowLogger | None, *, folder: Path) -> None:
    """Artifacts of a run that ended well: its figures, config and result."""
    if logger is None or logger.run_id is None:
        return
    client, run_id = logger.experiment, logger.run_id
    for name in ("figures", ".hydra"):
        if (folder / name).is_dir():
            client.log_artifacts(run_id, str(folder / name), artifact_path=name.lstrip("."))
    client.log_artifact(run_id, str(folder / "result.json"))
    client.set_tag(run_id, "steps", str(json.loads((folder / "result.json").read_text())["steps"]))
    logger.finalize("success")


def fail(logger: MLFlowLogger | None, *, reason: str) -> None:
    """Mark the run FAILED and say why."""
    if logger is None or logger.run_id is None:
        return
    logger.experiment.set_tag(logger.run_id, "failure_reason", reason[:5000])
    logger.finalize("failed")

"""One run from a composed config to result.json, whose presence means "done"."""

import json
import os
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from rich.console import Console

from lightning_modules.runtime import errors, provenance, quiet, tracking

console = Console(stderr=True)


def run(cfg: DictConfig) -> dict[str, Any]:
    """Instantiate, fit, test on the best checkpoint, draw, export; returns what result.json holds.

    A run directory with a result.json is done and is left as it is, unless `fresh=true`.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    if (folder / "result.json").is_file() and not cfg.fresh and rank_zero_only.rank == 0:
        console.print(f"Already done: {folder}/result.json (fresh=true runs it again).")
        return json.loads((folder / "result.json").read_text())
    quiet.hush()
    if cfg.threads:
        torch.set_num_threads(cfg.threads)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    datamodule = instantiate(cfg.data)
    if rank_zero_only.rank == 0:
        (folder / "result.json").unlink(missing_ok=True)
    module = instantiate(cfg.module, model=instantiate(cfg.model))
    logger = tracking.open_logger(cfg, folder=folder, resolved=OmegaConf.to_container(cfg, resolve=True))
    trainer = pl.Trainer(
        logger=logger or False,
        callbacks=[instantiate(cfg.callbacks[name]) for name in _wanted_callbacks(cfg)],
        default_root_dir=folder,
        **instantiate(cfg.trainer),
    )
    try:
        result = _fit_and_test(cfg, trainer=trainer, module=module, datamodule=datamodule, folder=folder)
    except BaseException as error:
        tracking.fail(logger, reason=f"{type(error).__name__}: {errors.reason(error)}")
        raise
    tracking.finish(logger, folder=folder)
    return result


def _fit_and_test(
    cfg: DictConfig,
    *,
    trainer: pl.Trainer,
    module: pl.LightningModule,
    datamodule: pl.LightningDataModule,
    folder: Path,
) -> dict[str, Any]:
    if trainer.is_global_zero:
        datamodule.prepare_data()
        tracking.log_provenance(trainer.logger or None, provenance.collect(datamodule=datamodule, module=module))
    trainer.fit(module, datamodule=datamodule)
    metrics = _scalars(trainer.callback_metrics)
    if cfg.test:
        best = trainer.checkpoint_callback.best_model_path if trainer.checkpoint_callback else ""
        trainer.test(module, datamodule=datamodule, ckpt_path=best or None, verbose=False, weights_only=True)
        metrics |= _scalars(trainer.callback_metrics)
    result = {"metrics": metrics, "steps": trainer.global_step, "commit": provenance.commit()}
    if trainer.is_global_zero:
        if cfg.export and hasattr(module, "export"):
            module.export(folder / "export", tokenizer=datamodule.tokenizer)
        _write_atomically(folder / "result.json", json.dumps(result, indent=2, sort_keys=True))
    return result


def _wanted_callbacks(cfg: DictConfig) -> list[str]:
    """Names of the callbacks that are not null; Lightning refuses a bar when the trainer has none."""
    bar = cfg.trainer.get("enable_progress_bar", True)
    return [name for name, c in cfg.callbacks.items() if c is not None and (bar or name != "progress")]


def _scalars(metrics: dict[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}


def _write_atomically(path: Path, text: str) -> None:
    beside = path.with_suffix(".tmp")
    with open(beside, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)

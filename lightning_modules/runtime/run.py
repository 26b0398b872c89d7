"""One run from a composed config to result.json, whose presence means "done"."""

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from rich.console import Console

from lightning_modules.common.files import write_atomically
from lightning_modules.runtime import console as console_log
from lightning_modules.runtime import errors, provenance, quiet, records, tracking
from lightning_modules.runtime.study import Desk, Study
from lightning_modules.training.checkpoints import CheckedCheckpoints, newest_valid
from lightning_modules.training.resume_point import ResumePoint
from lightning_modules.training.stop import Preempted, deaf, stoppable


def say(text: str) -> None:
    # A console of its own each time: stderr is not the same during a run as at import.
    Console(stderr=True).print(text, soft_wrap=True)


def run(
    cfg: DictConfig,
    *,
    folder: Path,
    overrides: list[str],
    tags: dict[str, str] | None = None,
    options: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Instantiate, fit, test on the best checkpoint, draw, export; returns what result.json holds.

    A run directory with a result.json is done and is left as it is; one without goes on from its last checkpoint;
    `fresh=true` starts anew in either case. options: group -> option that the config was composed of, for MLflow.
    """
    first = rank_zero_only.rank == 0
    shown = tracking.Shown(overrides=overrides, tags=tags or {}, options=options or {})
    with console_log.kept(folder / "console.log") if first else contextlib.nullcontext(), stoppable():
        return _run(cfg, folder=folder, shown=shown, first=first)


def _run(cfg: DictConfig, *, folder: Path, shown: tracking.Shown, first: bool) -> dict[str, Any]:
    if first and not cfg.fresh and (done := records.result(folder)):
        say(f"Already done: {folder}/{records.RESULT} (fresh=true runs it again).")
        return done
    if cfg.fresh and first:
        clear(folder)
    quiet.hush()
    if cfg.threads:
        torch.set_num_threads(cfg.threads)
    resume = newest_valid(folder / "checkpoints", say=say)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    work = instantiate(cfg.study) if cfg.study else (instantiate(cfg.data), instantiate(cfg.module))
    tracker = tracking.open_tracker(cfg, folder=folder, shown=shown)
    try:
        if cfg.study:
            result = _study(work, folder=folder, tracker=tracker)
        else:
            trainer = pl.Trainer(
                logger=tracker or False,
                callbacks=[instantiate(cfg.callbacks[name]) for name in _wanted_callbacks(cfg)],
                plugins=[CheckedCheckpoints()],
                default_root_dir=folder,
                **instantiate(cfg.trainer),
            )
            if resume and first:
                say(f"Going on from {resume}.")
            datamodule, module = work
            result = _fit_and_test(cfg, trainer, module, datamodule, folder=folder, tracker=tracker, resume=resume)
        if first:
            _finish(result, folder=folder, tracker=tracker)
    except BaseException as error:
        deaf()
        reason = f"{type(error).__name__}: {errors.reason(error)}"
        if first:
            (folder / "failure.txt").write_text(reason)
        if tracker:
            stopped = isinstance(error, (Preempted, KeyboardInterrupt, SystemExit))
            tracker.end("KILLED" if stopped else "FAILED", reason=reason)
        raise
    (folder / "failure.txt").unlink(missing_ok=True)
    if tracker:
        tracker.end("FINISHED")
    return result


def _fit_and_test(
    cfg: DictConfig,
    trainer: pl.Trainer,
    module: pl.LightningModule,
    datamodule: pl.LightningDataModule,
    *,
    folder: Path,
    tracker: tracking.Tracker | None,
    resume: Path | None,
) -> dict[str, Any]:
    if trainer.is_global_zero:
        datamodule.prepare_data()
    if tracker:
        provenance.log(tracker, data=datamodule, module=module)
    trainer.fit(module, datamodule=datamodule, ckpt_path=resume, weights_only=True)
    point = next((c for c in trainer.callbacks if isinstance(c, ResumePoint)), None)
    # A run resumed at its very end has no training metrics of its own.
    metrics = {**(point.metrics if point else {}), **_scalars(trainer.callback_metrics)}
    if cfg.test:
        best = trainer.checkpoint_callback.best_model_path if trainer.checkpoint_callback else ""
        trainer.test(module, datamodule=datamodule, ckpt_path=best or None, verbose=False, weights_only=True)
        metrics |= _scalars(trainer.callback_metrics)
    result = {"metrics": metrics, "steps": trainer.global_step, "commit": provenance.commit()}
    if trainer.is_global_zero and cfg.export and hasattr(module, "export"):
        module.export(folder / "export", datamodule=datamodule)
    return result


def _study(study: Study, *, folder: Path, tracker: tracking.Tracker | None) -> dict[str, Any]:
    desk = Desk(folder=folder, tracker=tracker)
    study.prepare()
    if tracker:
        provenance.log(tracker, data=study)
    metrics = study.run(desk)
    desk.metrics(metrics)
    return {"metrics": metrics, "commit": provenance.commit()}


def _finish(result: dict[str, Any], *, folder: Path, tracker: tracking.Tracker | None) -> None:
    """Write result.json, last but for what MLflow keeps of the folder."""
    if tracker:
        result["run_id"] = tracker.run_id
    write_atomically(folder / records.RESULT, json.dumps(result, indent=2, sort_keys=True))
    if tracker:
        for name in ("figures", "tables", "export"):
            if (folder / name).is_dir():
                tracker.artifacts(folder / name, name)
        tracker.artifacts(folder / ".hydra", "hydra")
        tracker.artifacts(folder / "result.json")
        tracker.artifacts(folder / "console.log")


def clear(folder: Path) -> None:
    """Forget an earlier run of this directory; its record in MLflow stays."""
    (folder / "result.json").unlink(missing_ok=True)
    for name in ("run.json", "tracking.jsonl", "tracking.done", "failure.txt"):
        (folder / name).unlink(missing_ok=True)
    for name in ("checkpoints", "figures", "tables", "export"):
        shutil.rmtree(folder / name, ignore_errors=True)


def _wanted_callbacks(cfg: DictConfig) -> list[str]:
    """Names of the callbacks that are not null; Lightning refuses a bar when the trainer has none."""
    bar = cfg.trainer.get("enable_progress_bar", True)
    return [name for name, c in cfg.callbacks.items() if c is not None and (bar or name != "progress")]


def _scalars(metrics: dict[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}

"""One run from a composed config to result.json, whose presence means "done"."""

import contextlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from pytorch_lightning.utilities.seed import isolate_rng

from lightning_modules.common import credentials, making
from lightning_modules.common.files import write_atomically
from lightning_modules.common.say import say
from lightning_modules.look.page import LOOK
from lightning_modules.runtime import (
    at_once,
    begun,
    errors,
    hub,
    memory,
    naming,
    pace,
    provenance,
    quiet,
    ranks,
    records,
    sync,
    tracking,
)
from lightning_modules.runtime import console as console_log
from lightning_modules.runtime.study import Desk, Study, needs
from lightning_modules.runtime.teller import Teller
from lightning_modules.training.checkpoints import CheckedCheckpoints, newest_valid
from lightning_modules.training.inner import on_machine_of
from lightning_modules.training.resume_point import ResumePoint
from lightning_modules.training.sharded import gather
from lightning_modules.training.stop import Preempted, deaf, stoppable


def run(
    cfg: DictConfig,
    *,
    folder: Path,
    overrides: list[str],
    tags: dict[str, str] | None = None,
    options: dict[str, str] | None = None,
    expected: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Instantiate, fit, test on the best checkpoint, draw, export; returns what result.json holds.

    A run directory with a result.json is done and is left as it is; one without goes on from its last checkpoint;
    `fresh=true` starts anew in either case. options: group -> option that the config was composed of, for MLflow.
    expected: tags of the run that this one replays.
    """
    first = rank_zero_only.rank == 0
    commit = provenance.head() if first else ""
    shown = tracking.Shown(overrides=overrides, tags=tags or {}, options=options or {}, commit=commit)
    with console_log.kept(folder / "console.log") if first else contextlib.nullcontext(), stoppable():
        return _run(cfg, folder=folder, shown=shown, first=first, expected=expected)


def _run(
    cfg: DictConfig, *, folder: Path, shown: tracking.Shown, first: bool, expected: Mapping[str, str] | None
) -> dict[str, Any]:
    if not cfg.fresh and (done := records.result(folder)):
        if first:
            say(f"Already done: {folder}/{records.RESULT} (fresh=true runs it again).")
            sync.catch_up(folder)
        return done
    # Of the code that is imported: a run goes on for hours, and the checkout may be another by its end.
    commit = provenance.commit() if first else ""
    if first:
        if cfg.fresh:
            clear(folder)
        begun.keep(cfg, folder)
    quiet.hush()
    hub.ask_its_cache_where_it_is_away(cfg)
    if cfg.threads:
        torch.set_num_threads(cfg.threads)
    # The first clears the folder, and another process may look before it has.
    resume = None if cfg.fresh else newest_valid(folder / "checkpoints", say=say)
    # Before anything is built: a model may have to be pretrained first, and that is seen in MLflow too.
    tracker = tracking.open_tracker(cfg, folder=folder, shown=shown, expected=expected)
    teller = Teller(tracker, folder=folder)
    try:
        watched = making.watched_by(teller) if first else contextlib.nullcontext()
        with watched, on_machine_of(cfg.trainer), memory.out_of_memory_told(cfg):
            result = _work(cfg, folder=folder, tracker=tracker, resume=resume)
            result |= {"commit": commit, "machine": provenance.machine()}
            teller.summary()
        if first:
            _finish(result, folder=folder, tracker=tracker, as_model=cfg.logger is not None and cfg.logger.get("model"))
    except BaseException as error:
        deaf()
        reason = credentials.masked(f"{type(error).__name__}: {errors.reason(error)}")
        if first:
            (folder / "failure.txt").write_text(reason)
        elif isinstance(error, Exception):
            ranks.said_by(folder, rank_zero_only.rank).write_text(reason)
        if tracker:
            stopped = isinstance(error, (Preempted, KeyboardInterrupt, SystemExit))
            tracker.end("KILLED" if stopped else "FAILED", reason=reason)
        raise
    if first:
        for told in folder.glob("failure*.txt"):
            told.unlink(missing_ok=True)
    if tracker:
        tracker.tags({"mlflow.note.content": naming.description(shown.overrides, _wanted(cfg, result))})
        tracker.end("FINISHED")
    if first:
        _close(cfg, result, folder=folder, replay_of=shown.tags.get("replay_of"))
    return result


def _close(cfg: DictConfig, result: dict[str, Any], *, folder: Path, replay_of: str | None) -> None:
    """Three lines: the numbers that matter, where the run lies, what to do next."""
    wanted = _wanted(cfg, result)
    say("  ".join(f"{name} {value:.4g}" for name, value in wanted.items()) or "No metric that this system shows.")
    run_id = result.get("run_id")
    say(f"In {folder}" + (f", run {run_id}" if run_id else ""))
    if replay_of:
        say(f"Next: make diff A={replay_of} B={run_id} lists what sets it apart from the run it replays.")
    elif run_id:
        say(
            f"Next: make ui, experiment {cfg.experiment_name}; or make replay RUN={run_id}: is it bitwise the same again?"
        )
    else:
        say("Next: logger=mlflow fresh=true runs it again and keeps it where runs are compared.")


def _wanted(cfg: DictConfig, result: dict[str, Any]) -> dict[str, float]:
    """The numbers that matter: the objective first."""
    metrics = result["metrics"]
    return {n: metrics[n] for n in dict.fromkeys((cfg.objective_metric, *cfg.shown_metrics)) if n in metrics}


def _work(cfg: DictConfig, *, folder: Path, tracker: tracking.Tracker | None, resume: Path | None) -> dict[str, Any]:
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    if cfg.study:
        # A run of before has no `look` in its config.
        look = cfg.get("look") or {}
        desk = Desk(
            folder=folder,
            tracker=tracker,
            page=look.get("page", True),
            text=look.get("text", True),
            cache=Path(cfg.paths.cache),
        )
        return _study(instantiate(cfg.study), desk, cfg=cfg)
    datamodule = instantiate(cfg.data)
    if rank_zero_only.rank == 0:
        # What is wrong with the data is said before a model is pretrained for minutes.
        with isolate_rng():
            datamodule.prepare_data()
    module = instantiate(cfg.module)
    callbacks = [instantiate(cfg.callbacks[name]) for name in _wanted_callbacks(cfg)]
    if rank_zero_only.rank == 0:
        callbacks.append(pace.Pace(planned=pace.planned(cfg), say=say))
    trainer = pl.Trainer(
        logger=tracker or False,
        callbacks=callbacks,
        plugins=[CheckedCheckpoints()],
        default_root_dir=folder,
        **instantiate(cfg.trainer),
    )
    if resume and trainer.is_global_zero:
        say(f"Going on from {resume}.")

    def give_up(reason: str) -> None:
        (folder / "failure.txt").write_text(reason)
        if tracker:
            tracker.end("FAILED", reason=reason)

    with memory.out_of_memory_told(cfg, module), ranks.together(folder, give_up):
        return _fit_and_test(cfg, trainer, module, datamodule, folder=folder, tracker=tracker, resume=resume)


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
        # With callbacks.checkpoint=null the last weights are those that are measured.
        best = getattr(trainer.checkpoint_callback, "best_model_path", "")
        trainer.test(module, datamodule=datamodule, ckpt_path=best or None, verbose=False, weights_only=True)
        metrics |= _scalars(trainer.callback_metrics)
    result: dict[str, Any] = {"metrics": metrics, "steps": trainer.global_step}
    if cfg.export and hasattr(module, "export"):
        gather(module)
        if trainer.is_global_zero:
            module.export(folder / "export", datamodule=datamodule)
        if task := getattr(module, "pipeline", None):
            result["pipeline"] = task
    return result


def _study(study: Study, desk: Desk, *, cfg: DictConfig | None = None) -> dict[str, Any]:
    # A run of before has neither key in its config.
    which, processes = (cfg.get("part"), cfg.get("side_by_side", 1)) if cfg is not None else (None, 1)
    study.prepare()
    things, teller = needs(study), making.watcher()
    if which:
        things = at_once.part(things, which)
    teller.expects(things)
    if desk.tracker:
        provenance.log(desk.tracker, data=study)
    if cfg is not None and isinstance(teller, Teller) and processes > 1:
        at_once.make(cfg, things, teller=teller, threads=torch.get_num_threads())
    if which:
        for thing in things:
            assert thing.ask, thing
            thing.ask()
        return {"metrics": {}}
    metrics = study.run(desk)
    desk.metrics(metrics)
    return {"metrics": metrics}


def _finish(result: dict[str, Any], *, folder: Path, tracker: tracking.Tracker | None, as_model: bool | None) -> None:
    """Write result.json, last but for what MLflow keeps of the folder; the export once, as a model or as files."""
    if tracker:
        result["run_id"] = tracker.run_id
    write_atomically(folder / records.RESULT, json.dumps(result, indent=2, sort_keys=True))
    if tracker:
        # Only now is it known whether a GPU was used.
        tracker.tags({"machine": result["machine"]})
        if as_model := bool(as_model and "pipeline" in result):
            tracker.model(folder / "export", task=result["pipeline"])
        to = {name: name for name in ("figures", "tables", *["export"] * (not as_model))} | {".hydra": "hydra"}
        for name in (*to, LOOK, records.RESULT, "console.log"):
            if (folder / name).exists():
                tracker.artifacts(folder / name, to.get(name))


def clear(folder: Path) -> None:
    """Forget an earlier run of this directory; its record in MLflow stays."""
    told = [path.name for path in folder.glob("failure*.txt")]
    told += [path.name for path in folder.glob("tracking.*")]
    for name in (records.RESULT, records.BEGUN, records.RUN, LOOK, *told):
        (folder / name).unlink(missing_ok=True)
    for name in ("checkpoints", "figures", "tables", "export"):
        shutil.rmtree(folder / name, ignore_errors=True)


def _wanted_callbacks(cfg: DictConfig) -> list[str]:
    """Names of the callbacks that are not null; Lightning refuses a bar when the trainer has none."""
    bar = cfg.trainer.get("enable_progress_bar", True)
    return [name for name, c in cfg.callbacks.items() if c is not None and (bar or name != "progress")]


def _scalars(metrics: dict[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}

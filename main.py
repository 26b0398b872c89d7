"""Facet's only entry point: `python main.py experiment=moe/scope` runs, `-m` sweeps, `plan=true` and `replay=RUN`."""

import os
import signal
import sys


def _stopped_early(number: int, _frame: object) -> None:
    """Ctrl-C while Python imports: nothing is there that could be lost, and an import may catch what is raised in it."""
    os.write(2, f"stopped by {signal.Signals(number).name}; nothing was begun\n".encode())
    os._exit(128 + number)


if __name__ == "__main__":
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, _stopped_early)

import atexit
import contextlib
import gc
from pathlib import Path

from lightning_modules.runtime.load import Load

beside = Load()

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from lightning_modules.runtime import config, lean, naming, openmp

# The interpreter would look through all that was imported for what can be let go, seconds before it ends, several times.
atexit.register(gc.freeze)
# What others took while Hydra was imported.
openmp.settle(beside.others())
lean.prepare()
config.register_resolvers(project=Path(__file__).parent)


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig) -> object:
    # torch and Lightning take seconds to import: `--help`, `--cfg` and shell completion do without them.
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        from lightning_modules.runtime import sweep

        return sweep.job(cfg)
    with lean.uncollected():
        from lightning_modules.runtime import errors, identity
        from lightning_modules.runtime.run import run

    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    try:
        result = run(
            cfg,
            folder=folder,
            overrides=list(hydra_config.overrides.task),
            options=identity.options(hydra_config.runtime.choices),
        )
    except Exception as error:
        errors.leave(error, folder=folder)
    return result["metrics"].get(cfg.objective_metric)


def start() -> int:
    """Preflight, then a plan, a replay, a run or a sweep; the exit code (docs/runs.md has a table of them)."""
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        found = ".".join(map(str, sys.version_info[:2]))
        print(
            f"error: this is Python {found}; expected 3.11, 3.12 or 3.13 (Hydra 1.3 breaks on 3.14).", file=sys.stderr
        )
        return 2
    if "--version" in sys.argv[1:]:
        print(f"facet {naming.version()}")
        return 0
    from lightning_modules.training.stop import Preempted, stoppable

    try:
        with stoppable():
            return _start()
    except Preempted as stop:
        print(stop, file=sys.stderr)
        return stop.code


def _start() -> int:
    from lightning_modules.common.lock import HELD, HeldError
    from lightning_modules.runtime import errors, preflight

    runs = None
    try:
        with lean.uncollected():
            arguments, cfg = preflight.take(config.spelled_out(sys.argv[1:]))
        runs = Path(cfg.paths.runs) if cfg is not None else None
        # Hydra reads its command line there.
        sys.argv[1:] = arguments
        with errors.raised():
            return _do(arguments, cfg)
    except HeldError as other:
        print(f"error: {other}", file=sys.stderr)
        return HELD
    except Exception as error:
        errors.leave(error, folder=runs)
        raise


def _do(arguments: list[str], cfg: DictConfig | None) -> int:
    from lightning_modules.common import rank
    from lightning_modules.common.lock import held
    from lightning_modules.common.say import say
    from lightning_modules.runtime import begun, devices, launched, preflight, records, sync

    if cfg is None:
        main()
        return 0
    if cfg.plan:
        from lightning_modules.runtime import plan

        plan.show(plan.plans(preflight.every_job(arguments)))
        return 0
    if cfg.look.runs:
        from lightning_modules.runtime.look import look

        return look(cfg)
    if cfg.replay:
        say(f"Replay of {cfg.replay}. First Lightning and MLflow are loaded, which takes some seconds.")
        from lightning_modules.runtime.replay import replay

        return replay(cfg.replay, here=cfg)
    if preflight.read(arguments).multirun:
        from lightning_modules.runtime import sweep

        return sweep.run(cfg, main, arguments)
    # Before Hydra writes the run's folder; of a run's ranks the first holds it for all.
    place = preflight.folder(cfg)
    first, alone = rank.told() == 0, devices.processes(cfg) == 1 or cfg.study
    with (
        contextlib.nullcontext() if alone else launched.followed(place),
        held(place / "lock") if first else contextlib.nullcontext(),
    ):
        if cfg.fresh and launched.began(place):
            cfg.fresh, sys.argv[1:] = False, launched.going_on(arguments)
        if not cfg.fresh:
            try:
                begun.check(cfg, place)
            except ValueError as error:
                preflight.refuse([str(error)], overrides=arguments)
            # Here as well as in a run, which takes seconds of imports before it could say so.
            if records.result(place):
                if first:
                    say(f"Already done: {place}/{records.RESULT} (fresh=true runs it again).")
                    sync.catch_up(place)
                return 0
        if first and "FACET_SWEEP" not in os.environ and not sys.stderr.isatty():
            say(f"Run in {place}. First Lightning is loaded, which takes some seconds.")
        main()
    return 0


if __name__ == "__main__":
    sys.exit(start())

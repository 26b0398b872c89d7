"""Facet's only entry point: `python main.py experiment=moe/scope` runs, `-m` sweeps."""

import signal
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from lightning_modules.runtime import config

config.register_resolvers(project=Path(__file__).parent)


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig) -> float | None:
    # torch and Lightning take seconds to import: `--help`, `--cfg` and shell completion do without them.
    from lightning_modules.runtime import errors, sweep

    if HydraConfig.get().mode == RunMode.MULTIRUN:
        return sweep.job(cfg)
    from lightning_modules.runtime.run import Preempted, run

    try:
        return run(cfg)["metrics"].get(cfg.objective_metric)
    except Preempted as stop:
        print(stop, file=sys.stderr)
        sys.exit(stop.code)
    except Exception as error:
        errors.leave(error)


def start() -> int:
    """Preflight, then a run or a sweep; the exit code of a sweep."""
    from lightning_modules.runtime import preflight, sweep

    cfg = preflight.check(sys.argv[1:])
    if cfg is None or not preflight.is_multirun(sys.argv[1:]):
        main()
        return 0

    def stop(*_: object) -> None:
        raise sweep.Stopped

    signal.signal(signal.SIGTERM, stop)
    sweep.start(cfg)
    try:
        main()
    except (KeyboardInterrupt, sweep.Stopped):
        return sweep.finish(cfg, stopped=True)
    return sweep.finish(cfg)


if __name__ == "__main__":
    sys.exit(start())

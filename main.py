"""Facet's only entry point: `python main.py experiment=moe/global_batch` runs, `-m` sweeps."""

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

from lightning_modules.runtime import config

config.register_resolvers(project=Path(__file__).parent)


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig) -> float | None:
    # torch and Lightning take seconds to import: `--help`, `--cfg` and shell completion do without them.
    from lightning_modules.runtime import errors
    from lightning_modules.runtime.run import Preempted, run

    try:
        return run(cfg)["metrics"].get(cfg.objective_metric)
    except Preempted as stop:
        print(stop, file=sys.stderr)
        sys.exit(stop.code)
    except Exception as error:
        errors.leave(error)


if __name__ == "__main__":
    sys.exit(main())

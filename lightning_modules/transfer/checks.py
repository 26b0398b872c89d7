"""What of a study of prompt transfer is wrong: seeds that are out of range, a cadence that no tuning reaches."""

from collections.abc import Iterator

from omegaconf import DictConfig

from lightning_modules.skill_neurons.checks import seeds_of_trials


def tuning_is_measured_on_its_way(cfg: DictConfig) -> Iterator[str]:
    if cfg.study.cadence > cfg.tuning.steps:
        yield f"study.cadence is {cfg.study.cadence}; expected at most tuning.steps, which is {cfg.tuning.steps}."


CHECKS = (seeds_of_trials, tuning_is_measured_on_its_way)

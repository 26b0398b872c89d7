"""What of a study of skill neurons is wrong: seeds and layers that are out of range."""

from collections.abc import Iterator

from omegaconf import DictConfig

from lightning_modules.runtime.preflight.names import SEED


def seeds_of_trials(cfg: DictConfig) -> Iterator[str]:
    """Trial t has the seed 1000 x seed + t (`PromptStudy`)."""
    most = (SEED - cfg.study.trials) // 1000
    if cfg.study.seed > most:
        yield f"seed is {cfg.study.seed}; expected at most {most:,}: a study's trials have seeds from 1000 x seed on."
    if cfg.study.trials > 1000:
        yield f"study.trials is {cfg.study.trials}; expected at most 1000: the next ones would be those of the next seed."


def layers_are_there(cfg: DictConfig) -> Iterator[str]:
    if cfg.study.top_layers > cfg.backbone.layers:
        yield (
            f"study.top_layers is {cfg.study.top_layers}; expected at most backbone.layers, which is {cfg.backbone.layers}."
        )


def some_neurons_are_selected(cfg: DictConfig) -> Iterator[str]:
    if cfg.study.share == 0:
        yield "study.share is 0; expected more: no neuron would be a skill neuron."


CHECKS = (seeds_of_trials, some_neurons_are_selected, layers_are_there)

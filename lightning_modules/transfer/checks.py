"""What of a study of prompt transfer is wrong: seeds that are out of range."""

from lightning_modules.skill_neurons.checks import seeds_of_trials

CHECKS = (seeds_of_trials,)

"""Figures of the claims table: effects in units of their margin, and what each arm measured. Numbers in, a Figure out."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from lightning_modules.common.style import COLOURS, band, grid, panels
from lightning_modules.common.tables import mean_ci

VERDICT_COLOURS = {"reproduced": COLOURS[2], "not reproduced": COLOURS[1], "inconclusive": COLOURS[7]}
VERDICT_MARKERS = {"reproduced": "o", "not reproduced": "s", "inconclusive": "D"}
FARTHEST = 30


class Effect(NamedTuple):
    """One line of the forest: effect with its interval, all three in units of the claim's margin."""

    label: str
    rule: str
    verdict: str
    effect: float
    low: float
    high: float


def forest_figure(effects: Sequence[Effect], *, title: str) -> Figure:
    """A line per claim, effects over margins on a scale that is linear to 2 and logarithmic beyond.

    The bar is where the rule wants the interval: right of 0 (and the dot right of 1) for superiority, right of -1 for
    noninferiority, between -1 and 1 for equivalence.
    """
    figure, axes = panels(1, 1, size=(9.0, 0.27 * len(effects) + 1.3), title=title)
    axis = axes[0, 0]
    wanted = {"superiority": (0, FARTHEST), "noninferiority": (-1, FARTHEST), "equivalence": (-1, 1)}
    for place, line in enumerate(effects):
        low, high = wanted[line.rule]
        axis.barh(place, high - low, left=low, height=0.8, color="#EAF3EE", zorder=0)
        colour = VERDICT_COLOURS[line.verdict]
        shown = np.clip([line.low, line.effect, line.high], -FARTHEST, FARTHEST)
        if np.isfinite(shown).all():
            axis.plot(shown[[0, 2]], [place, place], color=colour, linewidth=2)
        if np.isfinite(line.effect):
            axis.plot(shown[1], place, VERDICT_MARKERS[line.verdict], color=colour, markersize=5)
    for at in (-1, 0, 1):
        axis.axvline(at, color="#8A8A8A", linestyle="-" if at == 0 else ":", linewidth=1)
    axis.set_xscale("symlog", linthresh=2, linscale=1.2)
    marks = [-30, -10, -3, -1, 0, 1, 3, 10, 30]
    axis.set_xticks(marks, [f"≤ {marks[0]}", *map(str, marks[1:-1]), f"≥ {marks[-1]}"])
    axis.minorticks_off()
    axis.set(xlim=(-FARTHEST * 1.15, FARTHEST * 1.15), ylim=(len(effects) - 0.4, -0.6))
    axis.set_yticks(range(len(effects)), [line.label for line in effects], fontsize=8)
    axis.set_xlabel("effect / margin, the paper's direction to the right\nshaded: where the rule wants the interval")
    for name, colour in VERDICT_COLOURS.items():
        axis.plot([], [], f"{VERDICT_MARKERS[name]}-", color=colour, label=name)
    figure.legend(loc="outside lower center", ncols=3, fontsize=8)
    return figure


def arms_figure(claims: Mapping[str, Mapping[str, Sequence[float]]], *, units: Mapping[str, str], title: str) -> Figure:
    """A panel per claim, a column per arm: every seed a dot, seeds joined by thin lines, mean and 95% interval on top.

    units: of a claim's arms, the label of its axis.
    """
    figure, axes = grid(len(claims), 4, size=(2.75, 2.15), title=title)
    for axis, (name, arms) in zip(axes.flat, claims.items(), strict=False):
        places = range(len(arms))
        for seed_values in zip(*arms.values(), strict=True):
            axis.plot(places, seed_values, color="#C8C8C8", linewidth=0.8, marker="o", markersize=2.5, zorder=1)
        for place, values in zip(places, arms.values(), strict=True):
            found = mean_ci(values)
            half = np.nan_to_num(found.half_width)
            axis.errorbar(place, found.mean, yerr=half, fmt="D", markersize=4, color=COLOURS[0], capsize=4, zorder=2)
        axis.set_title(name.replace("_", " "), fontsize=8, wrap=True)
        axis.set_xticks(places, [arm.replace("_", " ") for arm in arms], rotation=20, ha="right", fontsize=7)
        axis.set_xlim(-0.5, len(arms) - 0.5)
        axis.set_ylabel(textwrap.fill(units[name], 26), fontsize=7)
        axis.tick_params(axis="y", labelsize=7)
    return figure


def dose_figure(panels_of: Mapping[str, Mapping[int, Sequence[float]]], *, xlabel: str, title: str) -> Figure:
    """metric -> dose -> a value per seed: mean over seeds with its 95% band, doses on a scale of doublings."""
    figure, axes = panels(1, len(panels_of), size=(3.9, 3.0), title=title)
    for axis, (metric, by_dose) in zip(axes[0], panels_of.items(), strict=True):
        doses = sorted(by_dose)
        for values in zip(*(by_dose[dose] for dose in doses), strict=True):
            axis.plot(doses, values, color="#C8C8C8", linewidth=0.8)
        band(axis, by_dose, color=COLOURS[0], marker="o")
        axis.set_xscale("log", base=2)
        axis.set_xticks(doses, [str(dose) for dose in doses])
        axis.set(xlabel=xlabel, ylabel=metric)
    return figure

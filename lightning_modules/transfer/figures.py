"""Figures of prompt transfer: matrices, curves, scatters and bars; values in, a Figure out."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from lightning_modules.common.style import COLOURS, LINES, band, bar, grid, panels
from lightning_modules.skill_neurons.figures import task_matrix


def matrix_figure(relative: Tensor, *, tasks: Sequence[str], skills: Mapping[str, str]) -> Figure:
    """Relative performance [targets, sources + 2], the last two columns random and hard prompts; skills framed."""
    figure, axis = task_matrix(
        relative,
        tasks=tasks,
        skills=skills,
        more=("random", "hard"),
        title="Zero-shot transfer, relative to the target's own prompt",
        cmap="viridis",
        limits=(0, 1),
    )
    axis.set(xlabel="source", ylabel="target")
    axis.axvline(len(tasks) - 0.5, color="white", linewidth=3)
    return figure


def indicators_figure(
    points: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    within: np.ndarray,
    across: np.ndarray,
    rho: Mapping[str, float],
) -> Figure:
    """Indicator against measured transfer, a panel each, cells of one skill and of two apart."""
    title = "Indicators against zero-shot transfer (mean Spearman per target)"
    figure, axes = grid(len(points), 5, size=(2.3, 2.1), title=title, sharey=True)
    for axis, (name, (x, y)) in zip(axes.flat, points.items(), strict=False):
        axis.scatter(x[across], y[across], s=5, color=COLOURS[7], label="other skill")
        axis.scatter(x[within], y[within], s=14, marker="^", color=COLOURS[1], label="same skill")
        axis.set_title(f"{name}: {rho[name]:.2f}", fontsize=8)
    for axis in axes[:, 0]:
        axis.set_ylabel("relative performance")
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def curves_figure(curves: Mapping[str, Mapping[str, Sequence[Mapping[int, float]]]]) -> Figure:
    """target -> start -> trials of step -> accuracy; mean with its 95% interval."""
    figure, axes = grid(len(curves), 4, size=(3.0, 2.3), title="Tuning from transferred prompts", sharey=True)
    for axis, (target, starts) in zip(axes.flat, curves.items(), strict=False):
        for colour, line, (start, trials) in zip(COLOURS, LINES, starts.items(), strict=False):
            by_step = {step: [trial[step] for trial in trials] for step in trials[0]}
            band(axis, by_step, within=(0, 1), color=colour, linestyle=line, label=start)
        axis.set(title=target, xlabel="step")
    for axis in axes[:, 0]:
        axis.set_ylabel("validation accuracy")
    widest = max(axes.flat, key=lambda a: len(a.get_legend_handles_labels()[1]))
    figure.legend(*widest.get_legend_handles_labels(), loc="outside lower center", ncols=min(3, axes.shape[1]))
    return figure


def projector_figure(found: Mapping[str, Mapping[str, Sequence[float]]], *, kinds: Sequence[str]) -> Figure:
    """Relative performance of every projector by kind of task: means with intervals, every task a dot."""
    figure, axes = panels(1, len(kinds), size=(2.9, 3.0), title="Prompts projected from the other model", sharey=True)
    for axis, kind in zip(axes[0], kinds, strict=True):
        for place, values in enumerate(found.values()):
            if own := values.get(kind):
                bar(axis, place, own, width=0.6, spread=0.15)
        axis.axhline(1.0, color=COLOURS[7], linestyle="--", linewidth=1)
        axis.set_title(kind)
        axis.set_xticks(range(len(found)), list(found), rotation=30, ha="right", fontsize=7)
    axes[0, 0].set_ylabel("relative performance")
    return figure

"""Figures of prompt transfer: matrices, curves, scatters and bars; values in, a Figure out."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from lightning_modules.common.style import COLOURS, LINES, panels
from lightning_modules.common.tables import mean_ci
from lightning_modules.skill_neurons.figures import frame_skills


def matrix_figure(relative: Tensor, *, tasks: Sequence[str], skills: Mapping[str, str]) -> Figure:
    """Relative performance [targets, sources + 2], the last two columns random and hard prompts; skills framed."""
    kinds = list(dict.fromkeys(skills.values()))
    order = sorted(range(len(tasks)), key=lambda i: (kinds.index(skills[tasks[i]]), i))
    values = relative.numpy()[order][:, [*order, len(tasks), len(tasks) + 1]]
    size = 1.8 + 0.36 * len(tasks)
    figure, axes = panels(
        1, 1, size=(size + 1.6, size), title="Zero-shot transfer, relative to the target's own prompt"
    )
    axis = axes[0, 0]
    axis.grid(False)
    image = axis.imshow(values, cmap="viridis", vmin=0, vmax=1)
    named = [tasks[i] for i in order]
    axis.set_xticks(range(len(named) + 2), [*named, "random", "hard"], rotation=60, ha="right", fontsize=7)
    axis.set_yticks(range(len(named)), named, fontsize=7)
    axis.set(xlabel="source", ylabel="target")
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            axis.text(
                j, i, f"{value:.2f}", ha="center", va="center", fontsize=5.5, color="black" if value > 0.6 else "white"
            )
    frame_skills(axis, [skills[t] for t in named])
    axis.axvline(len(named) - 0.5, color="white", linewidth=3)
    figure.colorbar(image, ax=axis, shrink=0.7)
    return figure


def indicators_figure(
    points: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    within: np.ndarray,
    across: np.ndarray,
    rho: Mapping[str, float],
) -> Figure:
    """Indicator against measured transfer, a panel each, cells of one skill and of two apart."""
    columns = min(5, len(points))
    rows = -(-len(points) // columns)
    figure, axes = panels(
        rows,
        columns,
        size=(2.3, 2.1),
        title="Indicators against zero-shot transfer (mean Spearman per target)",
        sharey=True,
    )
    for axis, (name, (x, y)) in zip(axes.flat, points.items(), strict=False):
        axis.scatter(x[across], y[across], s=5, color=COLOURS[7], label="other skill")
        axis.scatter(x[within], y[within], s=14, marker="^", color=COLOURS[1], label="same skill")
        axis.set_title(f"{name}: {rho[name]:.2f}", fontsize=8)
    for axis in axes.flat[len(points) :]:
        axis.set_axis_off()
    for axis in axes[:, 0]:
        axis.set_ylabel("relative performance")
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def curves_figure(curves: Mapping[str, Mapping[str, Sequence[Mapping[int, float]]]]) -> Figure:
    """target -> start -> trials of step -> accuracy; mean with its 95% interval."""
    columns = min(4, len(curves))
    rows = -(-len(curves) // columns)
    figure, axes = panels(rows, columns, size=(3.0, 2.3), title="Tuning from transferred prompts", sharey=True)
    for axis, (target, starts) in zip(axes.flat, curves.items(), strict=False):
        for colour, line, (start, trials) in zip(COLOURS, LINES, starts.items(), strict=False):
            steps = sorted(trials[0])
            found = [mean_ci([t[s] for t in trials]) for s in steps]
            middle = np.array([f.mean for f in found])
            half = np.nan_to_num(np.array([f.half_width for f in found]))
            axis.plot(steps, middle, color=colour, linestyle=line, label=start)
            low, high = np.clip(middle - half, 0, 1), np.clip(middle + half, 0, 1)
            axis.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)
        axis.set(title=target, xlabel="step")
    for axis in axes.flat[len(curves) :]:
        axis.set_axis_off()
    for axis in axes[:, 0]:
        axis.set_ylabel("validation accuracy")
    widest = max(axes.flat, key=lambda a: len(a.get_legend_handles_labels()[1]))
    figure.legend(*widest.get_legend_handles_labels(), loc="outside lower center", ncols=min(3, columns))
    return figure


def projector_figure(found: Mapping[str, Mapping[str, Sequence[float]]], *, kinds: Sequence[str]) -> Figure:
    """Relative performance of every projector by kind of task: means with intervals, every task a dot."""
    figure, axes = panels(1, len(kinds), size=(2.9, 3.0), title="Prompts projected from the other model", sharey=True)
    for axis, kind in zip(axes[0], kinds, strict=True):
        for place, (_, values) in enumerate(found.items()):
            own = values.get(kind, [])
            if own:
                estimate = mean_ci(own)
                axis.bar(place, estimate.mean, color=COLOURS[5], width=0.6)
                axis.errorbar(place, estimate.mean, yerr=np.nan_to_num(estimate.half_width), color="black", capsize=3)
                axis.scatter(place + np.linspace(-0.15, 0.15, len(own)), own, s=7, color=COLOURS[0], zorder=3)
        axis.axhline(1.0, color=COLOURS[7], linestyle="--", linewidth=1)
        axis.set_title(kind)
        axis.set_xticks(range(len(found)), list(found), rotation=30, ha="right", fontsize=7)
    axes[0, 0].set_ylabel("relative performance")
    return figure

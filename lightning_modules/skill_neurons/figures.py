"""Figures of neurons and prompts: matrices, curves and spreads in, a Figure out."""

from collections.abc import Mapping, Sequence
from itertools import groupby

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from lightning_modules.common.style import COLOURS, MARKERS, band, bar, grid, lowest, panels, ticks
from lightning_modules.common.tables import mean_ci


def skill_colours(skills: Mapping[str, str]) -> dict[str, str]:
    return dict(zip(dict.fromkeys(skills.values()), COLOURS * 3, strict=False))


def predictivity_figure(preds: Mapping[str, tuple[Tensor, Tensor]]) -> Figure:
    """task -> (predictivity [L, F], its null [R, L, F]): a histogram of each on one scale."""
    title = "Predictivity of neurons, and with permuted labels"
    figure, axes = grid(len(preds), 4, size=(2.5, 1.8), title=title, sharex=True)
    bins = np.linspace(0.5, 1.0, 51)
    for axis, (task, (pred, null)) in zip(axes.flat, preds.items(), strict=False):
        axis.hist(null.flatten().numpy(), bins=bins, density=True, color=COLOURS[7], alpha=0.6, label="permuted labels")
        axis.hist(pred.flatten().numpy(), bins=bins, density=True, histtype="step", color=COLOURS[0], label="neurons")
        axis.axvline(float(pred.max()), color=COLOURS[1], linewidth=1, linestyle="--", label="best neuron")
        axis.set_title(task, fontsize=8)
        axis.set_yscale("log")
    for axis in lowest(axes, len(preds)):
        axis.set_xlabel("predictivity")
        axis.tick_params(labelbottom=True)
    for axis in axes[:, 0]:
        axis.set_ylabel("density")
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def spearman_figure(matrix: Tensor, *, tasks: Sequence[str], skills: Mapping[str, str], title: str = "") -> Figure:
    """Task by task, tasks of one skill beside each other and framed."""
    title = title or "Rank correlation of neurons' predictivity"
    figure, _ = task_matrix(matrix, tasks=tasks, skills=skills, title=title, cmap="RdBu_r", limits=(-1, 1))
    return figure


def task_matrix(
    matrix: Tensor,
    *,
    tasks: Sequence[str],
    skills: Mapping[str, str],
    more: Sequence[str] = (),
    title: str,
    cmap: str,
    limits: tuple[float, float],
) -> tuple[Figure, Axes]:
    """[tasks, tasks + more], tasks of one skill beside each other and framed, numbers in cells if there are few."""
    kinds = list(dict.fromkeys(skills.values()))
    order = sorted(range(len(tasks)), key=lambda i: (kinds.index(skills[tasks[i]]), i))
    named, columns = [tasks[i] for i in order], len(tasks) + len(more)
    values = matrix.numpy()[np.ix_(order, [*order, *range(len(tasks), columns)])]
    size = 1.6 + 0.35 * len(tasks)
    figure, axes = panels(1, 1, size=(size + 0.8 + 0.4 * len(more), size), title=title)
    axis = axes[0, 0]
    axis.grid(False)
    image = axis.imshow(values, cmap=cmap, vmin=limits[0], vmax=limits[1])
    axis.set_xticks(range(columns), [*named, *more], rotation=60, ha="right", fontsize=7)
    axis.set_yticks(range(len(named)), named, fontsize=7)
    if len(tasks) <= 16:
        for (i, j), value in np.ndenumerate(values):
            if np.isnan(value):
                continue
            red, green, blue, _ = image.to_rgba(value)
            dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.5
            text = dict(ha="center", va="center", fontsize=5.5, color="white" if dark else "black")
            axis.text(j, i, f"{value:.2f}", **text)
    frame_skills(axis, [skills[t] for t in named])
    figure.colorbar(image, ax=axis, shrink=0.7)
    return figure, axis


def frame_skills(axis: Axes, skills: Sequence[str]) -> None:
    """A frame around each block of one skill."""
    x = -0.5
    for _, block in groupby(skills):
        w = len(list(block))
        axis.plot([x, x + w, x + w, x, x], [x, x, x + w, x + w, x], color="black", linewidth=1.2)
        x += w


def layers_figure(layers: Mapping[str, Sequence[float]], *, skills: Mapping[str, str]) -> Figure:
    """Mean predictivity of the selected neurons by layer, a line per task."""
    figure, axes = panels(1, 1, size=(6.2, 3.4), title="Predictivity of each layer's top neurons")
    colours, axis = skill_colours(skills), axes[0, 0]
    labelled: set[str] = set()
    for task, values in layers.items():
        skill = skills[task]
        look = dict(marker=MARKERS[list(colours).index(skill) % len(MARKERS)], markersize=3, color=colours[skill])
        axis.plot(values, label=None if skill in labelled else skill, **look)
        labelled.add(skill)
    count = len(next(iter(layers.values())))
    axis.set(xlabel="layer", ylabel="predictivity", xticks=list(ticks(count, 12)))
    figure.legend(loc="outside right center", title="skill")
    return figure


def perturbation_figure(
    curves: Mapping[str, Mapping[str, Mapping[float, Sequence[float]]]], *, xlabel: str = "share of neurons perturbed"
) -> Figure:
    """kind -> arm -> share -> accuracies of tasks and trials; mean with its 95% interval."""
    figure, axes = panels(
        1,
        len(curves),
        size=(3.6, 3.1 if len(curves) > 1 else 3.7),
        title="Accuracy when neurons are perturbed",
        sharey=True,
    )
    for axis, (kind, arms) in zip(axes[0], curves.items(), strict=True):
        for number, (arm, points) in enumerate(arms.items()):
            band(axis, points, color=COLOURS[number], marker=MARKERS[number], markersize=4, label=arm)
        axis.set(title=kind, xlabel=xlabel)
    axes[0, 0].set_ylabel("test accuracy")
    # One panel is as wide as one entry.
    columns = 1 if len(curves) == 1 else 3
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=columns)
    return figure


def origin_figure(groups: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """panel -> bar -> values over tasks: means with intervals, every task a dot."""
    figure, axes = panels(1, len(groups), size=(3.9, 3.2), title="Where skill neurons come from")
    for axis, (title, bars) in zip(axes[0], groups.items(), strict=True):
        for place, values in enumerate(bars.values()):
            bar(axis, place, values, width=0.62, spread=0.18)
        lowest = min(min(v) for v in bars.values())
        axis.set(title=title, ylim=(min(0.5, lowest) - 0.02, 1.02))
        axis.set_xticks(range(len(bars)), list(bars), rotation=25, ha="right", fontsize=8)
    axes[0, 0].set_ylabel("accuracy")
    return figure


def pruning_figure(points: Sequence[tuple[str, float, float, Sequence[float]]], *, whole: Sequence[float]) -> Figure:
    """(arm, share kept, parameters left, accuracies): accuracy against size, beside the whole model's."""
    figure, axes = panels(1, 1, size=(6.0, 3.6), title="Accuracy against size after pruning")
    axis = axes[0, 0]
    arms = list(dict.fromkeys(arm for arm, *_ in points))
    for number, arm in enumerate(arms):
        own = sorted((left, share, mean_ci(values)) for a, share, left, values in points if a == arm)
        x, y = [left for left, *_ in own], [f.mean for *_, f in own]
        bars = [np.nan_to_num(f.half_width) for *_, f in own]
        axis.errorbar(x, y, yerr=bars, color=COLOURS[number], marker=MARKERS[number], capsize=3, label=arm)
        if number == 0:
            for left, share, _ in own:
                axis.annotate(
                    f"keep {share:.0%}", (left, 0.02), xycoords=("data", "axes fraction"), fontsize=7, ha="center"
                )
    found = mean_ci(whole)
    axis.axhline(found.mean, color=COLOURS[7], linestyle="--", label="whole model")
    axis.set(xlabel="share of parameters left", ylabel="test accuracy")
    figure.legend(loc="outside right center")
    return figure

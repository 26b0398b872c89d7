"""Figures of what a vision-language model does with the image. Scores, texts and pictures in, a Figure out."""

import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from datamodules.scenes.language import mentioned, singular
from datamodules.scenes.render import render
from datamodules.scenes.world import Scene
from lightning_modules.common.style import COLOURS, LINES, MARKERS, grid, panels
from lightning_modules.svco.grounding import by_condition


def conditions_figure(*, before: dict[str, Tensor], after: dict[str, Tensor]) -> Figure:
    """Histograms of a response's log-probability under three image conditions (figure 1 of Wu et al.)."""
    figure, axes = panels(1, 2, size=(4.6, 2.9), title="Log-probability of a response, by what the model is shown")
    for axis, title, scores in zip(axes[0], ("before", "after"), (before, after), strict=True):
        # A scale of their own: training spreads the scores over many times the range.
        together = np.concatenate([v.numpy() for v in scores.values()])
        bins = np.linspace(np.quantile(together, 0.02), min(0.0, together.max()), 36)
        for colour, line, (label, found) in zip(COLOURS, LINES, by_condition(scores).items(), strict=False):
            values = found.numpy()
            shown = np.clip(values, bins[0], bins[-1])
            look = dict(color=colour, linestyle=line)
            axis.hist(shown, bins=bins, histtype="step", linewidth=1.6, label=label, **look)
            axis.axvline(values.mean(), linewidth=1, **look)
        axis.set(title=title, xlabel="nats, summed over the response (leftmost bar: that or less)")
    axes[0, 0].set_ylabel("responses")
    axes[0, 0].legend(loc="upper left")
    return figure


def examples_figure(
    *, before: Sequence[tuple[Scene, str]], after: Sequence[tuple[Scene, str]], pixels: int, count: int = 6
) -> Figure:
    """Unbiased scenes with the greedy caption before and after; objects that are not there in capitals."""
    count = min(count, len(before))
    figure, axes = panels(
        count,
        2,
        size=(3.6, 0.95),
        title="Captions of unbiased scenes (OBJECTS THAT ARE NOT THERE)",
        width_ratios=(1, 5),
    )
    for row, ((scene, first), (_, second)) in enumerate(zip(before[:count], after[:count], strict=True)):
        _picture(axes[row, 0], render(scene, pixels=pixels))
        axes[row, 1].set_axis_off()
        for height, label, text, colour in ((0.95, "before", first, COLOURS[7]), (0.45, "after", second, COLOURS[0])):
            wrapped = textwrap.fill(f"{label}: {marked(text, scene)}", 84)
            axes[row, 1].text(
                0, height, wrapped, va="top", fontsize=7.5, color=colour, transform=axes[row, 1].transAxes
            )
    return figure


def marked(text: str, scene: Scene) -> str:
    """The text with each object that is not in the scene in capitals."""
    wrong = mentioned(text) - scene.objects
    return re.sub(
        r"[A-Za-z]+", lambda word: word[0].upper() if wrong.intersection(singular(word[0])) else word[0], text
    )


def dependency_figure(*, dependency: dict[str, float], gain: dict[str, float], title: str = "") -> Figure:
    """Gain of each benchmark against how much it depended on the image before training."""
    figure, axes = panels(1, 1, size=(6.2, 4.2), title=title or "Gain against visual dependency of the base model")
    axis = axes[0, 0]
    groups = list(dict.fromkeys(name.split("/")[0] for name in dependency))
    for colour, mark, group in zip(COLOURS, MARKERS, groups, strict=False):
        names = [n for n in dependency if n.split("/")[0] == group]
        axis.plot([dependency[n] for n in names], [gain[n] for n in names], mark, color=colour, label=group)
    for name, x in dependency.items():
        if abs(gain[name]) >= 0.08:  # the others lie on the line and on each other
            label, at = name.partition("/")[2], (x, gain[name])
            axis.annotate(label, at, xytext=(5, 3), textcoords="offset points", fontsize=7, color="#5A5A5A")
    axis.axhline(0, color="#8A8A8A", linestyle="--", linewidth=1)
    axis.set(xlabel="score with the image - score without it, base model", ylabel="score after - score before")
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def contact_sheet(*, pairs: Sequence[tuple[Image.Image, Image.Image, str]], title: str, columns: int = 4) -> Figure:
    """Pairs of pictures side by side with a line of text under each."""
    rows = max(1, -(-len(pairs) // columns))
    figure, axes = panels(rows, columns, size=(2.5, 1.75), title=title)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, (one, other, text) in zip(axes.flat, pairs, strict=False):
        height = 96
        left, right = (im.convert("RGB").resize((height, height), Image.Resampling.NEAREST) for im in (one, other))
        sheet = Image.new("RGB", (2 * height + 6, height), "white")
        sheet.paste(left, (0, 0))
        sheet.paste(right, (height + 6, 0))
        _picture(axis, sheet)
        axis.text(0.5, -0.06, textwrap.fill(text, 44), fontsize=6.5, va="top", ha="center", transform=axis.transAxes)
    return figure


def _picture(axis: Any, image: Image.Image) -> None:
    axis.imshow(np.asarray(image), interpolation="nearest")
    axis.grid(False)
    axis.set_axis_off()


def objectives_figure(*, values: dict[str, dict[str, float]], shown: dict[str, str]) -> Figure:
    """A panel per metric, a bar per objective, the base as a line."""
    objectives = [name for name in values if name != "base"]
    size = (2.6, 0.2 * len(objectives) + 0.9)
    figure, axes = grid(len(shown), 4, size=size, title="Objectives on the same base")
    for index, (axis, (metric, label)) in enumerate(zip(axes.flat, shown.items(), strict=False)):
        axis.barh(range(len(objectives)), [values[name][metric] for name in objectives], color=COLOURS[0], height=0.7)
        axis.axvline(values["base"][metric], color=COLOURS[1], linestyle="--", linewidth=1.2, label="base")
        axis.set(title=label, yticks=range(len(objectives)))
        axis.set_yticklabels(objectives if index % axes.shape[1] == 0 else [])
        axis.invert_yaxis()
        if metric.startswith("svco/ppl"):
            axis.set_xscale("log")
            axis.set_xlim(left=1)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper right", fontsize=8)
    return figure


def tradeoff_figure(
    *,
    curves: Mapping[str, Sequence[tuple[float, float]]],
    base: tuple[float, float],
    front: Sequence[tuple[float, float]],
    xlabel: str,
) -> Figure:
    """Paired accuracy over nats, a line an objective through its learning rates, ascending; points of the front ringed."""
    figure, axes = panels(1, 1, size=(6.4, 4.4), title="What a contrast costs, by learning rate")
    axis = axes[0, 0]
    for number, (name, points) in enumerate(curves.items()):
        x, y = zip(*points, strict=True)
        look = dict(color=COLOURS[number % len(COLOURS)], marker=MARKERS[number % len(MARKERS)])
        axis.plot(x, y, linestyle=LINES[number % len(LINES)], linewidth=1.2, markersize=5, label=name, **look)
        # A word at the largest rate says which way the line goes.
        axis.annotate(name, points[-1], xytext=(5, 3), textcoords="offset points", fontsize=7, color=look["color"])
    axis.plot(*base, "*", color="black", markersize=11, label="base", linestyle="none")
    axis.plot(
        *zip(*front, strict=True), "o", markersize=11, markerfacecolor="none", color="#5A5A5A", label="on the front"
    )
    axis.set_xscale("log")
    # Room for the word at a line's end.
    axis.margins(x=0.14)
    axis.set(xlabel=f"{xlabel} (left: better)", ylabel="pairs answered rightly (up: better)")
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure

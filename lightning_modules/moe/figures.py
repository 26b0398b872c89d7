"""Figures of what experts specialise in. Counts and shares in, a matplotlib Figure out.

Shape legend: D domains, L layers, E experts, S logged steps.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from lightning_modules.common.style import COLOURS, LINES, MARKERS, grid, heatmap, lowest, panels, ticks
from lightning_modules.common.tables import mean_ci
from lightning_modules.moe.specialization import coactivation_LEE, selection_share_DLE, topk_score_DL, with_text


def of_routing(*, tally: Mapping[str, Tensor], domains: Sequence[str], top_k: int) -> dict[str, Figure]:
    """The figures of a held-out text's routing (`held_out.RoutingTally`), by name."""
    _, domain_N, domains = with_text(domain_N=tally["domain_N"], domains=domains)
    count = len(domains)
    share_DLE = selection_share_DLE(counts_NLE=tally["counts_NLE"], domain_N=domain_N, domains=count)
    score_DL = topk_score_DL(
        topk_score_NL=tally["topk_score_NL"], tokens_N=tally["tokens_N"], domain_N=domain_N, domains=count
    )
    return {
        "selection_heatmap": selection_heatmap(share_DLE=share_DLE, domains=domains),
        "topk_score_sum": topk_score_figure(score_DL=score_DL, domains=domains, floor=top_k / share_DLE.shape[-1]),
        "coactivation": coactivation_figure(pairs_LEE=tally["pairs_LEE"]),
    }


def selection_heatmap(*, share_DLE: Tensor, domains: Sequence[str]) -> Figure:
    """A panel per domain: the share of its selections that each expert [layer x expert] got (figure 3 of Qiu et al.)."""
    count, layers, experts = share_DLE.shape
    figure, axes = grid(
        count,
        4,
        size=(max(2.4, 0.09 * experts + 0.8), max(1.3, 0.16 * layers + 0.7)),
        title=f"Share of a domain's selections per expert (uniform would be {1 / experts:.3f})",
        sharex=True,
        sharey=True,
    )
    high = _scale(share_DLE)
    for axis, domain, share_LE in zip(axes.flat, domains, share_DLE, strict=False):
        image = heatmap(axis, share_LE.numpy(), high=high, title=domain)
        axis.set_yticks(ticks(layers), [str(i) for i in ticks(layers)])
        axis.set_xticks(ticks(experts), [str(i) for i in ticks(experts)])
    for axis in axes[:, 0]:
        axis.set_ylabel("layer")
    for axis in lowest(axes, count):
        axis.set_xlabel("expert")
        axis.tick_params(labelbottom=True)
    figure.colorbar(image, ax=axes, shrink=0.8, label="share of selections")
    return figure


def compare_heatmaps(*, runs: dict[str, Tensor], domains: Sequence[str]) -> Figure:
    """Runs beside each other: a row of panels per layer, [domain x expert], experts ordered by the domain they serve.

    runs: title -> share_DLE of a run, all of one shape. The colour scale is shared.
    """
    _, layers, experts = next(iter(runs.values())).shape
    figure, axes = panels(
        layers,
        len(runs),
        size=(max(3.2, 0.11 * experts + 1.6), 0.19 * len(domains) + 0.35),
        title=f"Where each domain's tokens go (uniform would be {1 / experts:.3f})",
        sharex=True,
        sharey=True,
    )
    high = max(_scale(share) for share in runs.values())
    for column, (title, share_DLE) in enumerate(runs.items()):
        for layer, share_DE in enumerate(share_DLE.unbind(1)):
            ranks = [(int(share_D.argmax()), -float(share_D.max())) for share_D in share_DE.T]
            order = sorted(range(experts), key=ranks.__getitem__)
            axis = axes[layer, column]
            image = heatmap(axis, share_DE[:, order].numpy(), high=high, title=title if layer == 0 else "")
            axis.set_yticks(range(len(domains)), domains, fontsize=7)
            axis.set_xticks([])
            if column == 0:
                axis.set_ylabel(f"layer {layer}")
    figure.supxlabel("experts, in each panel ordered by the domain that selects them most", fontsize=9)
    figure.colorbar(image, ax=axes, shrink=0.6, label="share of the domain's selections")
    return figure


def ppl_by_domain(*, values: Mapping[str, Mapping[str, Mapping[int, float]]]) -> Figure:
    """Test perplexity per domain and setting, relative to the first setting: mean and 95% interval over the seeds of both.

    values: setting -> domain -> seed -> perplexity.
    """
    base, *others = values
    figure, axes = panels(1, 1, size=(6.5, 0.42 * len(values[base]) + 1.2), title=f"Test perplexity against {base}")
    axis, domains = axes[0, 0], list(values[base])
    for index, name in enumerate(others):
        shift = (index - (len(others) - 1) / 2) * 0.6 / max(1, len(others))
        for row, domain in enumerate(domains):
            first, own = values[base][domain], values[name][domain]
            ratios = [100 * (own[seed] / first[seed] - 1) for seed in first if seed in own]
            estimate = mean_ci(ratios)
            error = None if estimate.n < 2 else estimate.half_width
            label = name if row == 0 else None
            look = dict(fmt=MARKERS[index % len(MARKERS)], color=COLOURS[index % len(COLOURS)], capsize=3)
            axis.errorbar(estimate.mean, row + shift, xerr=error, label=label, **look)
    axis.axvline(0, color="#8A8A8A", linestyle="--", linewidth=1)
    axis.set(yticks=range(len(domains)), yticklabels=domains, xlabel="difference of perplexity, % (left is better)")
    axis.invert_yaxis()
    if others:
        axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def topk_score_figure(*, score_DL: Tensor, domains: Sequence[str], floor: float) -> Figure:
    """Mean sum of the selected softmax scores per layer and domain, between the floor K/E and 1 (figure 4)."""
    figure, axes = panels(1, 1, size=(6.5, 3.4), title="How sure the router is: sum of the selected scores")
    axis, layers = axes[0, 0], score_DL.shape[1]
    for index, (domain, score_L) in enumerate(zip(domains, score_DL, strict=True)):
        look = dict(marker=MARKERS[index % len(MARKERS)], color=COLOURS[index % len(COLOURS)])
        axis.plot(range(layers), score_L.numpy(), label=domain, **look)
    axis.axhline(floor, color="#8A8A8A", linestyle="--", linewidth=1)
    axis.annotate(f"floor K/E = {floor:.3f}", (0, floor), xytext=(0, 3), textcoords="offset points", color="#5A5A5A")
    axis.set(xlabel="layer", ylabel="top-k score sum", xticks=ticks(layers, 12), ylim=(0, 1))
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def coactivation_figure(*, pairs_LEE: Tensor) -> Figure:
    """A panel per layer: Jaccard index of the tokens of two experts, the diagonal left out."""
    together_LEE = coactivation_LEE(pairs_LEE=pairs_LEE)
    layers, experts, _ = together_LEE.shape
    together_LEE = together_LEE.masked_fill(torch.eye(experts, dtype=torch.bool), float("nan"))
    title = "Experts selected together (Jaccard index)"
    figure, axes = grid(layers, 6, size=(2.1, 2.2), title=title, sharey=True)
    high = float(np.nanmax(together_LEE.numpy()))
    for layer, axis in enumerate(axes.flat[:layers]):
        image = heatmap(axis, together_LEE[layer].numpy(), high=high, title=f"layer {layer}")
        axis.set(xticks=ticks(experts, 5), yticks=ticks(experts, 5), xlabel="expert")
    axes[0, 0].set_ylabel("expert")
    figure.colorbar(image, ax=axes, shrink=0.8)
    return figure


def load_over_training(*, steps: Sequence[int], loads_SLE: Sequence[Tensor]) -> Figure:
    """A panel per layer: every expert's share of a global batch's selections over training, and the balanced share."""
    loads = torch.stack(list(loads_SLE)).numpy()
    _, layers, experts = loads.shape
    title = "Load of each expert over training"
    figure, axes = grid(layers, 4, size=(2.6, 2.0), title=title, sharex=True, sharey=True)
    for layer, axis in enumerate(axes.flat[:layers]):
        axis.plot(steps, loads[:, layer], color=COLOURS[0], alpha=0.35, linewidth=0.9)
        axis.axhline(1 / experts, color=COLOURS[1], linestyle="--", linewidth=1, label=f"balanced: 1/{experts}")
        axis.set_title(f"layer {layer}", fontsize=9)
        axis.set_ylim(0, None)
    for axis in axes[-1]:
        axis.set_xlabel("optimizer step")
    for axis in axes[:, 0]:
        axis.set_ylabel("share of selections")
    axes[0, 0].legend(fontsize=7)
    return figure


def lbl_scopes_figure(*, history: Sequence[dict[str, Any]]) -> Figure:
    """The load-balancing loss at sequence, micro-batch and global scope over training, whatever was trained."""
    figure, axes = panels(1, 1, size=(6, 3.4), title="Load-balancing loss of the same forward at three scopes")
    axis = axes[0, 0]
    steps = [row["step"] for row in history]
    for colour, line, scope in zip(COLOURS, LINES, ("sequence", "micro", "global"), strict=False):
        values = [row[f"moe/lbl_{scope}"] for row in history]
        axis.plot(steps, values, color=colour, linestyle=line, label=f"{scope} scope")
    axis.axhline(1, color="#8A8A8A", linestyle="--", linewidth=1)
    axis.set(xlabel="optimizer step", ylabel="LBL (1: balanced)")
    axis.legend()
    return figure


def _scale(share_DLE: Tensor) -> float:
    """Top of the colour scale: the largest share, but never less than twice the uniform one."""
    return max(float(share_DLE.max()), 2 / share_DLE.shape[-1])

"""A figure for each paper that a talk could show: what was measured here, with the paper's own numbers beside it.

White marks with a black edge are the paper's, dark ones ours, so that both are told apart in grey. Bars are 95% intervals
over seeds.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_modules.claims.evidence import Row
from lightning_modules.claims.pictures import DOSES
from lightning_modules.common.style import COLOURS, RC
from lightning_modules.common.tables import mean_ci

PAPERS: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "papers.yaml").read_text())
OURS, THEIRS, PALE = COLOURS[0], "white", "#9FC5E8"
MARKS = ("o", "s", "^", "D")
KINDS = {"synthetic": "made-up\nlanguage", "real": "real text"}


class Rows:
    """The measured rows by key."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.by_key = {row.key: row for row in rows if row.finding}

    def has(self, *keys: str) -> bool:
        return all(key in self.by_key for key in keys)

    def arm(self, key: str, name: str) -> np.ndarray:
        """One value a seed."""
        return np.array(self.by_key[key].arm(name))


def ours(
    axis: Axes, place: float, values: Sequence[float] | np.ndarray, *, mark: str = "o", colour: str = OURS
) -> None:
    """Mean with its 95% interval, every seed as a short line beside it."""
    found = mean_ci(list(values))
    axis.errorbar(
        place,
        found.mean,
        yerr=np.nan_to_num(found.half_width),
        fmt=mark,
        color=colour,
        markeredgecolor="black",
        ecolor="black",
        markersize=9,
        capsize=4,
        zorder=3,
    )
    axis.plot([place + 0.1] * len(values), values, "_", color="#707070", markersize=6, zorder=2)


def theirs(axis: Axes, place: float, value: float, *, mark: str = "o") -> None:
    axis.plot(place, value, mark, markerfacecolor=THEIRS, markeredgecolor="black", markersize=9, zorder=3)


def new(columns: int, title: str, *, widths: Sequence[float] | None = None) -> tuple[Figure, list[Axes]]:
    with matplotlib.rc_context({**RC, "font.size": 11}):
        figure = Figure(figsize=(11, 4.6), layout="constrained")
        axes = figure.subplots(1, columns, squeeze=False, width_ratios=widths)
        figure.suptitle(title, fontsize=13, fontweight="bold")
    return figure, list(axes[0])


def note(figure: Figure, text: str) -> None:
    figure.supxlabel(text, fontsize=9, color="#404040")


def ticks(axis: Axes, labels: Sequence[str], **options: Any) -> None:
    axis.set_xticks(range(len(labels)), labels, **options)
    axis.set_xlim(-0.6, len(labels) - 0.4)


def moe(rows: Rows) -> Figure | None:
    """Perplexity below the micro-batch's by the sequences that are balanced together, and what experts know of domains."""
    ppl, known = "moe/ppl_falls_with_bsz@moe/claims", "moe/specialisation_rises_with_bsz@moe/claims"
    if not rows.has(ppl, known):
        return None
    figure, (left, right) = new(2, "Balancing experts over more of the batch")
    for mark, (name, sizes) in zip(MARKS[1:], PAPERS["moe"]["perplexity"].items(), strict=True):
        first = sizes[min(sizes)]
        gains = [100 * (1 - value / first) for value in sizes.values()]
        left.plot(list(sizes), gains, f"{mark}--", color="#606060", markerfacecolor=THEIRS, markeredgecolor="black")
        left.annotate(f"   {name}", (max(sizes), gains[-1]), fontsize=9, va="center")
    micro = rows.arm(ppl, "micro")
    found = [mean_ci(list(100 * (1 - rows.arm(ppl, arm) / micro))) for arm in DOSES]
    means, halves = [f.mean for f in found], [np.nan_to_num(f.half_width) for f in found]
    left.errorbar(
        list(DOSES.values()), means, yerr=halves, fmt="o-", color=OURS, capsize=4, linewidth=2.5, markersize=8
    )
    told: dict[str, Any] = {"color": OURS, "fontweight": "bold", "arrowprops": {"arrowstyle": "-", "color": OURS}}
    left.annotate(f"here, {len(micro)} seeds", (DOSES["eight"], means[2]), xytext=(2, max(means) + 0.6), **told)
    again = "moe/global_lowers_ppl@moe/claims+confirmation"
    if rows.has(again):
        gains_S = 100 * (1 - rows.arm(again, "global") / rows.arm(again, "micro"))
        ours(left, DOSES["global"] * 1.25, gains_S, mark="D")
        left.annotate(f"{len(gains_S)} fresh seeds", (DOSES["global"] * 1.3, gains_S.mean()), xytext=(70, 3.9), **told)
    left.set_xscale("log", base=2)
    left.set_xlim(1.7, 5000)
    left.set_xticks([2, 8, 32, 128, 512], ["2", "8", "32", "128", "512"])
    left.set(xlabel="sequences balanced together", ylabel="perplexity below micro-batch balancing, %")
    right.axhline(0, color="black", linewidth=0.8)
    for place, arm in enumerate(DOSES):
        ours(right, place, rows.arm(known, arm))
    ticks(right, [str(dose) for dose in DOSES.values()])
    right.set(xlabel="sequences balanced together", ylabel="what the expert tells of the domain, nats")
    right.text(0.03, 0.95, "paper: rises\n(figures not read)", transform=right.transAxes, va="top", fontsize=10)
    note(figure, "white with dashes: Qiu et al., ACL 2025; filled: a tiny model here, mean over seeds, 95% interval")
    return figure


def prompt(rows: Rows) -> Figure | None:
    """The best single neuron, how alike tasks rank neurons, and what pruning to them costs."""
    places = ("origin", "skill_neurons", "prune"), ("origin_real", "skill_neurons_real", "prune_real")
    there, alike, pruned = (
        f"prompt/{name}@prompt/"
        for name in ("neurons_are_there_before_tuning", "similar_tasks_have_similar_neurons", "pruning_keeps_accuracy")
    )
    untrained = "prompt/neurons_come_from_pretraining@prompt/"
    if not all(rows.has(there + o, untrained + o, alike + s, pruned + p) for o, s, p in places):
        return None
    figure, (best, like, cost) = new(
        3, "Skill neurons: can single neurons tell the answer, whose are they, are they enough?", widths=[1.3, 1, 1]
    )
    labels = ["paper,\nSST-2", *KINDS.values()]
    for mark, (name, value) in zip("D^o", PAPERS["prompt"]["best_neuron"].items(), strict=True):
        theirs(best, 0, value, mark=mark)
        best.annotate(f"   {name.split()[0]}", (0, value), va="center", fontsize=9)
    for place, (origin, skill, prune) in enumerate(places, 1):
        ours(best, place, rows.arm(there + origin, "random_prompt"), mark="D")
        ours(best, place, rows.arm(untrained + origin, "untrained"), mark="v", colour=PALE)
        ours(best, place, rows.arm(there + origin, "permuted_labels"), mark="x")
        ours(like, place - 0.2, rows.arm(alike + skill, "within"))
        ours(like, place + 0.2, rows.arm(alike + skill, "across"), mark="s", colour=PALE)
        ours(cost, place, 100 * (rows.arm(pruned + prune, "pruned") - rows.arm(pruned + prune, "whole")))
    first = places[0][0]
    for text, values in (
        ("random", rows.arm(there + first, "random_prompt")),
        ("random, model\nuntrained", rows.arm(untrained + first, "untrained")),
        ("random, labels\nshuffled", rows.arm(there + first, "permuted_labels")),
    ):
        best.text(0.86, values.mean(), text, ha="right", va="center", fontsize=9)
    for value, mark, text in zip(PAPERS["prompt"]["likeness"].values(), "os", ("same", "another"), strict=True):
        theirs(like, 0, value, mark=mark)
        like.annotate(f"   {text} skill", (0, value), va="center", fontsize=9)
    losses = [100 * (after - before) for before, after in PAPERS["prompt"]["pruning"].values()]
    for shift, loss in zip(np.linspace(-0.25, 0.25, len(losses)), losses, strict=True):
        theirs(cost, shift, loss)
    cost.axhline(0, color="black", linewidth=0.8)
    ticks(best, labels)
    ticks(like, ["paper,\nSST-2", *KINDS.values()])
    ticks(cost, ["paper,\n7 tasks", *KINDS.values()])
    best.set_title("accuracy of the best neuron, by prompt")
    like.set_title("rank correlation of two tasks' neurons")
    cost.set_title("accuracy after pruning, points")
    note(
        figure,
        "white: Wang et al., EMNLP 2022, RoBERTa-base, as a third party notes it; filled: here, mean over seeds",
    )
    return figure


def transfer(rows: Rows) -> Figure | None:
    """Score with another task's prompt over the score with the target's own."""
    within, across = (f"transfer/{name}@prompt/" for name in ("within_type_above_across", "across_types_above_random"))
    places = ("indicators", "indicators_real")
    if not all(rows.has(within + p, across + p) for p in places):
        return None
    figure, (axis,) = new(1, "What a prompt is worth to another task")
    axis.axhline(1, color="black", linewidth=0.8)
    papers = PAPERS["transfer"]["relative"]
    for place, shares in enumerate(papers.values()):
        for shift, mark, value in zip((-0.2, 0, 0.2), "osD", shares.values(), strict=True):
            theirs(axis, place + shift, value, mark=mark)
    for place, name in enumerate(places, len(papers)):
        ours(axis, place - 0.2, rows.arm(within + name, "within"))
        ours(axis, place, rows.arm(within + name, "across"), mark="s", colour=PALE)
        ours(axis, place + 0.2, rows.arm(across + name, "random"), mark="D", colour="#4A4A4A")
    for mark, colour, label in (
        ("o", OURS, "prompt of a task of the same skill"),
        ("s", PALE, "prompt of a task of another skill"),
        ("D", "#4A4A4A", "prompt that was never tuned"),
    ):
        axis.plot([], [], mark, color=colour, markeredgecolor="black", markersize=9, label=label)
    ticks(axis, [*(f"paper,\n{name}" for name in papers), *(f"here,\n{k}" for k in ("made-up language", "real text"))])
    axis.set(ylabel="score / score of the target's own prompt", ylim=(0.3, 1.08))
    axis.legend(loc="lower left", ncols=3, fontsize=10, frameon=False)
    note(figure, "white: Su et al., NAACL 2022, from the released result files; filled: here, mean over seeds")
    return figure


def svco(rows: Rows) -> Figure | None:
    """Hallucination in captions against the base model's, and pairs answered rightly on both images."""
    arms, first, kept = {"dpo": "DPO", "mdpo": "mDPO", "sft": "SFT"}, "@svco/claims", "@svco/captioning+later"
    worse, better = "svco/hallucination_below_{}", "svco/paired_accuracy_above_{}"
    symmetry = f"svco/symmetry_beats_one_side{first}"
    if not rows.has(*(key.format(arm) + first for arm in ("base", *arms) for key in (worse, better)), symmetry):
        return None
    figure, (left, right) = new(2, "S-VCO and its peers: captions, and pairs of pictures")
    left.axhline(0, color="black", linewidth=0.8)
    theirs(left, 0, 100 * PAPERS["svco"]["hallucination"], mark="v")
    left.annotate("  “up to”", (0, 100 * PAPERS["svco"]["hallucination"]), va="center", fontsize=10)
    marks = {first: "o"} | ({kept: "s"} if rows.has(*(worse.format(arm) + kept for arm in ("base", *arms))) else {})
    for beside, (where, mark) in enumerate(marks.items()):
        base = rows.arm(worse.format("base") + where, "base")
        rates = [rows.arm(worse.format("base") + where, "svco")]
        rates += [rows.arm(worse.format(arm) + where, arm) for arm in arms]
        for place, values in enumerate(rates, 1):
            colour = OURS if place == 1 else PALE
            ours(left, place + 0.3 * beside, 100 * (values / base - 1), mark=mark, colour=colour)
    ticks(left, ["paper,\nS-VCO", "S-VCO", *arms.values()])
    left.set_title("objects named that are not there, % above the base model")
    pairs = {"base": rows.arm(better.format("base") + first, "base"), "VCO": rows.arm(symmetry, "vco")}
    pairs |= {label: rows.arm(better.format(arm) + first, arm) for arm, label in arms.items()}
    pairs |= {"S-VCO": rows.arm(better.format("base") + first, "svco")}
    for place, (name, values) in enumerate(pairs.items()):
        ours(right, place, values, colour=OURS if name == "S-VCO" else PALE)
    if rows.has(again := better.format("base") + kept):
        for name, arm, colour in (("base", "base", PALE), ("S-VCO", "svco", OURS)):
            ours(right, list(pairs).index(name) + 0.3, rows.arm(again, arm), mark="s", colour=colour)
    ticks(right, list(pairs))
    right.set_title("pairs answered rightly on both images")
    right.text(0.03, 0.95, "paper: rises\n(figures not read)", transform=right.transAxes, va="top", fontsize=10)
    squares = "; squares: on a base that captions better, at rates that keep likelihood" if kept in marks else ""
    note(
        figure,
        f"white: Wu et al., ACL 2025, abstract, 7B models; filled: drawn scenes here, mean over seeds{squares}",
    )
    return figure


def figures(rows: Sequence[Row]) -> dict[str, Figure]:
    """System -> its figure, of those whose claims are measured."""
    measured = Rows(rows)
    return {draw.__name__: figure for draw in (moe, prompt, transfer, svco) if (figure := draw(measured))}

"""Figures are read in grey: what the legend tells apart differs in its mark or its line, not in its colour alone."""

import pytest
import torch

from lightning_modules.claims.figures import Effect, forest_figure
from lightning_modules.moe import figures as moe
from lightning_modules.skill_neurons import figures as neurons
from lightning_modules.svco import figures as svco
from lightning_modules.svco.losses import SCORES
from lightning_modules.transfer import figures as transfer

NAMES = ("one", "two", "three", "four")
DRAW = torch.Generator().manual_seed(0)
FIGURES = {
    "forest": lambda: forest_figure(
        [Effect(v, "superiority", v, 1, 0, 2) for v in ("reproduced", "not reproduced", "inconclusive")], title=""
    ),
    "ppl_by_domain": lambda: moe.ppl_by_domain(values={n: {d: {1: 60.0, 2: 61.0} for d in "ab"} for n in NAMES}),
    "topk_score": lambda: moe.topk_score_figure(score_DL=torch.rand(7, 3), domains=list("abcdefg"), floor=0.1),
    "lbl_scopes": lambda: moe.lbl_scopes_figure(
        history=[{"step": s, **{f"moe/lbl_{n}": 1.0 for n in ("sequence", "micro", "global")}} for s in range(3)]
    ),
    "curves": lambda: transfer.curves_figure({"task": {n: [{0: 0.5, 10: 0.6}] * 2 for n in NAMES}}),
    "dependency": lambda: svco.dependency_figure(
        dependency={f"{n}/x": 0.1 for n in NAMES}, gain={f"{n}/x": 0.01 for n in NAMES}
    ),
    "conditions": lambda: svco.conditions_figure(
        before={s: torch.randn(20, generator=DRAW) for s in SCORES},
        after={s: torch.randn(20, generator=DRAW) for s in SCORES},
    ),
    "layers": lambda: neurons.layers_figure({n: [0.5, 0.6] for n in NAMES}, skills={n: n for n in NAMES}),
}


def look(handle):
    """(mark, line) of an entry."""
    data = handle.lines[0] if hasattr(handle, "lines") else handle[0] if isinstance(handle, list) else handle
    return str(data.get_marker()) if hasattr(data, "get_marker") else "", str(data.get_linestyle())


@pytest.mark.parametrize("name", FIGURES)
def test_the_entries_of_a_legend_differ_without_colour(name):
    entries = [axis.get_legend_handles_labels()[0] for axis in FIGURES[name]().axes]
    assert max(map(len, entries)) > 1
    for handles in entries:
        found = [look(handle) for handle in handles]
        assert len(set(found)) == len(found), found

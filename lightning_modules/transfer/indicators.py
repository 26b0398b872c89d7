"""What tells beforehand whether a prompt will transfer (section 6 of Su et al.; section 6.2 of Wang et al.).

Shape legend: P prompt tokens, H hidden width, L layers, F neurons of a layer.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn

from datamodules.tasks.datamodule import TaskDataModule
from lightning_modules.prompt.backbone import Backbone
from lightning_modules.prompt.families import answerer_of, down_projections
from lightning_modules.prompt.feed_forward import gates_read
from lightning_modules.skill_neurons.hooks import hooked

# A correlation is a mean of quotients: equal ones may differ by rounding, and a tie counts as reached.
TIE = 1e-9


@dataclass
class Probe:
    """What indicators read of a prompt [P, H]: active [L, F] bool; of skill-neuron indicators predictivity and skill."""

    task: str
    prompt: Tensor
    active: Tensor | None = None
    predictivity: Tensor | None = None
    skill: Tensor | None = None

    def need(self, name: str) -> Tensor:
        found = getattr(self, name)
        if found is None:
            raise ValueError(
                f"indicator of {self.task}: its probe has no {name}; expected one made with `active_LF` (ON) or with "
                "the predictivity of its neurons (on_skill, spearman). Without them take e_concat, e_avg, c_concat or c_avg."
            )
        return found


@torch.no_grad()
def active_LF(backbone: Backbone, data: TaskDataModule, prompt: Tensor) -> Tensor:
    """Which neurons fire at the position that answers, with an empty text (section 6.1 of Su et al.).

    Of an encoder-decoder those of the decoder at its first position, as in the authors' code.
    Where a gate multiplies the neuron its sign is the gate's, as the product's may come from the other factor.
    """
    encoded = data.template.encode([""], data.tokenizer)
    ids = torch.tensor(encoded["rows"])
    batch = {
        **data.common,
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "ask": torch.tensor(encoded["ask"]),
    }
    ask = 0 if backbone.kind == "seq2seq" else int(batch["ask"])
    answers, found = answerer_of(backbone.model), dict[int, Tensor]()
    blocks = down_projections(backbone.model, answers)
    with (
        gates_read(backbone.model, answers) as read,
        hooked(list(blocks.values()), lambda layer, x_BTF: found.__setitem__(layer, x_BTF)),
    ):
        backbone.answer(batch, prompt)
    return torch.stack([read.get(name, found[n])[0, ask] > 0 for n, name in enumerate(blocks)]).cpu()


def e_concat(a: Probe, b: Probe) -> float:
    """1 / (1 + ||P1 - P2||)."""
    return 1 / (1 + float((a.prompt.double() - b.prompt.double()).norm()))


def e_avg(a: Probe, b: Probe) -> float:
    """1 / (1 + mean over token pairs of ||p_i - q_j||)."""
    return 1 / (1 + float(torch.cdist(a.prompt.double(), b.prompt.double()).mean()))


def c_concat(a: Probe, b: Probe) -> float:
    """Cosine of the flattened prompts."""
    return float(nn.functional.cosine_similarity(a.prompt.double().flatten(), b.prompt.double().flatten(), dim=0))


def c_avg(a: Probe, b: Probe) -> float:
    """Mean over token pairs of the cosine."""
    x_PH, y_PH = (nn.functional.normalize(each.prompt.double(), dim=1) for each in (a, b))
    return float((x_PH @ y_PH.T).mean())


def overlap(a_N: Tensor, b_N: Tensor) -> float:
    """ON: |A and B| / sqrt(|A| |B|), the cosine of 0/1 vectors; 0 when either is empty."""
    product = float(a_N.sum()) * float(b_N.sum())
    return float((a_N & b_N).sum()) / product**0.5 if product else 0.0


def on(a: Probe, b: Probe) -> float:
    """Overlap over all layers."""
    return overlap(a.need("active"), b.need("active"))


def on_layers(first: float, last: float) -> Callable[[Probe, Probe], float]:
    """Overlap over a window of layers, bounds as shares of the depth."""

    def windowed(a: Probe, b: Probe) -> float:
        x, y = a.need("active"), b.need("active")
        # A window holds a layer, also of a model that has one alone.
        begin = min(round(first * len(x)), len(x) - 1)
        window = slice(begin, max(begin + 1, round(last * len(x))))
        return overlap(x[window], y[window])

    return windowed


def on_skill(a: Probe, b: Probe) -> float:
    """Overlap restricted to the neurons that are skill neurons of either task (section 6.2 of Wang et al.)."""
    either = a.need("skill") | b.need("skill")
    return overlap(a.need("active")[either], b.need("active")[either])


def spearman(a: Probe, b: Probe) -> float:
    """Rank correlation of the neurons' predictivity."""
    found = stats.spearmanr(a.need("predictivity").flatten().numpy(), b.need("predictivity").flatten().numpy())
    return float(found.statistic)


INDICATORS: dict[str, Callable[[Probe, Probe], float]] = {
    "e_concat": e_concat,
    "e_avg": e_avg,
    "c_concat": c_concat,
    "c_avg": c_avg,
    "on": on,
    "on_bottom": on_layers(0, 1 / 3),
    "on_middle": on_layers(1 / 3, 2 / 3),
    "on_top": on_layers(2 / 3, 1),
    "on_skill": on_skill,
    "spearman": spearman,
}


def per_target(indicator: np.ndarray, transfer: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Spearman of a target's row, over its chosen sources; nan for fewer than two or where either is constant.

    Of two sources it is their order alone, 1 or -1: few tasks share a skill, and the mean over targets still tells more
    right orders from fewer.
    """
    found = []
    for x, y, mask in zip(indicator, transfer, chosen, strict=True):
        few = mask.sum() < 2 or np.ptp(x[mask]) == 0 or np.ptp(y[mask]) == 0
        found.append(np.nan if few else stats.spearmanr(x[mask], y[mask]).statistic)
    return np.array(found)


def correlation(
    indicator: np.ndarray, transfer: np.ndarray, chosen: np.ndarray, *, draws: int = 1000, seed: int = 0
) -> dict[str, float]:
    """Mean over targets of `per_target`, its permutation p-value and 95% bootstrap interval over targets.

    indicator, transfer, chosen: [targets, sources], of the tasks that are exchanged alone. A permutation exchanges tasks in
    rows and columns of the indicator at once (Mantel's test), as cells of one task are not independent.
    """
    rows = per_target(indicator, transfer, chosen)
    kept = rows[~np.isnan(rows)]
    if not len(kept):
        return {"rho": float("nan"), "p": float("nan"), "low": float("nan"), "high": float("nan")}
    draw = np.random.default_rng(seed)
    observed, above = kept.mean(), 0
    for _ in range(draws):
        order = draw.permutation(len(indicator))
        shuffled = per_target(indicator[np.ix_(order, order)], transfer, chosen)
        above += bool(np.nanmean(shuffled) >= observed - TIE) if not np.isnan(shuffled).all() else 1
    low, high = np.nan, np.nan
    if len(kept) > 1:
        means = draw.choice(kept, (draws, len(kept))).mean(1)
        low, high = np.quantile(means, [0.025, 0.975])
    return {"rho": float(observed), "p": (1 + above) / (1 + draws), "low": float(low), "high": float(high)}


def indicator_matrix(probes: Sequence[Probe], name: str) -> np.ndarray:
    function = INDICATORS[name]
    return np.array([[function(a, b) for b in probes] for a in probes])


def choices(skills: Mapping[str, str], tasks: Sequence[str]) -> dict[str, np.ndarray]:
    """Cells [targets, sources] without the diagonal: all, of the same skill, of another."""
    kinds = np.array([skills[t] for t in tasks])
    same = kinds[:, None] == kinds[None]
    off = ~np.eye(len(tasks), dtype=bool)
    return {"all": off, "within": same & off, "across": ~same}

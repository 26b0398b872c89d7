"""What a contrast costs: paired accuracy against the likelihood of descriptions, each objective at every learning rate.

Rules fixed beforehand: as of all arms (`arms`), but no rate is chosen. A point is on the front when no other is at least
as good on both axes and better on one; that of an arm that diverged never is. Language is kept up to `KEPT` nats a token;
the untrained base is a point of every objective, its rate 0.
"""

import math
from collections.abc import Sequence
from itertools import compress
from typing import Any, NamedTuple

from lightning_modules.runtime.study import Desk
from lightning_modules.svco import figures as draw
from lightning_modules.svco.arms import KEPT, Arms
from lightning_modules.svco.evaluation import Found


class Point(NamedTuple):
    """Of one trained arm: the share of pairs answered rightly, and what a description costs in nats."""

    objective: str
    lr: float
    paired: float
    nats: float

    @property
    def diverged(self) -> bool:
        return not math.isfinite(self.nats)

    @property
    def place(self) -> tuple[float, float]:
        """In the figure."""
        return self.nats, self.paired


def on_front(points: Sequence[Point]) -> list[bool]:
    """Of each point whether it has a place and no other is at least as accurate at no more nats, and better in one."""

    def better(a: Point, b: Point) -> bool:
        return a.paired >= b.paired and a.nats <= b.nats and (a.paired, a.nats) != (b.paired, b.nats)

    return [not (point.diverged or any(better(other, point) for other in points)) for point in points]


def kept(points: Sequence[Point], base: Point) -> float:
    """The best paired accuracy among points, the base too, whose descriptions cost at most `KEPT` nats more than its."""
    return max(point.paired for point in (base, *points) if point.nats <= base.nats + KEPT)


class Tradeoff(Arms):
    """A curve an objective through its learning rates, and which of them nothing else beats."""

    def __init__(self, **shared: Any) -> None:
        super().__init__(**shared)
        if self.chosen_by != "paired":
            raise ValueError(
                f"study.chosen_by is {self.chosen_by!r}, and no rate is chosen here: each is a point of the curve. Leave it "
                "out, or take a study that chooses, such as experiment=svco/compare."
            )

    @property
    def unit(self) -> str:
        of = "a held-out description" if self.on_scenes else "a test pair's fitting answer"
        return f"nats a token of {of}"

    def point(self, name: str, lr: float, found: Found) -> Point:
        # Other pairs than scenes have no descriptions apart from their answers.
        answers = -float(found.scores["ww"].sum() / found.tokens.sum())
        nats = math.log(found.metrics["svco/ppl_caption"]) if self.on_scenes else answers
        return Point(name, lr, found.metrics["svco/paired_all"], nats)

    def run(self, desk: Desk) -> dict[str, float]:
        base = self.point("base", 0.0, self.base_measured(desk))
        points = [base]
        for name in self.objectives:
            for arm in self.each_rate(name, desk):
                nowhere = Point(name, arm.lr, math.nan, math.nan)
                points.append(nowhere if arm.diverged else self.point(name, arm.lr, self.measured(arm.vlm)))
        front = list(compress(points, on_front(points)))
        rows = [
            {
                "objective": p.objective,
                "lr": f"{p.lr:.0e}",
                "paired": p.paired,
                "nats": p.nats,
                "on the front": str(p in front),
            }
            for p in points
        ]
        desk.table("tradeoff", rows)
        curves = {name: [p for p in points if p.objective == name] for name in self.objectives}
        drawn = {name: [p.place for p in own if not p.diverged] for name, own in curves.items()}
        drawn = {name: places for name, places in drawn.items() if places}
        ringed = [p.place for p in front]
        desk.figure("tradeoff", draw.tradeoff_figure(curves=drawn, base=base.place, front=ringed, xlabel=self.unit))
        metrics = {"svco/paired_base": base.paired, "svco/nats_base": base.nats}
        for name, own in curves.items():
            metrics[f"svco/paired_kept_{name}"] = kept(own, base)
            metrics[f"svco/paired_best_{name}"] = max((p.paired for p in own if not p.diverged), default=math.nan)
            metrics[f"svco/rates_on_front_{name}"] = float(sum(p in front for p in own))
        return metrics

"""What each system's part of the report shows beside its effects: drawn from the runs behind the claims, by seed."""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure
from mlflow import MlflowClient

from lightning_modules.claims import figures as draw
from lightning_modules.claims.evidence import Row
from lightning_modules.moe import figures as moe_figures
from lightning_modules.moe.specialization import kept_share
from lightning_modules.skill_neurons import figures as prompt_figures
from lightning_modules.transfer import figures as transfer_figures

# Balance batch sizes, in sequences, of the arms of the claims about it (32 sequences a step, micro-batches of 2).
DOSES = {"micro": 2, "four": 4, "eight": 8, "sixteen": 16, "global": 32}


class Gallery:
    """Figures of one scale and kind of data.

    Args:
        rows: with at least one seed; others show nothing. client: where the artifacts of their runs are.
    """

    def __init__(self, rows: Sequence[Row], client: MlflowClient) -> None:
        self.rows, self.client = {row.name.split("/")[1]: row for row in rows if row.finding}, client

    def figures(self, system: str) -> dict[str, Figure]:
        """Name -> figure, of the pictures whose claims have runs."""
        return {name: figure for name, make in PICTURES[system].items() if (figure := make(self))}

    def artifacts(self, claim: str, arm: str, path: str) -> list[Path]:
        """The artifact `path` of every seed's run of an arm; none when the claim has no run or the run no such file."""
        # Of a row that was kept the runs are in another MLflow.
        if claim not in self.rows or not self.rows[claim].origin.experiments:
            return []
        found = []
        for runs in self.rows[claim].runs.values():
            listed = [f.path for f in self.client.list_artifacts(runs[arm], str(Path(path).parent))]
            if path in listed:
                found.append(Path(self.client.download_artifacts(runs[arm], path)))
        return found

    def tables(self, claim: str, arm: str, name: str) -> list[list[dict[str, str]]]:
        return [list(csv.DictReader(p.open())) for p in self.artifacts(claim, arm, f"tables/{name}.csv")]

    def scope(self) -> Figure | None:
        shares = {}
        for arm in ("micro", "global"):
            for path in self.artifacts("global_specialises", arm, "figures/routing_test.pt")[:1]:
                shares[f"{arm} scope"], domains = kept_share(torch.load(path, weights_only=True))
        return moe_figures.compare_heatmaps(runs=shares, domains=domains) if len(shares) == 2 else None

    def doses(self) -> Figure | None:
        wanted = {"ppl_falls_with_bsz": "test perplexity", "specialisation_rises_with_bsz": "I(expert; domain), nats"}
        if not set(wanted) <= set(self.rows):
            return None
        found = {
            label: {DOSES[arm]: self.rows[name].arm(arm) for arm in self.rows[name].claim.arms}
            for name, label in wanted.items()
        }
        return draw.dose_figure(
            found, xlabel="balance batch size, sequences", title="Perplexity and specialisation by scope of the balance"
        )

    def perturbation(self) -> Figure | None:
        curves: dict[str, dict[str, dict[float, list[float]]]] = {}
        for table in self.tables("perturbing_skill_hurts_more_than_random", "skill", "perturbation"):
            for line in table:
                arms = curves.setdefault(line["kind"], {}).setdefault(line["neurons"], {})
                arms.setdefault(float(line["share"]), []).append(float(line["accuracy"]))
        return prompt_figures.perturbation_figure(curves) if curves else None

    def likeness(self) -> Figure | None:
        return self._matrix("similar_tasks_have_similar_neurons", "within", "spearman", prompt_figures.spearman_figure)

    def transfer(self) -> Figure | None:
        return self._matrix("within_type_above_across", "within", "relative", transfer_figures.matrix_figure)

    def tuning(self) -> Figure | None:
        curves: dict[str, dict[str, dict[tuple[int, str], dict[int, float]]]] = {}
        for number, table in enumerate(self.tables("tpt_task_converges_faster", "tpt", "curves")):
            for line in table:
                trials = curves.setdefault(line["target"], {}).setdefault(line["start"], {})
                trials.setdefault((number, line["trial"]), {})[int(line["step"])] = float(line["accuracy"])
        if not curves:
            return None
        return transfer_figures.curves_figure(
            {target: {start: list(t.values()) for start, t in starts.items()} for target, starts in curves.items()}
        )

    def arms(self) -> Figure | None:
        shown = {name: {a: row.arm(a) for a in row.claim.arms} for name, row in self.rows.items()}
        # The unit is the effect's: of a logarithm it says nothing of the arms.
        units = {
            name: row.claim.unit if row.claim.transform == "none" else row.claim.metric.split("/")[-1]
            for name, row in self.rows.items()
        }
        return draw.arms_figure(shown, units=units, title="What each arm measured, by seed") if shown else None

    def _matrix(self, claim: str, arm: str, table: str, figure: Callable[..., Figure]) -> Figure | None:
        """A table with a row for every task, mean over seeds."""
        found = self.tables(claim, arm, table)
        if not found:
            return None
        labels = ("task", "target", "skill")
        skills = {line.get("task") or line["target"]: line.get("skill", "") for line in found[0]}
        columns = [column for column in found[0][0] if column not in labels]
        values = torch.tensor([[[float(line[column]) for column in columns] for line in t] for t in found]).mean(0)
        return figure(values, tasks=list(skills), skills=skills)


PICTURES: dict[str, dict[str, Callable[[Gallery], Figure | None]]] = {
    "moe": {"scope": Gallery.scope, "doses": Gallery.doses, "arms": Gallery.arms},
    "prompt": {"perturbation": Gallery.perturbation, "likeness": Gallery.likeness, "arms": Gallery.arms},
    "transfer": {"matrix": Gallery.transfer, "tuning": Gallery.tuning, "arms": Gallery.arms},
    "svco": {"arms": Gallery.arms},
}

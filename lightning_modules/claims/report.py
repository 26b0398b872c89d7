"""`make report`: the claims table from MLflow, as claims.json and claims.md, logged on a run of its own.

    python -m lightning_modules.claims.report [--out FOLDER] [--uri sqlite:///mlflow.db] [--keep]

With --keep a row that docs/results/claims.json has with as many seeds stays as it was measured there.
The same runs give the same files, byte for byte: nothing in them is of the moment they were written.
"""

import argparse
import json
import os
import re
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import yaml
from mlflow import MlflowClient

from lightning_modules.claims import costs, kept, learned, look, talk
from lightning_modules.claims import figures as draw
from lightning_modules.claims import statistics as st
from lightning_modules.claims.claim import SERIES, SYSTEMS
from lightning_modules.claims.evidence import AT_ONCE, Row, finished, rows, settled_later
from lightning_modules.claims.fixed import with_fixed
from lightning_modules.claims.pictures import PICTURES, Gallery
from lightning_modules.claims.table import load_all
from lightning_modules.claims.views import as_json, title, view
from lightning_modules.common import credentials
from lightning_modules.common.choices import nearest
from lightning_modules.common.files import write_atomically
from lightning_modules.common.style import save
from lightning_modules.look.page import LOOK, can_be_drawn
from lightning_modules.runtime.sweep import PROJECT

RESULTS = PROJECT / "docs" / "results"
OWN = PROJECT / "runs" / "claims"
TITLES = {
    "moe": "Global-batch load balancing (Qiu et al., ACL 2025)",
    "prompt": "Skill neurons (Wang et al., EMNLP 2022)",
    "transfer": "Prompt transfer (Su et al., NAACL 2022)",
    "svco": "S-VCO (Wu et al., ACL 2025)",
}
VERDICTS = (st.REPRODUCED, st.NOT_REPRODUCED, st.INCONCLUSIVE)
MARKS = ("<!-- claims: written by make report -->", "<!-- end of claims -->")


def load_discussion(path: Path, known: Sequence[Row]) -> dict[str, str]:
    """Row key (`table/name@experiment`, or `table/name` for every trial) -> why the result may differ.

    ValueError names a key that is no row.
    """
    if not path.is_file():
        return {}
    content = yaml.safe_load(path.read_text()) or {}
    names = [name for row in known for name in (row.key, row.name)]
    if wrong := [key for key in content if key not in names]:
        raise ValueError(f"{path}: {wrong[0]} is no claim{nearest(wrong[0], names)}")
    return content


def forests(found: Sequence[Row]) -> dict[str, Any]:
    """System -> its forest plot, of rows with an effect."""
    figures = {}
    for system in SYSTEMS:
        lines = [
            draw.Effect(
                title(row, scale=True),
                row.claim.rule,
                row.verdict,
                *(value / row.claim.margin for value in (row.finding.effect, row.finding.low, row.finding.high)),
            )
            for row in found
            if row.claim.system == system and row.finding
        ]
        if lines:
            figures[system] = draw.forest_figure(lines, title=TITLES[system])
    return figures


def sentences(found: Sequence[Row]) -> str:
    """Markdown of the README's front: a sentence a paper, which counts its verdicts and leads to its claims."""
    text = ""
    for system in SYSTEMS:
        verdicts = [row.verdict for row in found if row.claim.system == system and row.finding]
        if verdicts:
            place = re.sub(r"[^a-z0-9 -]", "", TITLES[system].lower()).replace(" ", "-")
            counts = ", ".join(f"**{verdicts.count(verdict)}** {verdict}" for verdict in VERDICTS)
            text += f"- [{TITLES[system]}](docs/results/claims.md#{place}): of {len(verdicts)} tried, {counts}.\n"
    return text


def write(found: Sequence[Row], *, client: MlflowClient, out: Path, discussion: Path) -> list[Path]:
    """Every file of the report; their paths. What was there before is replaced file by file.

    A picture that is drawn from files of runs which are in another MLflow stays as it is.
    """
    why = load_discussion(discussion, found)
    (out / "claims").mkdir(parents=True, exist_ok=True)
    later = settled_later(found)
    sections, pictures = [], {}
    drawn = {"forest": forests(found), "learned": talk.figures(found)}
    for system in SYSTEMS:
        own = [row for row in found if row.claim.system == system]
        shown = {name: figures[system] for name, figures in drawn.items() if system in figures}
        shown |= Gallery(_pictured(own), client).figures(system)
        for name, figure in shown.items():
            pictures[f"{system}_{name}"] = out / "claims" / f"{system}_{name}.png"
            save(figure, pictures[f"{system}_{name}"], metadata={"Software": None})
        views = [view(r, _reason(r, why), later=r.key in later) for r in own]
        there = {path.stem for path in (out / "claims").glob(f"{system}_*.png")}
        images = [name for n in ("forest", *PICTURES[system]) if (name := f"{system}_{n}") in there]
        lines = {"rows": [v for v in views if v["measured"]], "left": [v for v in views if not v["measured"]]}
        told = {"title": TITLES[system], "images": images, "tally": tally(own), "effort": _effort(own)}
        sections.append({**told, **lines})
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), trim_blocks=True, lstrip_blocks=True, autoescape=False
    )
    machines = "; ".join(sorted({row.origin.machine for row in found if row.finding}))
    whole: dict[str, Any] = {"verdicts": VERDICTS, "machine": machines, "steady": steady(found), "hours": hours(found)}
    text = environment.get_template("report.md.jinja").render(sections=sections, **whole)
    write_atomically(out / "claims.md", text.rstrip() + "\n")
    write_atomically(out / "claims.json", json.dumps([as_json(row) for row in found], indent=1) + "\n")
    files = [*pictures.values(), out / "claims.md", out / "claims.json"]
    if page := learned.page(found, steady=steady(found), tally=tally(found)):
        write_atomically(out / "learned.md", page)
        files.append(out / "learned.md")
    return files


def _reason(row: Row, why: Mapping[str, str]) -> str:
    """What is said beside a row; of a reproduced one only what was written for it alone."""
    return why.get(row.key) or ("" if row.verdict == st.REPRODUCED else why.get(row.name, ""))


def tally(found: Sequence[Row]) -> dict[str, int]:
    """Verdict -> number of rows, of those with runs."""
    return {verdict: sum(row.verdict == verdict and row.finding is not None for row in found) for verdict in VERDICTS}


def steady(found: Sequence[Row]) -> dict[str, int]:
    """How many rows are decided, and how many of these are decided alike at half and at twice the margin.

    fallen, firm: rows not reproduced, and those of them whose test stays below the level after Holm's correction.
    asked, settled: claims of the small scale by data, and those of them that their latest series decided.
    """
    decided = [row for row in found if row.strength and row.verdict != st.INCONCLUSIVE]
    alike = [row for row in decided if row.strength and set(row.strength.sensitivity.values()) == {row.verdict}]
    measured = [row for row in found if row.finding and row.trial.scale == "small"]
    measured.sort(key=lambda row: SERIES.index(row.trial.series))
    latest = {(row.name, row.trial.data): row.verdict for row in measured}
    settled = [verdict for verdict in latest.values() if verdict != st.INCONCLUSIVE]
    fallen = [row for row in decided if row.verdict == st.NOT_REPRODUCED]
    return {
        "decided": len(decided),
        "alike": len(alike),
        "fallen": len(fallen),
        "firm": sum(row.against_holm < st.ALPHA for row in fallen),
        "asked": len(latest),
        "settled": len(settled),
    }


def _effort(own: Sequence[Row]) -> str:
    """How many runs are behind the rows, and how long they took one after the other."""
    minutes = {run: length for row in own for run, length in row.origin.minutes.items()}
    return f"{len(minutes)} runs, {sum(minutes.values()) / 60:.1f} hours one after the other" if minutes else ""


def hours(found: Sequence[Row]) -> list[dict[str, Any]]:
    """What each series of the small scale took on two cores, in hours, and the costliest experiment of it."""
    told = []
    for series in SERIES:
        own = [row for row in found if (row.trial.scale, row.trial.series) == ("small", series)]
        runs = {run: (row.trial.experiment, length) for row in own for run, length in row.origin.minutes.items()}
        of: dict[str, float] = defaultdict(float)
        for experiment, length in runs.values():
            of[experiment] += length / AT_ONCE["small"] / 60
        if of:
            most = max(of, key=of.__getitem__)
            told.append({"series": series, "all": sum(of.values()), "most": most, "its": of[most]})
    return told


def _pictured(own: Sequence[Row]) -> list[Row]:
    """Rows of one scale and kind of data, which is what a picture can show: the first of these with runs."""
    kinds = [(scale, data) for scale in ("small", "gpu") for data in ("synthetic", "real")]
    first = [r for r in own if r.finding and r.trial.series == "first"]
    groups = [[r for r in first if (r.trial.scale, r.trial.data) == kind] for kind in kinds]
    return next((group for group in groups if group), [])


def with_planned(found: Sequence[Row]) -> list[Row]:
    """Rows with what their runs would take, where that was planned."""
    plans = costs.load()
    return [row._replace(planned=costs.planned(row.claim, row.trial, plans)) for row in found]


def lost(found: Sequence[Row], path: Path) -> list[str]:
    """Rows of the table at `path` that have fewer seeds in `found`: what writing over it would lose."""
    now = {row.key: len(row.seeds) for row in found}
    before = json.loads(path.read_text()) if path.is_file() else []
    return [row["claim"] for row in before if len(row["seeds"]) > now.get(row.get("row"), 0)]


def put_in_readme(path: Path, table: str) -> None:
    """Replace what stands between the two marks; a README without them is left as it is."""
    before, begin, rest = path.read_text().partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if end:
        write_atomically(path, f"{before}{begin}\n{table}{end}{after}")


def log(client: MlflowClient, files: Sequence[Path], found: Sequence[Row]) -> str:
    """A run of its own in the experiment `claims/report`, with the files and the number of each verdict; its id."""
    known = client.get_experiment_by_name("claims/report")
    experiment = known.experiment_id if known else client.create_experiment("claims/report", str(PROJECT / "mlruns"))
    run = client.create_run(experiment, run_name="claims").info.run_id
    for path in files:
        client.log_artifact(run, str(path), "claims" if path.suffix == ".png" else None)
    for verdict, count in tally(found).items():
        client.log_metric(run, f"claims/{verdict.replace(' ', '_')}", count)
    client.set_terminated(run)
    return run


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="default: docs/results, or runs/claims if that would lose rows there")
    parser.add_argument("--uri", default=f"sqlite:///{PROJECT}/mlflow.db")
    parser.add_argument(
        "--keep", action="store_true", help="rows of docs/results/claims.json stay, if no more is known"
    )
    given = parser.parse_args(argv)
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    client = credentials.client(credentials.keep(given.uri))
    try:
        claims, runs = load_all(), finished(client)
        old = kept.load(RESULTS / "claims.json", claims) if given.keep else {}
        found = with_planned([with_fixed(row) for row in rows(claims, runs, old)])
        if not any(row.finding for row in found):
            raise ValueError(f"{given.uri} holds no run of a claim; start with `make claims`.")
        gone = [] if given.out else lost(found, RESULTS / "claims.json")
        out = given.out or (OWN if gone else RESULTS)
        out.mkdir(parents=True, exist_ok=True)
        files = write(found, client=client, out=out, discussion=RESULTS / "claims_discussion.yaml")
        # Not beside the table, which is committed: it holds what draws it, twice what it shows.
        if can_be_drawn(later="make look-claims makes it"):
            files.append(look.write(found, OWN / LOOK))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if gone:
        print(f"{RESULTS}: left as it is, as {len(gone)} of its rows have more seeds there than in {given.uri}.")
    if out == RESULTS:
        put_in_readme(PROJECT / "README.md", sentences(found))
    run = log(client, files, found)
    drawn = f"; {OWN / LOOK}" if OWN / LOOK in files else ""
    print(
        f"{out}/claims.md, claims.json and {sum(f.suffix == '.png' for f in files)} figures{drawn}; MLflow run {run}."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

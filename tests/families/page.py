"""docs/families.md from docs/results/families.json: `python -m tests.families.page` writes it."""

import json

from tests.families.walk import VERDICTS
from tests.results import PROJECT, RESULTS

PAGE = PROJECT / "docs" / "families.md"
SYSTEMS = {
    "prompt": "Language models (prompts, skill neurons)",
    "moe": "Mixtures of experts (load balancing)",
    "svco": "Vision-language models (S-VCO)",
}
HEAD = """# Which models are computed as transformers computes them

A model from the hub is checked when it is first loaded: one small batch goes through its own forward and through the way
Facet asks it. A difference above 1e-4 of the largest logit, a prompt that has no gradient, or a choice of experts that is
read otherwise is refused in one line that names the family and the difference. That a model was checked is kept by content
under `.cache/checked`, so it costs once.

`make families` does the same for every class of transformers' mappings, tiny and with random weights, and goes further: a
prompt's gradient is compared with the plain model's; with its neurons zeroed each feed-forward block must give its bias, and
with neurons removed what they said on average. With each vision-language family that is right, the documented training
(`experiment=svco/train` with `model=vlm` and `data=mvc`) is run whole, in full and with LoRA: what it exports must load by
transformers alone, have changed but for its vision tower, and judge the held-out pairs as the run did.
`.venv/bin/python -m tests.families.text CLASS CLASS` walks a part; with `FACET_RESULTS=1` it writes the rows. This page is
made from the table by `.venv/bin/python -m tests.families.page`.
"""


def cell(text):
    return " ".join(str(text).split()).replace("|", "\\|").replace("{", "(").replace("}", ")")


def page(rows):
    lines = [HEAD]
    for system, title in SYSTEMS.items():
        own = [row for row in rows if row["system"] == system]
        if not own:
            continue
        counts = [(v, sum(row["verdict"] == v for row in own)) for v in VERDICTS]
        lines += [f"## {title}", "", ", ".join(f"{n} {v}" for v, n in counts) + ".", ""]
        right = sorted({row["family"] for row in own if row["verdict"] == "right"})
        lines += [f"Right: {', '.join(right)}.", ""]
        if system == "prompt":
            known = sorted({row["family"] for row in own if row.get("neurons") == "right"})
            lines += [f"Neurons right: {', '.join(known)}.", ""]
        if system == "moe" and any("documents" in row for row in own):
            apart = sorted({row["family"] for row in own if row.get("documents") == "right"})
            lines += [
                f"Documents apart (`data.documents=apart`), each as by itself: {', '.join(apart)}; refused elsewhere.",
                "",
            ]
        if system == "svco":
            whole = sorted({row["family"] for row in own if row.get("commands") == "whole"})
            lines += [f"Commands run whole: {', '.join(whole)}.", ""]
        others = [row for row in own if row["verdict"] != "right"]
        if others:
            lines += ["| class | verdict | why |", "|---|---|---|"]
            lines += [f"| {row['class'] or row['family']} | {row['verdict']} | {cell(row['why'])} |" for row in others]
            lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def made():
    return page(json.loads((RESULTS / "families.json").read_text()))


if __name__ == "__main__":
    PAGE.write_text(made())

"""What the page of prompt transfer shows: the matrix, cell by cell, with indicators and the words nearest to each prompt.

Shape legend: P prompt tokens, H hidden width, V words of the vocabulary.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_modules.prompt.backbone import Backbone
from lightning_modules.prompt.families import word_embedding

KIND, TITLE = "matrix", "Which prompt answers which task"
# Prompts that nothing trained: noise, and words as a person would write them, which is no null.
RANDOM, HARD = "random prompt", "hard prompt"


def matrix_page(
    *,
    tasks: Sequence[str],
    skills: Mapping[str, str],
    matrices: Mapping[str, Any],
    words: Mapping[str, list[list[tuple[str, float]]]],
    name: str,
    controls: Collection[str] = (),
) -> dict[str, Any]:
    """matrices: measure -> [targets, sources or more]; columns after the tasks are the random and the hard prompt.

    controls: tasks that no mean is of.
    """
    sources = [*tasks, RANDOM, HARD]
    plain = {
        measure: [
            [round(v, 5) if v == v else None for v in row] + [None] * (len(sources) - len(row))
            for row in torch.as_tensor(matrix).tolist()
        ]
        for measure, matrix in matrices.items()
    }
    kinds = [[kind(target, source, skills) for source in sources] for target in tasks]
    away: dict[str, list[float]] = {k: [] for k in KINDS}
    for target, row, names in zip(tasks, plain["relative"], kinds, strict=True):
        for source, value, k in zip(sources, row, names, strict=True):
            if k in away and value is not None and not {target, source} & set(controls):
                away[k].append(value)
    said = [f"{k} {sum(values) / len(values):.2f}" for k, values in away.items() if values]
    return {
        "name": name,
        "verdict": f"Of the target's own score a prompt of another task keeps, on average: {', '.join(said)}.",
        "targets": list(tasks),
        "sources": sources,
        "kinds": kinds,
        "matrices": plain,
        "words": dict(words),
    }


KINDS = ("same type", "another type", RANDOM)


def kind(target: str, source: str, skills: Mapping[str, str]) -> str:
    if source in (RANDOM, HARD):
        return source
    if source == target:
        return "its own"
    return "same type" if skills[source] == skills[target] else "another type"


@torch.no_grad()
def nearest_words(backbone: Backbone, prompt_PH: Tensor, *, most: int = 5) -> list[list[tuple[str, float]]]:
    """For each prompt token the words whose embeddings point most nearly its way, with the cosine."""
    table_VH = torch.nn.functional.normalize(word_embedding(backbone.model).weight.float(), dim=1)
    cosine_PV = torch.nn.functional.normalize(prompt_PH.float().to(table_VH.device), dim=1) @ table_VH.T
    values, ids = cosine_PV.topk(most, dim=1)
    words = [[backbone.tokenizer.decode([i]) for i in row] for row in ids.tolist()]
    return [list(zip(w, [round(v, 3) for v in vs], strict=True)) for w, vs in zip(words, values.tolist(), strict=True)]


def without_text(found: Mapping[str, Any]) -> dict[str, Any]:
    """A page's part of a study, the words nearest to its prompts left out."""
    return {**found, "words": {}}

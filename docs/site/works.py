"""The page of what was tried and how it went, from docs/results/*.json."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HEAD = """# What works

Every row was tried, and the command repeats it. Models are tiny and random: what is tried is whether a family is computed as
its own code computes it, not what it learns. What is not listed was not tried.
"""
# File, heading, what stands above the table, its columns: key of a row -> heading.
LISTS = (
    (
        "families",
        "Model families",
        "Difference: the largest relative difference from the model's own plain forward. Refused: by name, before anything "
        "is trained.",
        {"system": "system", "family": "family", "verdict": "verdict", "difference": "difference", "why": "why"},
    ),
    (
        "files",
        "Files",
        "What each reader of your own data does with odd files. A refusal names the file and the line.",
        {"reader": "reader", "case": "file", "verdict": "verdict", "said": "what is said"},
    ),
    (
        "machines",
        "Machines",
        "A pretended device refuses what a GPU refuses and computes on the CPU.",
        {
            "machine": "machine",
            "case": "case",
            "steps": "steps",
            "equal_to": "equal to",
            "difference": "difference",
            "ok": "ok",
        },
    ),
    (
        "errors",
        "Wrong commands",
        "What a mistake is answered with, and after how many seconds.",
        {"command": "command", "exit": "exit", "seconds": "seconds", "said": "what is said"},
    ),
)


def page(results: Path) -> str:
    """Markdown; a list that has not been made yet has no section."""
    parts = [HEAD]
    for name, heading, told, columns in LISTS:
        path = results / f"{name}.json"
        if path.is_file():
            rows = json.loads(path.read_text())
            parts.append(f"## {heading}\n\n{told} {count(rows)}\n\n{table(rows, columns)}")
    return "\n".join(parts)


def count(rows: Sequence[dict[str, Any]]) -> str:
    commands = sorted({row["command"] for row in rows if str(row.get("command", "")).startswith("make ")})
    by = f", by {' and '.join(f'`{c}`' for c in commands)}" if commands else ""
    return f"{len(rows)} rows{by}."


def table(rows: Sequence[dict[str, Any]], columns: dict[str, str]) -> str:
    lines = ["| " + " | ".join(columns.values()) + " |", "| " + " | ".join("---" for _ in columns) + " |"]
    lines += ["| " + " | ".join(cell(row.get(key), key) for key in columns) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def cell(value: Any, key: str) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.2g}"
    text = " ".join(str(value).split()).replace("|", "\\|")
    return f"`{text}`" if key == "command" else text.replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_")

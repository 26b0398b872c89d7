"""EleutherAI's lm-eval harness on a run's `export/`:

python -m lightning_modules.moe.harness runs/.../export --tasks hellaswag,arc_easy [--include DIR] [--limit 100]

Its tasks read their data from the Hugging Face hub or from where the task's file says; `--include` adds a folder of
one's own task files. Results go to harness.json beside the export.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

from rich.console import Console

from lightning_modules.common.tables import terminal


def evaluate(
    export: Path, *, tasks: list[str], include: Path | None = None, limit: int | None = None, batch_size: int = 16
) -> dict[str, dict[str, Any]]:
    """{task: {metric: value}} of the harness. ValueError for no export, an unknown task, or data that is not at hand."""
    if not (export / "config.json").is_file():
        raise ValueError(f"{export} holds no config.json; expected the export/ folder of a finished run.")
    try:
        from lm_eval import simple_evaluate
        from lm_eval.tasks import TaskManager
    except ImportError:
        raise ValueError("lm-eval is not installed; `pip install lm-eval==0.4.13` (the extra `eval`).") from None
    manager = TaskManager(include_path=str(include) if include else None)
    unknown = [name for name in tasks if name not in manager.all_tasks]
    if unknown:
        raise ValueError(
            f"lm-eval knows no task {', '.join(unknown)}; `lm_eval ls tasks` lists them, --include adds yours."
        )
    try:
        found = simple_evaluate(
            model="hf",
            model_args={"pretrained": str(export.absolute()), "dtype": "float32"},
            tasks=tasks,
            task_manager=manager,
            limit=limit,
            batch_size=batch_size,
            device="cuda" if os.environ.get("CUDA_VISIBLE_DEVICES") else "cpu",
        )
    except (ConnectionError, FileNotFoundError) as error:
        raise ValueError(
            f"the data of {', '.join(tasks)} is not at hand ({error}); run once where the hub can be reached, or point "
            "--include at task files with local data."
        ) from error
    return {task: {k: v for k, v in row.items() if isinstance(v, float)} for task, row in found["results"].items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("export", type=Path)
    parser.add_argument("--tasks", required=True)
    parser.add_argument("--include", type=Path)
    parser.add_argument("--limit", type=int)
    given = parser.parse_args()
    try:
        results = evaluate(given.export, tasks=given.tasks.split(","), include=given.include, limit=given.limit)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error
    (given.export.parent / "harness.json").write_text(json.dumps(results, indent=1, sort_keys=True))
    rows = [[task, metric, f"{value:.4f}"] for task, row in results.items() for metric, value in row.items()]
    Console().print(terminal(["task", "metric", "value"], rows))


if __name__ == "__main__":
    main()

"""What vl-convert puts together for pages takes two seconds and is always the same: tests have it done once.

A run keeps it in its own cache, and tests give nearly every run a cache of its own. Really started processes make it anew.
"""

import hashlib
from importlib.metadata import version
from pathlib import Path

KEPT = Path(__file__).parents[1] / ".cache" / "tests"


def put_together_once() -> None:
    """In this process and its forks; kept in the project's .cache by vl-convert's version and what is asked of it."""
    import vl_convert

    made = vl_convert.javascript_bundle

    def bundle(asked: str | None = None) -> str:
        name = hashlib.sha256(f"{version('vl-convert-python')}\n{asked}".encode()).hexdigest()
        path = KEPT / f"charts-{name[:16]}.js"
        if not path.exists():
            # Here: the process that forks imports nothing of Facet.
            from lightning_modules.common.files import write_atomically

            KEPT.mkdir(parents=True, exist_ok=True)
            write_atomically(path, made(asked))
        return path.read_text()

    vl_convert.javascript_bundle = bundle

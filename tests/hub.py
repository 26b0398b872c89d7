"""A model hub's cache on this machine, as its library leaves it; nothing is reached."""

from pathlib import Path


def snapshot(monkeypatch, cache: Path, name: str, *, revision: str, commit: str) -> Path:
    """The folder, not made yet, of `name` at `commit`, which `revision` names from now on."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    kept = cache / f"models--{name.replace('/', '--')}"
    (kept / "refs").mkdir(parents=True, exist_ok=True)
    (kept / "refs" / revision).write_text(commit)
    return kept / "snapshots" / commit

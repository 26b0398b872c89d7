"""torchmetrics without its extras: Lightning imports it, and it imports scipy.signal, matplotlib and transformers.

It does so for metrics and plots that nothing here asks for, and it takes a quarter of the seconds until a training
begins. While torchmetrics is imported, and for it alone, its extras count as not installed, a state that it is made for.
"""

import contextlib
import importlib.util
import sys
from collections.abc import Iterator
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from lightning_modules.runtime import trust

NAME = "torchmetrics"
EXTRAS = frozenset({"scipy", "matplotlib", "transformers"})


def prepare() -> None:
    """To be called before Lightning is imported; without effect where torchmetrics is there already, or where a user's
    package (FACET_PACKAGES) may want its extras."""
    done = NAME in sys.modules or any(isinstance(finder, _Finder) for finder in sys.meta_path)
    if not done and not trust.packages():
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    def find_spec(self, name: str, *_: Any) -> ModuleSpec | None:
        if name != NAME:
            return None
        sys.meta_path.remove(self)
        found = importlib.util.find_spec(NAME)
        if found is not None and found.loader is not None:
            whole = found.loader.exec_module

            def lean(module: ModuleType) -> None:
                with without(EXTRAS):
                    whole(module)

            found.loader.exec_module = lean  # type: ignore[method-assign]
        return found


@contextlib.contextmanager
def without(extras: frozenset[str]) -> Iterator[None]:
    """Whoever asks lightning_utilities for one of them is told that it is not there. Without effect where an update has
    moved what answers."""
    from lightning_utilities.core import imports
    from packaging.requirements import Requirement

    if not hasattr(imports, "package_available") or not hasattr(imports.RequirementCache, "_check_available"):
        yield
        return
    available, check = imports.package_available, imports.RequirementCache._check_available

    def checked(asked: imports.RequirementCache) -> None:
        if asked.requirement and Requirement(asked.requirement).name in extras:
            asked.available, asked.message = False, f"{asked.requirement!r} is left out of every run."
        check(asked)

    imports.package_available = lambda name: name not in extras and available(name)  # type: ignore[assignment]
    imports.RequirementCache._check_available = checked  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        imports.package_available, imports.RequirementCache._check_available = available, check  # type: ignore[method-assign]

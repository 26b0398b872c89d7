"""Libraries without what they load for others, which takes seconds before a training begins.

Lightning imports torchmetrics, and that scipy.signal, matplotlib and transformers for metrics and plots that nothing here
asks for. While torchmetrics is imported, and for it alone, these count as not installed, a state that it is made for.
transformers reads its two thousand files of models twice, and imports scipy.optimize for the loss of object detection.
They are read once, and scipy.optimize is imported when such a loss is computed.
"""

import contextlib
import functools
import gc
import importlib.util
import sys
from collections.abc import Callable, Iterator
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from lightning_modules.runtime import trust

EXTRAS = frozenset({"scipy", "matplotlib", "transformers"})


def prepare() -> None:
    """To be called before Lightning and transformers are imported; without effect on what is there already, and where a
    user's package (FACET_PACKAGES) may want all of it."""
    if not trust.packages() and not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Round imports, before anything is made that could be let go.

    Nothing that an import makes ever is: looking through it meanwhile is a sixth of its time, and from then on each full
    collection would look through all of it again.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextlib.contextmanager
def without_extras(_: ModuleType) -> Iterator[None]:
    """Whoever asks lightning_utilities for one of them is told that it is not there. Without effect where an update has
    moved what answers."""
    from lightning_utilities.core import imports
    from packaging.requirements import Requirement

    if not hasattr(imports, "package_available") or not hasattr(imports.RequirementCache, "_check_available"):
        yield
        return
    available, check = imports.package_available, imports.RequirementCache._check_available

    def checked(asked: imports.RequirementCache) -> None:
        if asked.requirement and Requirement(asked.requirement).name in EXTRAS:
            asked.available, asked.message = False, f"{asked.requirement!r} is left out of every run."
        check(asked)

    imports.package_available = lambda name: name not in EXTRAS and available(name)  # type: ignore[assignment]
    imports.RequirementCache._check_available = checked  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        imports.package_available, imports.RequirementCache._check_available = available, check  # type: ignore[method-assign]


@contextlib.contextmanager
def scanned_once(module: ModuleType) -> Iterator[None]:
    """Its cache has room for 128 folders of models; there are five hundred, each read again by whoever asks next."""
    yield
    scan = getattr(module, "create_import_structure_from_path", None)
    if scan is not None and hasattr(scan, "__wrapped__"):
        module.create_import_structure_from_path = functools.cache(scan.__wrapped__)  # type: ignore[attr-defined]


@contextlib.contextmanager
def matched_later(_: ModuleType) -> Iterator[None]:
    """Losses of detection match boxes by scipy.optimize, which is imported when the first of them does."""
    name = "scipy.optimize"
    if name in sys.modules:
        yield
        return

    def linear_sum_assignment(*arrays: Any, **settings: Any) -> Any:
        return importlib.import_module(name).linear_sum_assignment(*arrays, **settings)

    sys.modules[name] = stand_in = ModuleType(name)
    stand_in.linear_sum_assignment = linear_sum_assignment  # type: ignore[attr-defined]
    try:
        yield
    finally:
        del sys.modules[name]


# A module, and what lasts while it is imported.
AROUND: dict[str, Callable[[ModuleType], contextlib.AbstractContextManager[None]]] = {
    "torchmetrics": without_extras,
    "transformers.utils.import_utils": scanned_once,
    "transformers.loss.loss_utils": matched_later,
}


class _Finder(MetaPathFinder):
    def __init__(self) -> None:
        self.waiting = dict(AROUND)

    def find_spec(self, name: str, *_: Any) -> ModuleSpec | None:
        around = self.waiting.pop(name, None)
        found = importlib.util.find_spec(name) if around else None
        if around and found is not None and found.loader is not None:
            whole = found.loader.exec_module

            def lean(module: ModuleType) -> None:
                with around(module):
                    whole(module)

            found.loader.exec_module = lean  # type: ignore[method-assign]
        return found

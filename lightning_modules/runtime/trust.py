"""What a config may call, name by name: what conf/ calls, a few more classes, and packages that a person vouches for.

A config can come from a tracking server that somebody else writes to. Whatever it names is refused before anything is
imported or made, unless it stands here. A person at the machine lets a config call a package of their own with the
environment variable FACET_PACKAGES; no config can.
"""

import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from hydra.utils import get_object
from omegaconf import ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lightning_modules.common.choices import nearest

CONF = Path(__file__).parents[2] / "conf"
PACKAGES = "FACET_PACKAGES"
# None of these loads, compiles, downloads or runs what its arguments name. Whoever adds one sees to that.
LIBRARIES = {
    "builtins": "dict",
    "torch.optim": "Adadelta Adagrad Adam AdamW Adamax ASGD LBFGS NAdam RAdam RMSprop Rprop SGD",
    "torch.optim.lr_scheduler": "ConstantLR CosineAnnealingLR CosineAnnealingWarmRestarts CyclicLR ExponentialLR LinearLR "
    "MultiStepLR OneCycleLR PolynomialLR ReduceLROnPlateau StepLR",
    "torch.nn": "BatchNorm1d BatchNorm2d Conv1d Conv2d CrossEntropyLoss Dropout Embedding Flatten GELU Identity LayerNorm "
    "Linear MSELoss MultiheadAttention RMSNorm ReLU Sequential SiLU Sigmoid Softmax Tanh",
    "pytorch_lightning.callbacks": "DeviceStatsMonitor EarlyStopping GradientAccumulationScheduler LearningRateMonitor "
    "ModelCheckpoint ModelSummary RichModelSummary RichProgressBar StochasticWeightAveraging TQDMProgressBar Timer",
    "pytorch_lightning.strategies": "DDPStrategy ModelParallelStrategy SingleDeviceStrategy",
}
# Of ours and in no file of conf/: taken in the place of a neighbour that is.
ALTERNATIVES = (
    "datamodules.corpus.FolderSource",
    "datamodules.corpus.HubSource",
    "lightning_modules.svco.mvc.filters.ModelSimilarity",
    "lightning_modules.svco.mvc.rewriting.LanguageModel",
)
OURS = ("lightning_modules.", "datamodules.")


@cache
def names() -> frozenset[str]:
    """Every dotted name that a config may call, packages of FACET_PACKAGES apart.

    What conf/ calls of ours is read from it, `conf/local` (the user's own) left out: a file there is a config too.
    """
    files = [p for p in CONF.rglob("*.yaml") if p.relative_to(CONF).parts[0] not in ("local", "hydra")]
    called = {m[1] for p in files for m in re.finditer(r"^[^#\n]*?_target_: *([\w.]+)", p.read_text(), re.MULTILINE)}
    library = {f"{module}.{name}" for module, words in LIBRARIES.items() for name in words.split()}
    return frozenset({*library, *ALTERNATIVES, *(name for name in called if name.startswith(OURS))})


def packages() -> tuple[str, ...]:
    """Of FACET_PACKAGES, names with commas between them."""
    return tuple(name.strip() for name in os.environ.get(PACKAGES, "").split(",") if name.strip())


def refusals(plain: dict[Any, Any]) -> list[str]:
    """Why a config may not be instantiated, one line for each name that it may not call; imports none of them.

    plain: the config with every interpolation resolved.
    """
    found: dict[str, str] = {}
    for path, key, name in sorted(called(plain), key=lambda c: len(c[0])):
        allowed = checks_allowed(name) if key == "checks" else target_allowed(name)
        if not allowed:
            found.setdefault(str(name), _refusal(path, name))
    return list(found.values())


def target_allowed(name: Any) -> bool:
    """Exact names only: `torch.` as a whole holds torch.utils.collect_env.run, which runs a shell command."""
    return isinstance(name, str) and (name in names() or _vouched(name))


def checks_allowed(name: Any) -> bool:
    """A system's `checks` is a module that is imported: `checks` of one of our rooms or of a package vouched for."""
    if not isinstance(name, str):
        return False
    room, _, last = name.rpartition(".")
    ours = re.fullmatch(r"lightning_modules\.\w+", room) is not None
    return last == "checks" and (ours or room.partition(".")[0] in packages())


def _vouched(name: str) -> bool:
    """Defined in a package of FACET_PACKAGES; `mylab.train.subprocess.run` only passes through one."""
    package = name.partition(".")[0]
    if package not in packages():
        return False
    try:
        home = getattr(get_object(name), "__module__", None)
    except Exception:  # there is no such thing, or its own import fails: the schema says which
        return True
    return isinstance(home, str) and home.partition(".")[0] == package


def called(node: Any, path: str = "") -> Iterator[tuple[str, str, Any]]:
    """(dotted path, key, name) of every `_target_` at any depth, in lists and arguments too, and of the top's `checks`."""
    if isinstance(node, dict):
        for key, value in node.items():
            full = f"{path}.{key}" if path else str(key)
            if key == "_target_" or (full == "checks" and value is not None):
                yield full, key, value
            yield from called(value, full)
    elif isinstance(node, list | tuple):
        for number, value in enumerate(node):
            yield from called(value, f"{path}[{number}]")


def child(node: Any, key: Any) -> Any:
    """`node[key]` in plain containers, every interpolation replaced by what it gives; None for one that gives nothing."""
    try:
        found = node[key]
    except OmegaConfBaseException:
        return None
    if not OmegaConf.is_config(found):
        return found
    try:
        return OmegaConf.to_container(found, resolve=True)
    except OmegaConfBaseException:
        # What is missing is reported elsewhere; the rest of the mapping is still looked at.
        keys = range(len(found)) if isinstance(found, ListConfig) else list(found)
        return {key: child(found, key) for key in keys}


def _refusal(path: str, name: Any) -> str:
    more = f" and what {', '.join(packages())} defines" if packages() else ""
    return (
        f"{path} is {name!r}, which a config may not call{nearest(str(name), sorted(names()))}. It may call what conf/ "
        f"calls, what lightning_modules/runtime/trust.py lists{more}; the environment variable {PACKAGES}=NAME lets in a "
        "package of your own."
    )

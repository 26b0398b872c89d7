"""What Hydra needs of us before it composes: the resolvers of the config tree, and where options are looked for."""

import re
from importlib.util import find_spec
from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from lightning_modules.common.metric_names import direction
from lightning_modules.runtime import composition, identity
from lightning_modules.runtime.trust import CONF, PACKAGES, packages


def register_resolvers(*, project: Path) -> None:
    """`${project:PATH}` is a path under the checkout; `${run_folder:OVERRIDES,SEED}` the name of a run's folder
    (`identity`); `${gpu_precision:}` the widest mixed precision that the GPU has; `${direction:METRIC}` a search's."""
    OmegaConf.register_new_resolver("project", lambda path="": str(project / path), replace=True)
    OmegaConf.register_new_resolver("run_folder", identity.folder, replace=True)
    OmegaConf.register_new_resolver("gpu_precision", _gpu_precision, replace=True)
    OmegaConf.register_new_resolver("direction", direction, replace=True)
    Plugins.instance().register(ConfOfPackages)
    composition.hasten()


class ConfOfPackages(SearchPathPlugin):
    """Options of `conf/` in the packages of FACET_PACKAGES, after our own: they add and replace nothing."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for folder in roots()[1:]:
            search_path.append(provider=folder.parent.name, path=f"file://{folder}")


def roots() -> list[Path]:
    """conf/ and that of each package of FACET_PACKAGES. ValueError for a package that is not there."""
    folders = [CONF]
    for name in packages():
        spec = find_spec(name) if name.isidentifier() else None
        if spec is None or not spec.submodule_search_locations:
            raise ValueError(
                f"{PACKAGES} names {name!r}, which is no package that Python finds; expected names with commas between "
                "them, each of a folder whose parent is on PYTHONPATH or of an installed package."
            )
        folders.append(Path(next(iter(spec.submodule_search_locations))) / "conf")
    return [folder for folder in folders if folder.is_dir()]


def _gpu_precision() -> str:
    import torch

    return "bf16-mixed" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "16-mixed"


def spelled_out(arguments: list[str]) -> list[str]:
    """`look=A,B` is short for `look.runs=[A,B]`, which to Hydra would be a sweep; `look.text=FILE` for `look.own=FILE`."""
    short = {r"^look=\[?([^\[\]]+)\]?$": r"look.runs=[\1]", r"^look\.text=(?!(?:true|false)$)(.+)$": r"look.own=\1"}
    for pattern, whole in short.items():
        arguments = [re.sub(pattern, whole, argument, flags=re.IGNORECASE) for argument in arguments]
    return arguments

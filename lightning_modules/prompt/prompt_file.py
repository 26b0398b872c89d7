"""A trained prompt in a safetensors file of a few kilobytes, with all that says what it is a prompt of."""

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lightning_modules.common import credentials
from lightning_modules.common.say import reason
from lightning_modules.prompt import peft_folder
from lightning_modules.prompt.backbone import Backbone

PICKLED = (".pt", ".pth", ".bin")
NAME = "prompt.safetensors"


class PromptFile:
    """`weight` [P, H] and `about`: backbone (its fingerprint), width, template, classes, task, skill and data."""

    def __init__(self, weight: Tensor, about: dict[str, Any], path: str = "") -> None:
        self.weight, self.about, self.path = weight, about, path

    def save(self, path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        metadata = {"facet": json.dumps(self.about, sort_keys=True)}
        save_file({"prompt": self.weight.detach().cpu().contiguous()}, path, metadata=metadata)
        return path

    @classmethod
    def load(cls, path: str | Path | None) -> "PromptFile":
        """Also of others than this project: of PEFT, or one bare tensor; what it is a prompt of is then not known.

        ValueError naming the file when it is not there, damaged, or holds something else.
        """
        place = Path(path or "").expanduser()
        if (place / peft_folder.CONFIG).is_file() and not (place / NAME).is_file():
            return cls(_usable(place, peft_folder.prompt_of(place)), {}, str(place))
        place = place / NAME if place.is_dir() else place
        if not place.is_file():
            raise ValueError(
                f"prompt file {place}: not there; expected a prompt.safetensors, the export/ of a run, a folder of PEFT's "
                "prompt tuning, or a file of one tensor [prompt tokens, width] (.safetensors, .pt)."
            )
        try:
            if place.suffix in PICKLED:
                return cls(_bare(place, _unpickled(place)), {}, str(place))
            with safe_open(place, "pt") as file:
                metadata = file.metadata() or {}
                if "facet" in metadata and "prompt" in file.keys():  # noqa: SIM118
                    return cls(_usable(place, file.get_tensor("prompt")), json.loads(metadata["facet"]), str(place))
                return cls(_bare(place, {name: file.get_tensor(name) for name in file.keys()}), {}, str(place))  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"prompt file {place}: damaged or not safetensors ({error}).") from None

    @classmethod
    def of_run(cls, run_id: str | None, tracking_uri: str | None) -> "PromptFile":
        """The prompt that MLflow run `run_id` exported."""
        from mlflow.exceptions import MlflowException

        try:
            return cls.load(credentials.client(tracking_uri).download_artifacts(str(run_id), f"export/{NAME}"))
        except (MlflowException, OSError) as error:
            raise ValueError(
                f"prompt.from_run={run_id}: no exported prompt found ({reason(error)}). Expected the id of a finished "
                "experiment=prompt/tune run with tuner=soft_prompt."
            ) from None

    def check(self, backbone: Backbone, *, length: int) -> None:
        """ValueError when the prompt is of another width, length or backbone."""
        found = tuple(self.weight.shape)
        if found[1] != backbone.width:
            raise ValueError(
                f"{self.path}: a prompt of width {found[1]}; this backbone's is {backbone.width}. A projector "
                "(experiment=prompt/project) takes prompts from one to the other."
            )
        if found[0] != length:
            raise ValueError(
                f"{self.path}: {found[0]} prompt tokens; expected prompt.length={length}; set it to {found[0]}."
            )
        print_of = backbone.fingerprint()
        if self.about and self.about["backbone"] != print_of:
            raise ValueError(
                f"{self.path}: trained on the backbone {self.about['backbone']}; this one is {print_of}. Load the same "
                "backbone, or take it across with experiment=prompt/project."
            )


def _unpickled(path: Path) -> Any:
    """What torch saved there; nothing in it is run."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if zipfile.is_zipfile(path):
            told = f"holds more than tensors ({reason(error)}); expected one tensor"
            raise ValueError(f"prompt file {path}: {told}.") from None
        raise ValueError(f"prompt file {path}: damaged or not saved by torch; expected one tensor.") from None
    except (RuntimeError, EOFError, OSError) as error:
        raise ValueError(f"prompt file {path}: damaged or not saved by torch ({reason(error)}).") from None


def _bare(path: Path, found: Any) -> Tensor:
    """The one tensor [P, H] that a file holds."""
    every = {"": found} if isinstance(found, Tensor) else found if isinstance(found, dict) else {}
    tensors = {name: value for name, value in every.items() if isinstance(value, Tensor)}
    if len(tensors) == 1 and next(iter(tensors.values())).dim() == 2:
        return _usable(place=path, found=next(iter(tensors.values())))
    told = ", ".join(f"{name} {list(value.shape)}".strip() for name, value in tensors.items()) or type(found).__name__
    raise ValueError(f"prompt file {path}: holds {told[:300]}; expected one tensor of prompt tokens x width.")


def _usable(place: Path, found: Tensor) -> Tensor:
    """In float32. ValueError where a value is no number that a model can be given."""
    if found.is_complex() or found.dtype == torch.bool or not found.numel():
        raise ValueError(f"prompt file {place}: holds {found.dtype} {list(found.shape)}; expected real numbers.")
    found = found.to_dense().float()
    if wrong := int((~found.isfinite()).sum()):
        raise ValueError(
            f"prompt file {place}: {wrong} of its {found.numel()} values are NaN or infinite; expected those of a training "
            "that did not diverge."
        )
    return found

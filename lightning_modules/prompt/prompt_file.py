"""A trained prompt in a safetensors file of a few kilobytes, with all that says what it is a prompt of."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lightning_modules.prompt.backbone import Backbone

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
        """ValueError naming the file when it is not there, not safetensors, or no prompt of this project's."""
        place = Path(path or "")
        place = place / NAME if place.is_dir() else place
        if not place.is_file():
            raise ValueError(f"prompt file {place}: not there; expected a prompt.safetensors or the export/ of a run.")
        try:
            with safe_open(place, "pt") as file:
                metadata = file.metadata() or {}
                if "facet" not in metadata or "prompt" not in file.keys():  # noqa: SIM118
                    raise ValueError(
                        f"prompt file {place}: holds {list(file.keys())}; expected a prompt and its description."
                    )
                return cls(file.get_tensor("prompt"), json.loads(metadata["facet"]), str(place))
        except SafetensorError as error:
            raise ValueError(f"prompt file {place}: damaged or not safetensors ({error}).") from None

    @classmethod
    def of_run(cls, run_id: str | None, tracking_uri: str | None) -> "PromptFile":
        """The prompt that MLflow run `run_id` exported."""
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        try:
            return cls.load(MlflowClient(tracking_uri).download_artifacts(str(run_id), f"export/{NAME}"))
        except (MlflowException, OSError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"prompt.from_run={run_id}: no exported prompt found ({reason}). Expected the id of a finished "
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
        if self.about["backbone"] != print_of:
            raise ValueError(
                f"{self.path}: trained on the backbone {self.about['backbone']}; this one is {print_of}. Load the same "
                "backbone, or take it across with experiment=prompt/project."
            )

"""Files of soft prompts."""

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.datamodules.files.laid import Case, cut, folder_of, put


def prompt(name: str, content) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        if name.endswith(".pt"):
            torch.save(content, folder / name)
        else:
            save_file(content, folder / name)
        return folder / name

    return make


PROMPTS = (
    Case("prompt", "a bare tensor as .pt", prompt("a.pt", torch.ones(3, 8))),
    Case("prompt", "a bare tensor as .safetensors", prompt("a.safetensors", {"weight": torch.ones(3, 8)})),
    Case(
        "prompt",
        "a healthy .pt of several tensors",
        prompt("a.pt", {"a": torch.ones(3, 8), "b": torch.ones(2)}),
        "holds a [3, 8], b [2]; expected one tensor of prompt tokens x width",
    ),
    Case(
        "prompt",
        "a healthy .pt of one dimension",
        prompt("a.pt", torch.ones(8)),
        "expected one tensor of prompt tokens x width",
    ),
    Case("prompt", "a healthy .pt that holds no tensor", prompt("a.pt", {"lr": 3}), "holds dict; expected one tensor"),
    Case("prompt", "a .pt, cut off", lambda f: cut(prompt("a.pt", torch.ones(99, 8))(f)), "damaged"),
    Case(
        "prompt",
        "a .safetensors, cut off",
        lambda f: cut(prompt("a.safetensors", {"w": torch.ones(99, 8)})(f)),
        "damaged or not safetensors",
    ),
    Case(
        "prompt", "NaN among its values", prompt("a.pt", torch.full((3, 8), torch.nan)), "24 of its 24 values are NaN"
    ),
    Case("prompt", "complex values", prompt("a.pt", torch.ones(3, 8, dtype=torch.complex64)), "expected real numbers"),
    Case("prompt", "no row", prompt("a.pt", torch.ones(0, 8)), "holds torch.float32 [0, 8]; expected real numbers"),
    Case("prompt", "a text file", put("a.txt", "hello"), "damaged or not safetensors"),
    Case("prompt", "a folder without a prompt", folder_of("export"), "not there"),
)

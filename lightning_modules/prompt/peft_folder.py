"""Prompts and adapters in PEFT's own folders: adapter_config.json beside adapter_model.safetensors.

Shape legend: P prompt tokens, H hidden width.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lightning_modules.common.load import adapted

CONFIG, WEIGHTS, EMBEDDINGS = "adapter_config.json", "adapter_model.safetensors", "prompt_embeddings"
FOLDER = "peft"
# What PEFT puts a prompt before, and how it calls it.
TASKS = {"causal": "CAUSAL_LM", "seq2seq": "SEQ_2_SEQ_LM"}


def prompt_of(folder: Path) -> Tensor:
    """The prompt [P, H] of a folder that PEFT's prompt tuning saved. ValueError naming the file and what it holds."""
    config = json.loads((folder / CONFIG).read_text())
    if config.get("peft_type") != "PROMPT_TUNING":
        raise ValueError(
            f"{folder / CONFIG}: peft_type is {config.get('peft_type')!r}; expected 'PROMPT_TUNING', whose prompt stands "
            "before the text and nowhere else."
        )
    try:
        found = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{folder / WEIGHTS}: not there or damaged ({error}).") from None
    if EMBEDDINGS not in found:
        raise ValueError(f"{folder / WEIGHTS}: holds {', '.join(found)}; expected {EMBEDDINGS}.")
    return found[EMBEDDINGS][: config["num_virtual_tokens"]].float()


def why_not(kind: str, parts: list[tuple[str, str]]) -> str:
    """Why PEFT cannot express a prompt in this template; '' where it can."""
    if kind not in TASKS:
        return f"PEFT puts prompts before causal and encoder-decoder language models, not before a {kind} one"
    if parts[0][0] != "prompt":
        return "PEFT's prompt stands first, and in data.template it does not"
    return ""


def save_prompt(prompt: Tensor, folder: Path, *, kind: str, model: Any) -> None:
    """For `PeftModel.from_pretrained`, which puts it before what the tokenizer makes of the rest of the template."""
    from peft import PromptTuningConfig

    length, width = prompt.shape
    text = model.config.get_text_config()
    config = PromptTuningConfig(
        task_type=TASKS[kind],
        num_virtual_tokens=length,
        token_dim=width,
        # Of an encoder-decoder the encoder's input alone.
        num_transformer_submodules=1,
        # PEFT asks for a number, of Mamba too, and reads it for no prompt.
        num_attention_heads=getattr(text, "num_attention_heads", 1),
        num_layers=text.num_hidden_layers,
    )
    _save({EMBEDDINGS: prompt}, folder, config=config, model=model)


def save_lora(weights: Mapping[str, Tensor], folder: Path, *, config: Any, model: Any) -> str:
    """weights: of the adapter `default` by their names in `model`; config: the `LoraConfig` they were made by.

    It is read back as PEFT reads it, on a model without values. Where PEFT would leave weights out, for it changes names as
    a family's checkpoints do, there is no folder: the reason.
    """
    named = {f"base_model.model.{n.replace('.default.', '.')}": weight for n, weight in weights.items()}
    _save(named, folder, config=config, model=model)
    with torch.device("meta"):
        plain = type(model)(model.config)
    lost = adapted(plain, str(folder), low_cpu_mem_usage=True)[1]
    if lost:
        shutil.rmtree(folder)
        return f"of {type(model).__name__} it would leave out {len(lost)} weights ({lost[0]} is one) when it reads them back"
    return ""


def _save(weights: Mapping[str, Tensor], folder: Path, *, config: Any, model: Any) -> None:
    config.base_model_name_or_path = model.config._name_or_path or None
    config.inference_mode = True
    config.save_pretrained(str(folder))
    plain = {name: weight.detach().cpu().contiguous() for name, weight in weights.items()}
    save_file(plain, folder / WEIGHTS, metadata={"format": "pt"})

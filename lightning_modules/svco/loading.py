"""A user's vision-language model by folder or name: loaded in its dtype, prepared for training, and checked."""

import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from datamodules.scenes.reader import Reader
from lightning_modules.common.bounds import Whole
from lightning_modules.common.choices import check_choice
from lightning_modules.common.load import adapted, in_words, model_of
from lightning_modules.svco.checking import checked
from lightning_modules.svco.models import VLM, prepared
from lightning_modules.training.inner import device

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load_vlm(
    *,
    path: str,
    lora_rank: Whole = 0,
    freeze_vision: bool = True,
    max_response: Whole = 128,
    attention: str = "sdpa",
    local_files_only: bool = True,
    dtype: str = "float32",
    quantize: str | None = None,
    gradient_checkpointing: bool = False,
    cache_dir: str | None = None,
) -> VLM:
    """A model by folder (or by hub name with local_files_only=False), or PEFT's LoRA folder, merged into the base it names.

    dtype: of the weights, one of `DTYPES`. quantize: `4bit` by bitsandbytes, for LoRA. gradient_checkpointing: activations
    are computed again in the backward pass instead of kept.

    cache_dir: where the verdict of `checking` is kept.

    Raises ValueError when there is none, when it takes no images, has no processor, or is computed wrongly.
    """
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

    adapter, path = places(path, local_files_only=local_files_only)
    given = dict(local_files_only=local_files_only, trust_remote_code=False)
    with in_words(said := f"model.path={path}"):
        config = AutoConfig.from_pretrained(path, **given)
    if type(config) not in AutoModelForImageTextToText._model_mapping:
        raise ValueError(
            f"model.path={path} is a {config.model_type} model, which takes no images; expected an image-text-to-text "
            "model such as llava, idefics3, smolvlm or qwen2_vl."
        )
    check_choice("model.dtype", dtype, DTYPES)
    net = model_of(
        AutoModelForImageTextToText.from_pretrained,
        path,
        said=said,
        attention=attention,
        local_files_only=local_files_only,
        dtype=DTYPES[dtype],
        **quantized(quantize, lora_rank),
    )
    if adapter:
        net = merged(net, adapter)
    if gradient_checkpointing:
        net.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    try:
        processor = AutoProcessor.from_pretrained(path, **given)
    except ImportError as error:
        needed = [name for name in ("torchvision", "num2words") if name in str(error).lower()]
        if not needed:
            raise
        raise ValueError(
            f"model.path={path}: the processor of {config.model_type} needs {needed[0]}, which is not installed: "
            f".venv/bin/python -m pip install {needed[0]} (the extra `vision` of pyproject.toml; make setup EXTRA=vision)."
        ) from None
    if not hasattr(processor, "image_processor"):
        raise ValueError(
            f"model.path={path} has no image processor beside its tokenizer; save the model's processor there."
        )
    reader = Reader(processor=processor, max_response=max_response)
    vlm = prepared(net=net, reader=reader, lora_rank=lora_rank, freeze_vision=freeze_vision)
    return checked(vlm.to(device()), cache_dir=cache_dir)


def merged(net: Any, adapter: str) -> Any:
    """`net` with the weights of PEFT's folder `adapter` added to its own.

    ValueError where some of them have no layer in `net`, or a layer that adapter_config.json names gets none: PEFT goes on.
    """
    with in_words(f"model.path={adapter}"):
        both, wrong = adapted(net, adapter)
    if wrong:
        raise ValueError(
            f"model.path={adapter}: {len(wrong)} of the adapter's weights stand in its folder or in "
            f"{type(net).__name__} alone ({wrong[0]} is one), and would be left out; expected an adapter of the model that "
            "adapter_config.json names."
        )
    return both.merge_and_unload()


def places(path: str, *, local_files_only: bool) -> tuple[str | None, str]:
    """The folder of PEFT's adapter, None where `path` holds none, and the folder or hub name of the model it stands on.

    Reads no weights. ValueError when there is no model, or the adapter is none of LoRA.
    """
    path = found = os.path.expanduser(path)
    about = Path(path) / "adapter_config.json"
    adapter = path if about.is_file() and not (Path(path) / "config.json").is_file() else None
    if adapter:
        config = json.loads(about.read_text())
        kind, base = config.get("peft_type"), config.get("base_model_name_or_path")
        if kind != "LORA" or not base:
            raise ValueError(
                f"model.path={path}: adapter_config.json names peft_type {kind!r} and the base {base!r}; expected 'LORA' "
                "and the folder or hub name of its base model."
            )
        found = os.path.expanduser(base)
    if local_files_only and not (Path(found) / "config.json").is_file():
        whose = f" is an adapter of {found}" if adapter else ""
        raise ValueError(
            f"model.path={path}{whose}: no config.json there. Expected a folder written by save_pretrained; a hub name "
            "needs model.local_files_only=false."
        )
    return adapter, found


def quantized(quantize: str | None, lora_rank: int) -> dict[str, Any]:
    """What `from_pretrained` is told of 4-bit weights. ValueError where they cannot be had or trained."""
    if quantize is None:
        return {}
    check_choice("model.quantize", quantize, ("4bit",))
    if find_spec("bitsandbytes") is None:
        raise ValueError(
            "model.quantize=4bit needs bitsandbytes, which is not installed: .venv/bin/python -m pip install bitsandbytes "
            "(the extra `quantize` of pyproject.toml; make setup EXTRA=quantize)."
        )
    if not lora_rank:
        raise ValueError("model.quantize=4bit trains adapters alone, and model.lora_rank is 0; expected 8, say.")
    from transformers import BitsAndBytesConfig

    kind = dict(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
    return {"quantization_config": BitsAndBytesConfig(**kind)}

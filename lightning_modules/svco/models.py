"""Vision-language models: transformers' own classes with their processor, in full or with LoRA."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from datamodules.scenes.reader import Reader
from lightning_modules.common.bounds import Whole
from lightning_modules.common.choices import check_choice
from lightning_modules.common.digests import digest_of_weights
from lightning_modules.training.inner import device

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# Families whose image features, decoder and positions are known to be a plain sequence: what `scores.shared` needs.
SHARED = {"llava": "language_model", "idefics3": "text_model", "smolvlm": "text_model"}


class VLM(nn.Module):
    """A network and the reader that makes its inputs.

    Args:
        net: a transformers image-text-to-text model, or PEFT's wrapper of one.
        reader: `Reader` of its processor.
    """

    def __init__(self, *, net: nn.Module, reader: Reader) -> None:
        super().__init__()
        self.net, self.reader = net, reader
        # transformers drops the cache of layers whose activations are computed again.
        self.recomputes = any(getattr(module, "gradient_checkpointing", False) for module in net.modules())
        self.way = "shared" if self.family in SHARED and not self.windowed else "continued"

    @property
    def core(self) -> nn.Module:
        """The transformers model, adapters (if any) inside its layers."""
        return self.net.get_base_model() if hasattr(self.net, "get_base_model") else self.net

    @property
    def family(self) -> str:
        return self.core.config.model_type

    @property
    def windowed(self) -> bool:
        """Whether some layer of the decoder sees only the last tokens."""
        text = self.core.config.get_text_config()
        kinds = getattr(text, "layer_types", None)
        if kinds:
            return "sliding_attention" in kinds
        return bool(getattr(text, "sliding_window", None)) and getattr(text, "use_sliding_window", True)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def placed(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The processor's tensors on the model's device; pictures, never ids, in its dtype."""
        dtype = self.core.dtype
        return {n: v.to(self.device, dtype if v.is_floating_point() else None) for n, v in inputs.items()}

    @property
    def adapted(self) -> bool:
        """True with LoRA: the untrained model is then the same weights with the adapters off."""
        return hasattr(self.net, "disable_adapter")

    def fingerprint(self) -> str:
        """16 hex digits over every weight, adapters included."""
        return digest_of_weights(self.net.state_dict())

    @property
    def decoder(self) -> nn.Module:
        return getattr(self.core.model, SHARED[self.family])

    def image_features(self, pixels: Sequence[Mapping[str, torch.Tensor]]) -> torch.Tensor:
        """Projected features of the images in order, [all image tokens, H]; one pass where the shapes allow it."""
        wanted = ("pixel_values", "pixel_attention_mask")
        together = [self.placed({k: p[k] for k in wanted if k in p}) for p in pixels]
        if len({tuple(p["pixel_values"].shape) for p in together}) == 1:
            together = [{k: torch.cat([p[k] for p in together]) for k in together[0]}]
        found = [self.core.model.get_image_features(**p).pooler_output for p in together]
        return torch.cat([tokens for features in found for tokens in features])


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
    """A model by folder (or by hub name with local_files_only=False).

    dtype: of the weights, one of `DTYPES`. quantize: `4bit` by bitsandbytes, for LoRA. gradient_checkpointing: activations
    are computed again in the backward pass instead of kept.

    cache_dir: where the verdict of `checking` is kept.

    Raises ValueError when there is none, when it takes no images, has no processor, or is computed wrongly.
    """
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

    if local_files_only and not (Path(path) / "config.json").is_file():
        raise ValueError(
            f"model.path={path}: no config.json there. Expected a folder written by save_pretrained; a hub name needs "
            "model.local_files_only=false."
        )
    given = dict(local_files_only=local_files_only, trust_remote_code=False)
    config = AutoConfig.from_pretrained(path, **given)
    if type(config) not in AutoModelForImageTextToText._model_mapping:
        raise ValueError(
            f"model.path={path} is a {config.model_type} model, which takes no images; expected an image-text-to-text "
            "model such as llava, idefics3, smolvlm or qwen2_vl."
        )
    check_choice("model.dtype", dtype, DTYPES)
    more = dict(
        attn_implementation=attention, dtype=DTYPES[dtype], use_safetensors=True, **_quantized(quantize, lora_rank)
    )
    net = AutoModelForImageTextToText.from_pretrained(path, **more, **given)
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
    from lightning_modules.svco.checking import checked

    reader = Reader(processor=processor, max_response=max_response)
    vlm = prepared(net=net, reader=reader, lora_rank=lora_rank, freeze_vision=freeze_vision)
    return checked(vlm.to(device()), cache_dir=cache_dir)


def _quantized(quantize: str | None, lora_rank: int) -> dict[str, Any]:
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


def prepared(*, net: nn.Module, reader: Reader, lora_rank: int, freeze_vision: bool) -> VLM:
    """Vision weights frozen, LoRA on the decoder's linear layers, both when asked."""
    if lora_rank:
        from peft import LoraConfig, get_peft_model

        family = net.config.model_type
        part = SHARED.get(family, "language_model")
        config = LoraConfig(
            r=lora_rank, lora_alpha=2 * lora_rank, target_modules=rf".*\b{part}\.layers\..*_proj", lora_dropout=0.0
        )
        net = get_peft_model(net, config)
    elif freeze_vision:
        for name, weight in net.named_parameters():
            if any(part in name for part in ("vision_tower", "vision_model", "visual.")):
                weight.requires_grad_(False)
    return VLM(net=net, reader=reader)


def count_parameters(net: nn.Module) -> dict[str, int]:
    """All parameters and the trained ones."""
    return {
        "total": sum(p.numel() for p in net.parameters()),
        "trained": sum(p.numel() for p in net.parameters() if p.requires_grad),
    }


def export(vlm: VLM, folder: Path) -> Path:
    """A directory for AutoModelForImageTextToText and AutoProcessor, adapters merged in."""
    net: Any = vlm.net
    if vlm.adapted:
        import copy

        net = copy.deepcopy(net).merge_and_unload()
    net.save_pretrained(folder)
    vlm.reader.processor.save_pretrained(folder)
    return folder

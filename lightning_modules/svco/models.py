"""Vision-language models: transformers' own classes with their processor, in full or with LoRA."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from datamodules.scenes.reader import Reader
from lightning_modules.common.digests import digest_of_weights

# Families whose image features, decoder and positions are known to be a plain sequence: what `scores.shared` needs.
SHARED = {"llava": "language_model", "idefics3": "text_model", "smolvlm": "text_model"}

ADAPTER = "adapter"
TOWERS = (
    "vision_tower",
    "vision_model",
    "visual.",
    "vision_encoder",
    "image_tower",
    "image_encoder",
    "video_tower",
    "vqmodel",
)
JOINS = ("projector", "merger", "connector")


class VLM(nn.Module):
    """A network and the reader that makes its inputs.

    Args:
        net: a transformers image-text-to-text model, or PEFT's wrapper of one.
        reader: `Reader` of its processor.
    """

    # transformers and PEFT give a model most of its attributes at run time.
    net: Any

    def __init__(self, *, net: nn.Module, reader: Reader) -> None:
        super().__init__()
        self.net, self.reader = net, reader
        # transformers drops the cache of layers whose activations are computed again.
        self.recomputes = any(getattr(module, "gradient_checkpointing", False) for module in net.modules())
        self.way = "shared" if self.family in SHARED and not self.windowed else "continued"

    @property
    def core(self) -> Any:
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


def prepared(*, net: Any, reader: Reader, lora_rank: int, freeze_vision: bool) -> VLM:
    """Vision weights frozen, LoRA on the decoder's linear layers, both when asked. ValueError where there are none."""
    if lora_rank:
        from peft import LoraConfig, get_peft_model

        decoder = net.get_decoder()
        place = next(name for name, module in net.named_modules() if module is decoder)
        layers = rf"{re.escape(place)}\.layers\..*_proj"
        if not any(re.fullmatch(layers, name) for name, _ in net.named_modules()):
            raise ValueError(
                f"model.lora_rank={lora_rank}: the decoder of {net.config.model_type}, {place}, has no layers whose names "
                "end in _proj, which adapters stand on; model.lora_rank=0 trains it without."
            )
        config = LoraConfig(r=lora_rank, lora_alpha=2 * lora_rank, target_modules=layers, lora_dropout=0.0)
        net = get_peft_model(net, config)
    elif freeze_vision:
        # What joins tower and decoder is trained in every family, also where it is a part of the tower's module.
        for name, weight in net.named_parameters():
            if any(part in name for part in TOWERS) and not any(part in name for part in JOINS):
                weight.requires_grad_(False)
        if all(weight.requires_grad for weight in net.parameters()):
            raise ValueError(
                f"model.freeze_vision=true: no weight of {net.config.model_type} has a name of a vision tower; expected one "
                f"with {', '.join(TOWERS)}. model.freeze_vision=false trains all of it."
            )
    return VLM(net=net, reader=reader)


def export(vlm: VLM, folder: Path) -> Path:
    """A directory for AutoModelForImageTextToText and AutoProcessor, adapters merged in.

    With LoRA also adapter/, for `PeftModel.from_pretrained` on the base model.
    """
    net: Any = vlm.net
    if vlm.adapted:
        import copy

        net.save_pretrained(str(folder / ADAPTER))
        vlm.reader.processor.save_pretrained(folder / ADAPTER)
        net = copy.deepcopy(net).merge_and_unload()
    net.save_pretrained(folder)
    vlm.reader.processor.save_pretrained(folder)
    return folder

"""What trains on a frozen backbone, behind one interface: a prompt, deltas of biases, bottlenecks, LoRA, or all of it.

A tuner owns its parameters; `attach` connects it to a backbone and `prompt` is what it puts before the text.
Shape legend: P prompt tokens, H hidden width, R rank or bottleneck.
"""

import copy
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.common.bounds import Count, Positive
from lightning_modules.common.choices import check_choice
from lightning_modules.common.digests import digest_of_weights
from lightning_modules.common.say import reason
from lightning_modules.prompt import peft_folder
from lightning_modules.prompt.backbone import Backbone
from lightning_modules.prompt.families import word_embedding
from lightning_modules.prompt.prompt_file import PromptFile

DRAWN = ("random", "vocabulary")  # by a seed
INITS = (*DRAWN, "text", "file", "run")


class Tuner(nn.Module):
    """Base of all: no prompt, nothing attached. Its parameters are float32, whatever the backbone's are."""

    length = 0

    def attach(self, backbone: Backbone) -> None:
        """Make the parameters, for this backbone, and connect them."""

    def prompt(self) -> Tensor | None:
        return None

    def save_for_peft(self, folder: Path, backbone: Backbone) -> str:
        """A folder for `PeftModel.from_pretrained`, where PEFT knows this tuner; why there is none, where it should be."""
        return ""

    def description(self) -> dict[str, Any]:
        """All that its training depends on beside data, backbone and optimizer."""
        return {"tuner": type(self).__name__}

    def trained(self, backbone: Backbone) -> dict[str, nn.Parameter]:
        """Name -> parameter of all that trains, for the optimizer, checkpoints and the exported file."""
        return dict(self.named_parameters())


class SoftPrompt(Tuner):
    """P vectors in the place of words (Lester et al. 2021), the only parameter: [P, H].

    Args:
        length: P; 127 in Wang et al., 100 in Su et al.
        init: `random` normal of the embeddings' spread, `vocabulary` words drawn at random, `text` the words of `text`
            repeated, `file` a saved prompt, `run` the prompt of an MLflow run.
        text, file, from_run: of these inits; one that is given is taken instead of `vocabulary`.
        tracking_uri: where a run is looked up.
    """

    def __init__(
        self,
        *,
        length: Count = 16,
        init: str = "vocabulary",
        text: str | None = None,
        file: str | None = None,
        from_run: str | None = None,
        tracking_uri: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_choice("prompt.init", init, INITS)
        needed = {"text": ("prompt.text", text), "file": ("prompt.file", file), "run": ("prompt.from_run", from_run)}
        given = [kind for kind, (_, value) in needed.items() if value is not None]
        if init == "vocabulary" and len(given) == 1:
            init = given[0]
        if init in needed and needed[init][1] is None:
            raise ValueError(f"{needed[init][0]} is null; prompt.init={init} needs it.")
        if set(given) - {init}:
            starts = " and ".join(f"{key}={value}" for key, value in needed.values() if value is not None)
            raise ValueError(f"{starts} with prompt.init={init}; expected one start: leave out what is not meant.")
        self.length, self.init, self.text, self.seed = length, init, text, seed
        self.file, self.from_run, self.tracking_uri = file, from_run, tracking_uri
        self.weight: nn.Parameter

    def attach(self, backbone: Backbone) -> None:
        self.weight = nn.Parameter(self._start(backbone).float())

    def prompt(self) -> Tensor:
        return self.weight

    def description(self) -> dict[str, Any]:
        start = self.text if self.init == "text" else self.seed
        if self._given:
            # What is in it: another prompt may lie under the same path later.
            start = digest_of_weights({"prompt": self._given.weight})
        return {"tuner": "SoftPrompt", "length": self.length, "init": self.init, "start": start}

    @cached_property
    def _given(self) -> PromptFile | None:
        """The prompt that it starts from, of a file or a run; a run's is fetched once."""
        if self.init == "file":
            return PromptFile.load(self.file)
        return PromptFile.of_run(self.from_run, self.tracking_uri) if self.init == "run" else None

    def _start(self, backbone: Backbone) -> Tensor:
        if self._given:
            self._given.check(backbone, length=self.length)
            return self._given.weight.clone()
        if self.init == "text":
            return text_prompt(backbone, self.text or "", self.length)
        # Drawn on the CPU, so that a seed is the same start on every device.
        draw, number = torch.Generator().manual_seed(self.seed), len(word_embedding(backbone.model).weight)
        if self.init == "random":
            every_VH = backbone.words(torch.arange(number))
            drawn = torch.randn(self.length, backbone.width, generator=draw)
            return every_VH.mean(0) + every_VH.std(0) * drawn.to(every_VH)
        special = set(backbone.tokenizer.all_special_ids)
        words = torch.tensor([i for i in range(number) if i not in special])
        return backbone.words(words[torch.randint(len(words), (self.length,), generator=draw)])


def text_prompt(backbone: Backbone, text: str, length: int) -> Tensor:
    """The embeddings of `text`'s tokens, repeated to `length`: a hard prompt, [P, H]."""
    ids = backbone.tokenizer(text, add_special_tokens=False)["input_ids"]
    if not ids:
        raise ValueError(f"prompt.text is {text!r}; expected at least one word.")
    return backbone.words(torch.tensor([ids[i % len(ids)] for i in range(length)]))


class Hooked(Tuner):
    """A tuner of small additions to the outputs of chosen modules; the backbone's own weights stay as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.additions = nn.ModuleDict()

    def attach(self, backbone: Backbone) -> None:
        for name, (module, addition) in self.chosen(backbone).items():
            self.additions[name.replace(".", "/")] = addition
            module.register_forward_hook(partial(_added, addition))

    def chosen(self, backbone: Backbone) -> dict[str, tuple[nn.Module, nn.Module]]:
        """Name -> a module, and what is added to its output."""
        raise NotImplementedError


def _added(addition: nn.Module, module: nn.Module, _: Any, out: Tensor) -> Tensor:
    """In the addition's precision, and out in the module's where a frozen model is in half of it."""
    inside, outside = (next(each.parameters()).dtype for each in (addition, module))
    found = out + addition(out.to(inside))
    return found if inside == outside else found.to(outside)


class Shift(nn.Module):
    """A constant: the change of a bias."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.delta = nn.Parameter(torch.zeros(width))

    def forward(self, out: Tensor) -> Tensor:
        return self.delta


class Bottleneck(nn.Module):
    """Up(relu(Down(x))), zero at the start (Houlsby et al. 2019)."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, rank), nn.Linear(rank, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, out: Tensor) -> Tensor:
        return self.up(torch.relu(self.down(out)))


# How families call norms of their own.
NORMS = ("LayerNorm", "RMSNorm", "NoNorm")


class BitFit(Hooked):
    """Every bias of the backbone trains, as a delta beside it (Ben Zaken et al. 2022). The LM head's stay."""

    def chosen(self, backbone: Backbone) -> dict[str, tuple[nn.Module, nn.Module]]:
        """ValueError where there is no bias, or one that its module does not add to the last dimension of what it gives."""
        from transformers.pytorch_utils import Conv1D

        model = type(backbone.model).__name__
        modules = dict(backbone.model.base_model.named_modules())
        # GPT-2's kin keep their causal mask under this name, as a buffer.
        found = {n: m for n, m in modules.items() if isinstance(getattr(m, "bias", None), nn.Parameter)}
        if not found:
            raise ValueError(f"tuner=bitfit: {model} has no bias to train; the nearest is lora.")
        for name, module in found.items():
            kind = type(module).__name__
            if not isinstance(module, nn.Linear | Conv1D | nn.LayerNorm) and not kind.endswith(NORMS):
                raise ValueError(
                    f"tuner=bitfit: {model} has the bias of a {kind} at {name}; expected those of linear layers and norms "
                    "alone. The nearest is lora."
                )
        return {name: (module, Shift(len(module.bias))) for name, module in found.items()}


class Adapter(Hooked):
    """A bottleneck after every feed-forward block."""

    def __init__(self, *, rank: Count = 16) -> None:
        super().__init__()
        self.rank = rank

    def chosen(self, backbone: Backbone) -> dict[str, tuple[nn.Module, nn.Module]]:
        sites: list[Any] = backbone.sites()
        widths = [site.nf if hasattr(site, "nf") else site.out_features for site in sites]
        additions = [Bottleneck(width, self.rank) for width in widths]
        return {f"layer{i}": pair for i, pair in enumerate(zip(sites, additions, strict=True))}

    def description(self) -> dict[str, Any]:
        return {"tuner": "Adapter", "rank": self.rank}


class LoRA(Tuner):
    """PEFT's low-rank adapters on every linear layer but the head and routers (Hu et al. 2022).

    Of a mixture with shared experts (DeepSeek-V3) PEFT takes the experts, which are parameters, in place of the linear
    layers of the same names.
    """

    def __init__(self, *, rank: Count = 8, alpha: Positive = 16.0) -> None:
        super().__init__()
        self.rank, self.alpha = rank, alpha

    def attach(self, backbone: Backbone) -> None:
        from peft import LoraConfig, inject_adapter_in_model
        from transformers.pytorch_utils import Conv1D

        body, head = backbone.model.base_model, backbone.model.get_output_embeddings()
        # T5's body is the whole model, head included. Routers that are linear layers answer with what they chose, too.
        targets = [
            name
            for name, module in body.named_modules()
            if isinstance(module, nn.Linear | Conv1D)
            and module is not head
            and not type(module).__name__.endswith("Router")
        ]
        conv = any(isinstance(m, Conv1D) for m in body.modules())
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,  # type: ignore[arg-type]  # PEFT divides it by r, so that a fraction serves
            target_modules=targets,
            lora_dropout=0.0,
            fan_in_fan_out=conv,
        )
        try:
            inject_adapter_in_model(config, body)
        except (NotImplementedError, ValueError) as error:
            raise ValueError(
                f"tuner=lora: PEFT does not take {type(backbone.model).__name__} ({reason(error)}); the nearest is "
                "tuner=soft_prompt."
            ) from None
        for weight in self.trained(backbone).values():
            weight.data = weight.data.float()
        self._config = config

    def save_for_peft(self, folder: Path, backbone: Backbone) -> str:
        from peft.tuners.lora.layer import ParamWrapper

        weights, modules = self.trained(backbone), dict(backbone.model.named_modules())
        config = copy.copy(self._config)
        # PEFT shortens the names it is given, and ours count from the body. Experts stand in its target_parameters.
        names = {name.partition(".lora_")[0] for name in weights}
        config.target_modules = sorted(n for n in names if not isinstance(modules[n], ParamWrapper))
        return peft_folder.save_lora(weights, folder, config=config, model=backbone.model)

    def trained(self, backbone: Backbone) -> dict[str, nn.Parameter]:
        return {n: p for n, p in backbone.model.named_parameters() if ".lora_" in n}

    def description(self) -> dict[str, Any]:
        return {"tuner": "LoRA", "rank": self.rank, "alpha": self.alpha}


class FullFineTuning(Tuner):
    """Every weight of the backbone trains: the one tuner under which it is not frozen."""

    def attach(self, backbone: Backbone) -> None:
        backbone.float().requires_grad_(True)

    def trained(self, backbone: Backbone) -> dict[str, nn.Parameter]:
        return dict(backbone.model.named_parameters())


def count(parameters: dict[str, Any]) -> int:
    return sum(p.numel() for p in parameters.values())

"""Looking at neurons and editing them while a model runs: one forward pre-hook per layer, gone when the block ends.

Shape legend: B examples, T positions, P prompt tokens, L layers, F neurons of a layer, K of them, N examples.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from lightning_modules.common.choices import check_choice
from lightning_modules.prompt.backbone import Backbone, Batch, reads_phrases
from lightning_modules.prompt.last_layer import asked_alone, can_ask_alone

See = Callable[[int, Tensor], Tensor | None]
# (layer, unit) of each.
Neurons = Sequence[tuple[int, int]]
KINDS = ("gaussian", "zero", "mean")


@contextlib.contextmanager
def hooked(sites: Sequence[nn.Module], see: See) -> Iterator[None]:
    """Calls `see(layer, neurons [B, T, F])` on what each down-projection is to read; what it returns is read instead.

    A block is for one batch. Phrases of classes, which a backbone reads of its own accord, are left alone. No hook is left
    behind, whatever is raised inside.
    """
    if isinstance(see, Perturbation):
        see.begin()
    with contextlib.ExitStack() as hooks:
        for layer, site in enumerate(sites):
            hooks.enter_context(site.register_forward_pre_hook(lambda _m, args, i=layer: _seen(see, i, args)))
        yield


class _AllSeenError(Exception):
    """Every layer was seen: what the model would do then is asked by nobody."""


@torch.no_grad()
def each_layer(backbone: Backbone, batch: Batch, prompt: Tensor | None, see: Callable[[int, Tensor], None]) -> None:
    """`see(layer, neurons [B, T, F])` in one forward, which ends at the last down-projection."""
    sites = backbone.sites()
    left = set(range(len(sites)))

    def until(layer: int, x_BTF: Tensor) -> None:
        see(layer, x_BTF)
        left.discard(layer)
        if not left:
            raise _AllSeenError

    with contextlib.suppress(_AllSeenError), hooked(sites, until):
        backbone.answer(batch, prompt)


def at_prompt(backbone: Backbone, batch: Batch, prompt: Tensor, see: Callable[[int, Tensor], None]) -> None:
    """`see(layer, neurons [B, P, F])` at the prompt's tokens, or where `Backbone.read` reads instead, in one forward.

    In the last layer of BERT's kin no other position is computed.
    """
    length, last = len(prompt), len(backbone.sites()) - 1
    alone = can_ask_alone(backbone.model)

    def read(found: Tensor) -> Tensor:
        return backbone.read(found, batch, length)

    with contextlib.ExitStack() as stack:
        if alone:
            stack.enter_context(asked_alone(backbone.model.base_model.encoder.layer[-1], read))
        each_layer(
            backbone, batch, prompt, lambda layer, x_BTF: see(layer, x_BTF if alone and layer == last else read(x_BTF))
        )


@torch.no_grad()
def activations_NKP(backbone: Backbone, batches: Iterable[Batch], prompt: Tensor, neurons: Neurons) -> Tensor:
    """Of these neurons, float32 on the CPU, in one pass. P is 1 where `Backbone.read` reads one position."""
    of_layer: dict[int, list[int]] = {}
    for k, (layer, _) in enumerate(neurons):
        of_layer.setdefault(layer, []).append(k)
    parts = []
    for batch in backbone.batches(batches):
        kept: dict[int, Tensor] = {}

        def see(layer: int, x_BPF: Tensor, kept: dict[int, Tensor] = kept) -> None:
            for k in of_layer.get(layer, ()):
                kept[k] = x_BPF[..., neurons[k][1]].float().cpu()

        at_prompt(backbone, batch, prompt, see)
        parts.append(torch.stack([kept[k] for k in range(len(neurons))], 1))
    return torch.cat(parts)


def _seen(see: See, layer: int, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
    if reads_phrases() or (edited := see(layer, args[0])) is None:
        return None
    return (edited, *args[1:])


class Perturbation:
    """Edits the neurons of `mask_LF` at every position (section 4.2 of Wang et al.).

    `gaussian` adds alpha x scale_LF x noise, one draw per example, shared by its positions and by all forwards of a block
    that it is `hooked` for, so that label words are compared under one noise; `zero` and `mean` replace the activation.
    Draws depend on `seed` and the order of calls only.

    Args:
        mask_LF: bool, which neurons.
        scale_LF: unit of alpha: ones for an absolute alpha, each neuron's standard deviation otherwise.
        mean_LF: of `mean`.
    """

    def __init__(
        self,
        *,
        mask_LF: Tensor,
        kind: str = "gaussian",
        alpha: float = 1.0,
        scale_LF: Tensor | None = None,
        mean_LF: Tensor | None = None,
        seed: int = 0,
    ) -> None:
        check_choice("perturbation.kind", kind, KINDS)
        self.mask_LF, self.kind, self.alpha = mask_LF, kind, alpha
        self.scale_LF = torch.ones(mask_LF.shape) if scale_LF is None else scale_LF
        self.mean_LF = mean_LF
        self.draw = torch.Generator().manual_seed(seed)
        self._noise: dict[int, Tensor] = {}

    def begin(self) -> None:
        """Other examples come: another noise."""
        self._noise.clear()

    def __call__(self, layer: int, neurons_BTF: Tensor) -> Tensor | None:
        mask_F = self.mask_LF[layer].to(neurons_BTF.device)
        if not mask_F.any():
            return None
        if self.kind == "gaussian":
            if layer not in self._noise:
                self._noise[layer] = torch.randn(len(neurons_BTF), len(mask_F), generator=self.draw).to(neurons_BTF)
            noise_BF = self._noise[layer]
            return neurons_BTF + (self.alpha * noise_BF * self.scale_LF[layer].to(neurons_BTF) * mask_F)[:, None]
        if self.kind == "zero":
            return neurons_BTF.masked_fill(mask_F, 0.0)
        assert self.mean_LF is not None, self.kind
        return torch.where(mask_F, self.mean_LF[layer].to(neurons_BTF), neurons_BTF)

"""Feed-forward blocks of a model whose names are new, found by following what its linear layers make of a few words.

A down-projection is a linear layer of a block that reads what an activation made, position by position, of other linear
layers' outputs: attention mixes positions and a norm mixes neurons, so neither is followed.
"""

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from inspect import Parameter, signature
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

ACTIVATIONS = frozenset(
    ("celu", "elu", "erf", "expm1", "gelu", "hardswish", "leaky_relu", "mish", "relu", "relu_", "relu6", "selu")
    + ("sigmoid", "silu", "softplus", "tanh")
)
# What leaves a neuron a neuron: it is moved, scaled, or multiplied with that of a gate.
POINTWISE = frozenset(
    ("abs", "add", "clamp", "clamp_min", "div", "exp", "iadd", "imul", "log1p", "maximum", "minimum", "mul", "neg")
    + ("pow", "radd", "rmul", "rsub", "square", "sub", "truediv", "where")
)
MOVES = frozenset(
    ("bfloat16", "chunk", "clone", "contiguous", "detach", "dropout", "flatten", "float", "getitem", "half", "narrow")
    + ("permute", "reshape", "split", "squeeze", "to", "transpose", "type", "type_as", "unbind", "unsqueeze", "view")
)
# Of a model by what of it was asked for, an encoder-decoder's two by their own: body's id -> blocks.
_found: "WeakKeyDictionary[nn.Module, dict[int, dict[str, tuple[str, ...]]]]" = WeakKeyDictionary()
_normed: "WeakKeyDictionary[nn.Module, dict[str, str]]" = WeakKeyDictionary()


class _Made(NamedTuple):
    """Which linear layers made a tensor, and what the first activation behind them read, if there was one."""

    by: frozenset[str]
    before: Tensor | None = None


class _Follow(TorchFunctionMode):
    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **kwargs or {})
        given = [t for a in args for t in (a if isinstance(a, list | tuple) else (a,)) if isinstance(t, Tensor)]
        made = [m for t in given if (m := getattr(t, "_made", None)) is not None]
        name = getattr(function, "__name__", "").strip("_")
        if not made or name not in ACTIVATIONS | POINTWISE | MOVES:
            return out
        widest = max(t.numel() for t in given if hasattr(t, "_made"))
        if any(t.numel() >= widest and not hasattr(t, "_made") for t in given):
            # Met something else of its size: attention's output, a residual stream, a state.
            return out
        by = frozenset().union(*(m.by for m in made))
        read = next((m.before for m in made if m.before is not None), None)
        tag = _Made(by, given[0] if read is None and name in ACTIVATIONS else read)
        for tensor in out if isinstance(out, list | tuple) else (out,):
            if isinstance(tensor, Tensor):
                tensor._made = tag  # type: ignore[attr-defined]
        return out


def blocks_of(model: nn.Module, body: nn.Module) -> dict[str, tuple[str, ...]]:
    """Name of each down-projection in `body` -> names of the linear layers that make its neurons, in the order of a forward.

    Names are those in `model`. Empty where nothing is found. ValueError where one is read twice, as in layers that share
    their weights, or where blocks differ in width: a neuron has no number of its own there.
    """
    found = _found.setdefault(model, {})
    if id(body) not in found:
        found[id(body)] = _follow(model, body)
    return found[id(body)]


def normed(model: nn.Module) -> dict[str, str]:
    """Name of each down-projection of `blocks_of` that reads its neurons through a norm -> the norm's name, as in BitNet."""
    return _normed.get(model, {})


@contextmanager
def gates_read(model: nn.Module, body: nn.Module) -> Iterator[dict[str, Tensor]]:
    """While it lasts: name of each down-projection whose neurons a gate multiplies -> what the gate's activation last read.

    A neuron fires where that is above 0; the product's sign may come from the other factor. Its shape is the neurons'.
    """
    blocks, found = blocks_of(model, body), dict[str, Tensor]()
    linear = {name: model.get_submodule(name) for down, ups in blocks.items() for name in (down, *ups)}
    gated = [
        name for name, ups in blocks.items() if sum(_outputs(linear[up]) for up in ups) == 2 * width_of(linear[name])
    ]

    def see(name: str, given: tuple[Any, ...]) -> None:
        if (read := given[0]._made.before) is not None:
            found[name] = read.reshape(given[0].shape)

    with ExitStack() as hooks:
        for name in {up for down in gated for up in blocks[down]}:
            hooks.enter_context(_marked(name, linear[name]))
        for name in gated:
            hooks.enter_context(linear[name].register_forward_pre_hook(lambda _m, a, n=name: see(n, a)))
        with _Follow():
            yield found


@torch.no_grad()
def _follow(model: Any, body: nn.Module) -> dict[str, tuple[str, ...]]:
    inside = {id(m) for m in body.modules()}
    linear = {n: m for n, m in model.named_modules() if id(m) in inside and _is_linear(n, m)}
    read: list[tuple[str, tuple[str, ...]]] = []
    norms: dict[tuple[str, ...], str] = {}

    def before(name: str, given: tuple[Any, ...]) -> None:
        if (ups := _ups_of(given)) and re.search(r"\.\d+\.", name):
            read.append((name, ups))

    def meets_norm(name: str, given: tuple[Any, ...]) -> None:
        if ups := _ups_of(given):
            norms[ups] = name

    with ExitStack() as hooks:
        for name, module in linear.items():
            hooks.enter_context(module.register_forward_pre_hook(lambda _m, a, n=name: before(n, a)))
            hooks.enter_context(_marked(name, module))
        for name, module in model.named_modules():
            weight = getattr(module, "weight", None)
            if id(module) in inside and isinstance(weight, Tensor) and weight.dim() == 1:
                hooks.enter_context(module.register_forward_pre_hook(lambda _m, a, n=name: meets_norm(n, a)))
        words = torch.arange(3, 9, device=next(model.parameters()).device)[None]
        takes = signature(body.forward).parameters
        # A decoder that stands alone hands on whatever it is given (BART's wrapper).
        if "input_ids" not in takes and all(p.kind is not Parameter.VAR_POSITIONAL for p in takes.values()):
            raise ValueError(
                f"{type(model).__name__}: its body is not asked with input_ids, so its blocks are not followed."
            )
        with _Follow():
            if getattr(model, "config", None) and model.config.is_encoder_decoder and body is model.get_decoder():
                model(input_ids=words, decoder_input_ids=words)
            else:
                body(input_ids=words)
    found = dict(read)
    _normed.setdefault(model, {}).update({down: norms[ups] for down, ups in found.items() if ups in norms})
    if len(found) < len(read):
        raise ValueError(
            f"{type(model).__name__}: layers share the feed-forward block {read[0][0]}, so its neurons have no layer of "
            "their own; expected a model with a block a layer."
        )
    widths = {width_of(linear[name]) for name in found}
    if len(widths) > 1:
        raise ValueError(
            f"{type(model).__name__}: its feed-forward blocks have {', '.join(map(str, sorted(widths)))} neurons; expected "
            "blocks of one width."
        )
    return found


def _ups_of(given: tuple[Any, ...]) -> tuple[str, ...]:
    """Names of the linear layers that made, through an activation, what a module is given; none of anything else."""
    made = getattr(given[0], "_made", None) if given else None
    return () if made is None or made.before is None else tuple(sorted(made.by))


def _marked(name: str, module: nn.Module) -> RemovableHandle:
    """While it lasts, what a linear layer gives is known to be of its making."""

    def mark(_module: nn.Module, _given: Any, out: Any) -> None:
        out._made = _Made(frozenset((name,)))

    return module.register_forward_hook(mark)


def _outputs(module: Any) -> int:
    return int(getattr(module, "base_layer", module).weight.numel()) // width_of(module)


def width_of(module: nn.Module) -> int:
    """Neurons that a down-projection reads: a Linear's or GPT-2's Conv1D's, which holds its weight the other way round."""
    layer: Any = getattr(module, "base_layer", module)
    return int(layer.weight.shape[0 if type(layer).__name__ == "Conv1D" else 1])


def _is_linear(name: str, module: nn.Module) -> bool:
    if ".lora_" in name or name.endswith("base_layer"):
        return False
    module = getattr(module, "base_layer", module)
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"

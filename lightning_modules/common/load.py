"""What save_pretrained wrote, loaded: refused in words, and never with weights that transformers draws at random."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from safetensors import SafetensorError
from torch import nn

from lightning_modules.common.attention_ways import AttentionError, known
from lightning_modules.common.machine import OF_THE_MACHINE
from lightning_modules.common.say import reason


@contextlib.contextmanager
def in_words(said: str, *, such: str = "") -> Iterator[None]:
    """ValueError for whatever a load meets. said: key and name, `backbone.name=FOLDER`; such: an example of a folder."""
    try:
        yield
    except (AttentionError, *OF_THE_MACHINE):
        raise
    except Exception as error:
        # What a file lacks is a KeyError of one name; a package that it needs, or weights of other sizes, have words.
        plain = isinstance(error, OSError | ValueError | SafetensorError | ImportError | RuntimeError)
        told = reason(error) if plain else f"{type(error).__name__}: {reason(error)}"
        raise ValueError(
            f"{said}: not loaded ({told}). Expected a folder written by save_pretrained{such}, or a hub name with the "
            "network or its cache at hand."
        ) from None


def model_of(
    load: Callable[..., Any],
    path: str,
    *,
    said: str,
    such: str = "",
    instead: str = "",
    unread: str = "",
    attention: str | None = None,
    **settings: Any,
) -> Any:
    """`load(path, ...)`, a class's from_pretrained, by safetensors alone and without code of its own.

    instead: what else could be asked for. unread: the part of a model that nothing reads; what of it is missing is zero.
    attention: transformers' attn_implementation, which `model.attention` named.

    Raises ValueError in words, also where the checkpoint lacks weights of that class: transformers draws them at random,
    other numbers at each load, and goes on. AttentionError where the family has no such attention.
    """
    given = dict(use_safetensors=True, trust_remote_code=False, output_loading_info=True, **settings)
    with in_words(said, such=such):
        if attention is None:
            model, told = load(path, **given)
        else:
            with known(attention):
                model, told = load(path, attn_implementation=attention, **given)
    missing = {name: weight for name, weight in model.named_parameters() if name in told["missing_keys"]}
    for name in [name for name in missing if unread and unread in name.split(".")]:
        nn.init.zeros_(missing.pop(name))
    if missing:
        raise ValueError(
            f"{said}: holds {', '.join(model.config.architectures or ['no class'])}, without {len(missing)} of the weights "
            f"of {type(model).__name__} ({next(iter(missing))} is one), which would be drawn at random; expected a "
            f"checkpoint with all of them{instead}."
        )
    return model


def adapted(net: Any, folder: str, **settings: Any) -> tuple[Any, list[str]]:
    """`net` with PEFT's adapter of a folder, and which of the adapter's weights stand in the folder or in `net` alone.

    PEFT leaves those out and goes on, with a warning at most.
    """
    from peft import PeftModel

    names = getattr(net, "_checkpoint_conversion_mapping", None)
    found = PeftModel.from_pretrained(net, folder, **settings)
    told = found.load_adapter(folder, "default", key_mapping=names, **settings)
    # Where a family has changed its names, weights come under both: those without a layer say nothing then.
    return found, [*told.missing_keys, *([] if names else told.unexpected_keys)]

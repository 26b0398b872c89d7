"""Any mixture of experts of transformers, by hub name or folder; what Facet computes of it is checked when it is loaded.

Shape legend: B sequences, S tokens, T = B x S.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from datamodules.corpus.words import loaded, rows_of
from lightning_modules.common.attention_ways import AttentionError
from lightning_modules.common.choices import check_choice
from lightning_modules.common.load import in_words, model_of
from lightning_modules.moe.attention import CAUSAL, narrower
from lightning_modules.moe.families import LOADED_DTYPES
from lightning_modules.moe.head import Head
from lightning_modules.moe.models import checkpoint_activations
from lightning_modules.moe.routers import when_told
from lightning_modules.moe.routing import RouterTap

SAME = 1e-4
EXPORT = ", such as the export/ folder of a finished run"


def pretrained_moe(
    *,
    pretrained: str,
    revision: str | None = None,
    tokenizer: str | None = None,
    seq_len: int | None = None,
    dtype: str = "float32",
    device_map: str | None = None,
    attention: str = "sdpa",
    experts_implementation: str = "sorted",
    gradient_checkpointing: bool = False,
) -> nn.Module:
    """The model of a folder written by save_pretrained, or of a hub name (network or its cache at hand).

    Safetensors alone, and no code of its own. tokenizer: what its text will be cut by, whose words it must have. seq_len:
    tokens of the windows it will read, for which it must have positions. dtype: of the weights; `auto`: as they were saved.
    device_map: where transformers puts its layers, `auto` for all devices.

    Raises ValueError for what is not there, no mixture of experts, more words or positions than the model has, a way of
    attention or of experts that it lacks, and where Facet would not compute what the model computes (`check`).
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    import lightning_modules.moe.experts  # noqa: F401, registers the `sorted` backend

    check_choice("model.dtype", dtype, LOADED_DTYPES)
    said = f"model.pretrained={pretrained}"
    place: dict[str, Any] = dict(revision=revision, local_files_only=Path(pretrained).is_dir())
    with in_words(said, such=EXPORT):
        config = AutoConfig.from_pretrained(pretrained, trust_remote_code=False, **place)
    if attention == CAUSAL and (otherwise := narrower(config)):
        raise AttentionError(
            f"model.attention={CAUSAL}: {said} has {otherwise}, which attention without a mask does not keep to. Expected "
            "full attention in every layer; the nearest is model.attention=sdpa."
        )
    words = config.get_text_config().vocab_size
    if tokenizer is not None:
        has = rows_of(loaded(tokenizer, revision=revision if tokenizer == pretrained else None))
        if has > words:
            raise ValueError(
                f"data.tokenizer={tokenizer} has {has} words but {said} has {words}; use the model's own: "
                f"data.tokenizer={pretrained}."
            )
    most = positions(config.get_text_config())
    if most is not None and (seq_len or 0) > most:
        raise ValueError(
            f"data.seq_len is {seq_len} tokens; expected at most {most}, the positions of {said}. Beyond them it has "
            "learned nothing; a longer context stands in its config.json as rope_parameters."
        )
    model = model_of(
        AutoModelForCausalLM.from_pretrained,
        pretrained,
        said=said,
        such=EXPORT,
        attention=attention,
        experts_implementation=experts_implementation,
        dtype=dtype if dtype == "auto" else getattr(torch, dtype),
        device_map=device_map,
        **place,
    )
    check(model, name=pretrained)
    if gradient_checkpointing:
        checkpoint_activations(model)
    return model


def positions(config: PretrainedConfig) -> int | None:
    """How many its config.json names, also by the factor that stretches rotary ones; None where it names none."""
    named = getattr(config, "max_position_embeddings", None)
    rope = getattr(config, "rope_parameters", None) or {}
    # A dict of one kind of layer each, in models with two kinds.
    kinds = [kind for kind in rope.values() if isinstance(kind, dict)] or [rope]
    stretched = [
        int(kind["factor"] * (kind.get("original_max_position_embeddings") or named or 0))
        for kind in kinds
        if kind.get("factor")
    ]
    return max(filter(None, (named, *stretched)), default=None)


@torch.no_grad()
def check(model: PreTrainedModel, *, name: str) -> tuple[str, float]:
    """Facet's loss and routing of one small batch against those of the model's plain forward.

    Returns how its routers score and the relative difference of the losses. Raises ValueError naming the family and the
    difference: of the losses, of who was chosen, or of the weights.
    """
    family, was_training = type(model).__name__, model.training
    words = model.config.get_text_config().vocab_size
    text_BS = torch.randint(words, (2, 17), generator=torch.Generator().manual_seed(0)).to(model.device)
    ids_BS, targets_T = text_BS[:, :-1], text_BS[:, 1:].flatten()
    model.eval()
    tap, head = RouterTap(model), Head(model)
    seen: list[tuple[Tensor, Tensor] | None] = []
    handles = [when_told(mixture.experts, seen.append) for mixture in tap.mixtures]
    try:
        logits_TV = model(input_ids=ids_BS, use_cache=False).logits.flatten(0, 1).float()
        plain = nn.functional.cross_entropy(logits_TV, targets_T.to(logits_TV.device))
        for handle in handles:
            handle.remove()
        tap.clear()
        ours = head.loss(head.body(input_ids=ids_BS, use_cache=False).last_hidden_state.flatten(0, 1), targets_T)
        _, indices_LTK = tap.read()
    finally:
        tap.remove()
        model.train(was_training)
    difference = abs(float(ours) - float(plain)) / abs(float(plain))
    limit = SAME if logits_TV.dtype == model.dtype else 0.02
    if not difference <= limit:
        raise ValueError(
            f"model.pretrained={name}: Facet's loss of {family} differs from the model's own by {difference:.2g} of it; at "
            f"most {limit:.2g} is allowed, so this family is not taken."
        )
    for layer, (theirs_TK, _) in enumerate(filter(None, seen)):
        theirs_TK = theirs_TK.flatten(0, -2)
        other = int((theirs_TK.sort(-1).values != indices_LTK[layer].sort(-1).values.to(theirs_TK.device)).sum())
        if other:
            raise ValueError(
                f"model.pretrained={name}: of {theirs_TK.numel()} choices of experts in layer {layer} of {family} Facet "
                f"reads {other} otherwise than the experts were told, so this family is not taken."
            )
    assert tap.scoring is not None
    return tap.scoring, difference

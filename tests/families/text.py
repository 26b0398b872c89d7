"""Every masked, causal and encoder-decoder language model of transformers, tiny and random, against its own plain forward.

`python -m tests.families.text` walks them all, `... text CLASS CLASS` some, and with FACET_RESULTS=1 writes
docs/results/families.json. A model is saved and loaded as `backbone=hub` loads it. The plain forward never sees a prompt:
spare words of its vocabulary are the prompt, so scores and the gradient of the prompt are compared with what nothing of
Facet computed.
"""

import sys
import tempfile
from pathlib import Path

import torch
import transformers as tf
from transformers.models.auto import modeling_auto as auto
from transformers.utils import logging

from lightning_modules.prompt.backbones import HubBackbone
from lightning_modules.prompt.families import start_token, word_embedding
from lightning_modules.prompt.load_check import LIMIT
from tests.families import moe, neurons
from tests.families.walk import WORDS, reason, tiny_config, tiny_model, walk
from tests.prompt import tiny

MAPPINGS = {
    "masked": auto.MODEL_FOR_MASKED_LM_MAPPING,
    "causal": auto.MODEL_FOR_CAUSAL_LM_MAPPING,
    "seq2seq": auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
}
IDS = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
SPARE = torch.tensor([60, 61, 62])
# What a family needs beside `SIZES`.
BESIDE = moe.BESIDE | {
    "bamba": {"attn_layer_indices": [1]},
    "codegen": {"n_head": 4},
    "falcon_h1": {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16},
    "funnel": {"block_sizes": [1, 1]},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "gemma4_text": {"num_kv_shared_layers": 0},
    "gemma4_unified_text": {"num_kv_shared_layers": 0},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "led": {"attention_window": 4},
    "lfm3": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"num_heads": 4, "head_dim": 16},
    "mobilebert": {"true_hidden_size": 16},
    "perceiver": {"max_position_embeddings": 48},
    "qwen3_5_text": moe.HYBRID,
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
    "reformer": {"axial_pos_embds_dim": [8, 24], "axial_pos_shape": [8, 8], "attn_layers": ["local", "lsh"]},
    "roc_bert": {"shape_vocab_size": 64, "pronunciation_vocab_size": 64},
    "xlm": {"pad_index": 1, "bos_index": 0, "eos_index": 2},
    "flaubert": {"pad_index": 1, "bos_index": 0, "eos_index": 2},
    "xmod": {"default_language": "en_XX"},
    "zamba2": {"layer_types": ["mamba", "hybrid"]},
    "zamba": {"layer_types": ["mamba", "hybrid"]},
}


def gemma_pair():
    """T5Gemma's encoder and decoder have configs of their own."""
    part = tiny_config(tf.T5GemmaModuleConfig, BESIDE, **IDS).to_dict()
    return tf.T5GemmaConfig(encoder=part, decoder=part, vocab_size=WORDS, **IDS)


def bert_pair():
    encoder, decoder = (tiny_config(tf.BertConfig, BESIDE, **IDS) for _ in range(2))
    made = tf.EncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    made.pad_token_id = IDS["pad_token_id"]
    return made


# Configs that hold two.
MADE = {"T5GemmaForConditionalGeneration": gemma_pair, "EncoderDecoderModel": bert_pair}


def classes():
    """{class name: (mapping, model class)}; a class of two mappings stands in the first."""
    found = {}
    for mapping, pairs in MAPPINGS.items():
        for given in pairs.values():
            for model in given if isinstance(given, tuple) else (given,):
                found.setdefault(model.__name__, (mapping, model))
    return found


def saved(name, folder):
    """A tiny model of the class with a tokenizer, as a user's folder holds it."""
    mapping, model = classes()[name]
    beside = {"is_decoder": True} if mapping == "causal" else {}
    config = MADE[name]() if name in MADE else tiny_config(model.config_class, BESIDE, **IDS, **beside)
    if mapping == "seq2seq":
        config.decoder_start_token_id = 2
    tiny_model(config, model).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return model.from_pretrained(folder)


def batch_of(backbone):
    """Two texts of unlike length with room for the prompt behind their first word; labels."""
    ids = torch.randint(5, 26, (2, 12), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    ids[1, 9:], mask[1, 9:] = backbone.tokenizer.pad_token_id, 0
    ask = torch.tensor([11, 8]) if backbone.kind == "causal" else torch.tensor([6, 0])
    ids[:, 1:4] = backbone.tokenizer.pad_token_id
    return {"input_ids": ids, "attention_mask": mask, "ask": ask, "prompt_at": 1, "label_ids": torch.tensor([5, 9])}


def plain_scores(net, kind, batch):
    """Scores [B, C] of the model's own forward, the spare words written where the prompt stands."""
    ids = batch["input_ids"].clone()
    ids[:, 1:4] = SPARE
    asked = {"input_ids": ids, "attention_mask": batch["attention_mask"]}
    if kind == "seq2seq":
        logits_BV = net(**asked, decoder_input_ids=torch.full((2, 1), start_token(net))).logits[:, 0]
    else:
        logits_BV = net(**asked).logits[torch.arange(2), batch["ask"]]
    return logits_BV[:, batch["label_ids"]]


def differences(net, backbone):
    """Relative differences of scores and of the prompt's gradient between Facet and the plain model `net`."""
    batch, labels = batch_of(backbone), torch.tensor([0, 1])
    found = []
    for model, ask in (
        (net, lambda: plain_scores(net, backbone.kind, batch)),
        (backbone.model, lambda: backbone.scores(batch, word_embedding(backbone.model)(SPARE), lean=True)),
    ):
        weight = word_embedding(model).weight
        weight.requires_grad_(True)
        scores_BC = ask()
        try:
            (gradient,) = torch.autograd.grad(torch.nn.functional.cross_entropy(scores_BC, labels), weight)
        except RuntimeError:
            if model is not net:
                raise
            # RWKV's own forward writes over what its gradient needs: only scores are compared.
            own_BC = backbone.scores(batch, word_embedding(backbone.model)(SPARE))
            return float((own_BC - scores_BC).abs().max() / scores_BC.abs().max()), 0.0
        found.append((scores_BC.detach(), gradient[SPARE]))
    (expected, slope), (scores, own) = found
    return float((scores - expected).abs().max() / expected.abs().max()), float((own - slope).norm() / slope.norm())


def verdict(name):
    """The row of one class."""
    mapping, model = classes()[name]
    row = {"system": "prompt", "family": model.config_class.model_type, "class": name, "difference": None, "why": ""}
    with tempfile.TemporaryDirectory() as folder:
        try:
            net = saved(name, Path(folder))
            batch = torch.tensor([[3, 4, 5, 6]])
            plain = {"decoder_input_ids": batch[:, :1]} if mapping == "seq2seq" else {}
            net(input_ids=batch, **plain)
        except Exception as error:
            return {**row, "verdict": "not built", "why": reason(error)}
        try:
            backbone = HubBackbone(name=folder).load()
        except ValueError as error:
            return {**row, "verdict": "refused", "why": str(error).replace(f"backbone.name={folder}: ", "")}
        except Exception as error:
            return {**row, "verdict": "wrong", "why": reason(error)}
    try:
        scores, slope = differences(net, backbone)
    except Exception as error:
        return {**row, "verdict": "wrong", "why": reason(error)}
    right = scores <= LIMIT and slope <= 10 * LIMIT
    why = mapping if right else f"scores differ by {scores:.2g}, the prompt's gradient by {slope:.2g}"
    found = {"verdict": "right" if right else "wrong", "difference": scores, "why": why}
    found["neurons"] = neurons.said(backbone, batch_of(backbone))
    if found["neurons"].startswith("wrong"):
        found["verdict"] = "wrong"
    return {**row, **found}


if __name__ == "__main__":
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    sys.exit(walk(sorted(classes()), verdict, least=40))

"""One tiny randomly initialised model per family, saved to disk with a tokenizer, as a user's own would be."""

from pathlib import Path

import torch

WORDS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>", "good", "bad", "film", "shop", "the", "was", "it", "fine", "awful")
FAMILIES = ("bert", "roberta", "deberta", "distilbert", "gpt2", "llama", "t5", "t5_gated")


def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({w: n for n, w in enumerate(WORDS)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = dict(unk_token="<unk>", pad_token="<pad>", mask_token="<mask>", cls_token="<s>", sep_token="</s>")
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", **names)


def build(family: str):
    """The model, without dropout."""
    import transformers as t

    bert = dict(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=64,
        pad_token_id=1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    torch.manual_seed(0)
    if family == "bert":
        return t.BertForMaskedLM(t.BertConfig(**bert))
    if family == "roberta":
        return t.RobertaForMaskedLM(t.RobertaConfig(**bert))
    if family == "deberta":
        relative = dict(relative_attention=True, position_buckets=8, pos_att_type=["p2c", "c2p"])
        return t.DebertaV2ForMaskedLM(t.DebertaV2Config(**bert, **relative))
    if family == "distilbert":
        sizes = dict(vocab_size=len(WORDS), dim=16, n_layers=2, n_heads=2, hidden_dim=24, max_position_embeddings=64)
        return t.DistilBertForMaskedLM(t.DistilBertConfig(**sizes, pad_token_id=1, dropout=0.0, attention_dropout=0.0))
    if family == "gpt2":
        sizes = dict(vocab_size=len(WORDS), n_embd=16, n_layer=2, n_head=2, n_inner=24, n_positions=64)
        none = dict(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
        return t.GPT2LMHeadModel(t.GPT2Config(**sizes, **none, bos_token_id=0, eos_token_id=2, pad_token_id=1))
    if family == "llama":
        names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        sizes = {n: bert[n] for n in (*names, "max_position_embeddings", "pad_token_id")}
        return t.LlamaForCausalLM(t.LlamaConfig(**sizes, bos_token_id=0, eos_token_id=2))
    kind = "gated-gelu" if family == "t5_gated" else "relu"
    sizes = dict(vocab_size=len(WORDS), d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, dropout_rate=0.0)
    tokens = dict(pad_token_id=1, eos_token_id=2, decoder_start_token_id=1)
    return t.T5ForConditionalGeneration(t.T5Config(**sizes, **tokens, feed_forward_proj=kind))


def saved(family: str, folder: Path) -> Path:
    build(family).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder

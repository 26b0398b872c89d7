"""One tiny, randomly initialised model a family, saved to disk with a small tokenizer, as `backbone=hub` meets them."""

from functools import cache
from pathlib import Path

import pytorch_lightning as pl
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from datamodules.tasks import TaskDataModule
from datamodules.tasks.task import Task
from lightning_modules.prompt.backbone import Backbone
from lightning_modules.prompt.backbones import HubBackbone
from lightning_modules.prompt.tuners import Adapter, BitFit, FullFineTuning, LoRA

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
CLASSES = ("good", "bad")
NOUNS = ("film", "plot", "cast", "score", "scene", "end")
MOODS = (("fine", "warm", "bright"), ("dull", "cold", "grim"))
WORDS = (*SPECIAL, *CLASSES, "well", "made", "-", "the", "is", "it", "was", *NOUNS, *MOODS[0], *MOODS[1])
POSITIONS, WIDTH, FFN, LAYERS = 40, 16, 24, 3
TUNERS = {"bitfit": BitFit, "adapter": Adapter, "lora": LoRA, "full": FullFineTuning}
FAMILIES = ("bert", "roberta", "deberta_v2", "deberta_tied", "distilbert", "gpt2", "llama", "t5", "t5_gated")


def tokenizer():
    from transformers import PreTrainedTokenizerFast

    vocabulary = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    vocabulary.pre_tokenizer = pre_tokenizers.Whitespace()
    names = dict(zip(("bos_token", "pad_token", "eos_token", "unk_token", "mask_token"), SPECIAL, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=vocabulary, **names, cls_token="<s>", sep_token="</s>")


def network(family: str):
    """Weights are drawn wide, so that a difference between two ways of computing shows."""
    import transformers as t

    common = dict(vocab_size=len(WORDS), pad_token_id=1, bos_token_id=0, eos_token_id=2)
    bert = dict(hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=2, intermediate_size=FFN)
    bert |= dict(common, max_position_embeddings=POSITIONS, initializer_range=0.3)
    deberta = dict(relative_attention=True, pos_att_type=["p2c", "c2p"], position_biased_input=True, type_vocab_size=0)
    distil = dict(dim=WIDTH, n_layers=LAYERS, n_heads=2, hidden_dim=FFN, max_position_embeddings=POSITIONS)
    gpt2 = dict(n_embd=WIDTH, n_layer=LAYERS, n_head=2, n_inner=FFN, n_positions=POSITIONS, initializer_range=0.3)
    t5 = dict(d_model=WIDTH, d_kv=8, d_ff=FFN, num_layers=LAYERS, num_heads=2, decoder_start_token_id=1)
    mamba = dict(hidden_size=WIDTH, state_size=4, num_hidden_layers=LAYERS, initializer_range=0.3)
    # FLAN-T5's blocks; its head is not its embedding.
    gated = dict(feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    made = {
        "bert": (t.BertForMaskedLM, t.BertConfig, bert),
        "roberta": (t.RobertaForMaskedLM, t.RobertaConfig, bert | dict(max_position_embeddings=POSITIONS + 2)),
        "deberta_v2": (t.DebertaV2ForMaskedLM, t.DebertaV2Config, bert | deberta),
        "deberta_tied": (t.DebertaV2ForMaskedLM, t.DebertaV2Config, bert | deberta | dict(legacy=False)),
        "distilbert": (t.DistilBertForMaskedLM, t.DistilBertConfig, common | distil | dict(initializer_range=0.3)),
        "gpt2": (t.GPT2LMHeadModel, t.GPT2Config, common | gpt2),
        "mamba": (t.MambaForCausalLM, t.MambaConfig, common | mamba),
        "llama": (t.LlamaForCausalLM, t.LlamaConfig, bert | dict(num_key_value_heads=1)),
        "t5": (t.T5ForConditionalGeneration, t.T5Config, common | t5),
        "t5_gated": (t.T5ForConditionalGeneration, t.T5Config, common | t5 | gated),
    }
    kind, config, settings = made[family]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind(config(**settings)).eval()


def save(family: str, folder: Path) -> str:
    network(family).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


class Reviews:
    """Two classes told apart by one word a text, of uneven lengths."""

    @cache  # noqa: B019
    def task(self, name: str) -> Task:
        draw = torch.Generator().manual_seed(0)
        pick = lambda words: words[int(torch.randint(len(words), (), generator=draw))]  # noqa: E731
        texts, labels = {}, {}
        for split, size in {"train": 24, "val": 21, "test": 8}.items():
            labels[split] = [i % 2 for i in range(size)]
            tails = [" ".join(f"it was {pick(NOUNS)}" for _ in range(i % 3)) for i in range(size)]
            texts[split] = [
                f"the {pick(NOUNS)} is {pick(MOODS[c])} {tail}" for c, tail in zip(labels[split], tails, strict=True)
            ]
        return Task(name, "mood", CLASSES, texts, labels, hint="it was")


def data(spec: HubBackbone, **settings) -> TaskDataModule:
    return TaskDataModule(source=Reviews(), task="reviews", backbone=spec, **dict(prompt_length=3, batch=8) | settings)


def trainer(steps: int, **settings) -> pl.Trainer:
    quiet = dict(logger=False, enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False)
    return pl.Trainer(max_steps=steps, accelerator="cpu", use_distributed_sampler=False, **quiet, **settings)


def batches(module: TaskDataModule, split: str, size: int) -> list[dict]:
    examples = module.examples(split)
    return [examples.__getitems__(list(range(len(examples)))[i : i + size]) for i in range(0, len(examples), size)]


def prompt_of(backbone: Backbone, length: int = 3) -> torch.Tensor:
    return torch.randn(length, backbone.width, generator=torch.Generator().manual_seed(1))

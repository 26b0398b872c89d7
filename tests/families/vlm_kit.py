"""What tiny vision-language families are made of: templates, a tokenizer of bytes, towers and decoders."""

from typing import Any

import torch
import transformers as tf
from torch import nn

BLIND = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
TEXT = {**BLIND, "num_key_value_heads": 2, "max_position_embeddings": 2048, "pad_token_id": 0}
SIDE = {"height": 32, "width": 32}
ANSWER = "{% for c in m['content'] %}{{ c['text'] }}{% endfor %}"


def template(user: str, answer: str, opening: str, *, image: str, begin: str = "") -> str:
    """Turns of text and pictures; `{}` in `user` and `answer` stands for what is said."""
    part = "{% if c['type'] == 'image' %}" + image + "{% else %}{{ c['text'] }}{% endif %}"
    parts = "{% for c in m['content'] %}" + part + "{% endfor %}"
    said = user.replace("{}", parts), answer.replace("{}", ANSWER)
    turns = f"{{% if m['role'] == 'assistant' %}}{said[1]}{{% else %}}{said[0]}{{% endif %}}"
    return (
        f"{begin}{{% for m in messages %}}{turns}{{% endfor %}}{{% if add_generation_prompt %}}{opening}{{% endif %}}"
    )


CHATML = ("<|im_start|>user\n{}<|im_end|>\n", "<|im_start|>assistant\n{}<|im_end|>\n", "<|im_start|>assistant\n")
VICUNA = ("USER: {} ", "ASSISTANT: {} ", "ASSISTANT:")
IDEFICS = ("User:{}<end_of_utterance>\n", "Assistant: {}<end_of_utterance>\n", "Assistant:")
GEMMA = ("<start_of_turn>user\n{}<end_of_turn>\n", "<start_of_turn>model\n{}<end_of_turn>\n", "<start_of_turn>model\n")
LLAMA = ("<|h|>user<|/h|>\n\n{}<|eot_id|>", "<|h|>assistant<|/h|>\n\n{}<|eot_id|>", "<|h|>assistant<|/h|>\n\n")
INST = ("[INST]{}[/INST]", "{}</s>", "")


def tokenizer(*special: str, **named: str) -> Any:
    """Bytes and the given special tokens; the first ones are padding, beginning and end."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {
        word: n for n, word in enumerate(dict.fromkeys(["<pad>", "<s>", "</s>", *special, *named.values(), *letters]))
    }
    plain = Tokenizer(models.BPE(vocab=words, merges=[]))
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    plain.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B:1", special_tokens=[("<s>", 1)]
    )
    made = tf.PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token="<pad>", bos_token="<s>", eos_token="</s>", extra_special_tokens=named
    )
    made.add_tokens([tf.AddedToken(mark, special=True, normalized=False) for mark in special], special_tokens=True)
    return made


def model(config: Any, kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    net = kind._from_config(config, attn_implementation="sdpa") if hasattr(kind, "_from_config") else kind(config)
    with torch.no_grad():
        for weight in net.parameters():
            # Large enough that attention is not all but uniform, nor a projection of pictures zero: faults must show.
            if weight.dim() >= 2 and not weight.any():
                weight.normal_(std=0.05)
            if weight.dim() >= 2:
                weight.mul_(4)
    return net.eval()


def clip(**more: Any) -> Any:
    return tf.CLIPVisionConfig(**BLIND, image_size=32, patch_size=8, **more)


def siglip(**more: Any) -> Any:
    return tf.SiglipVisionConfig(**BLIND, image_size=32, patch_size=8, **more)


def llama(words: Any, **more: Any) -> Any:
    return tf.LlamaConfig(vocab_size=len(words), **{**TEXT, **more})

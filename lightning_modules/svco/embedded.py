"""The embedded vision-language model: a tiny LLaVA with a word tokenizer, made of transformers' own classes."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from datamodules.scenes.language import vocabulary
from lightning_modules.common.bounds import Count

SPECIAL = ("<pad>", "<unk>", "<s>", "</s>", "<image>", "<user>", "<assistant>")
TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'user' %}<user>{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %} <image>{% else %} {{ c['text'] }}{% endif %}{% endfor %}{% endif %}{% endfor %}"
    " <assistant>"
)


def build_processor(*, pixels: Count = 48, patch: Count = 8, more: Sequence[str] = ()) -> Any:
    """A LlavaProcessor over every word that scenes use, and `more`, whose numbers come after."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import CLIPImageProcessorPil, LlavaProcessor, PreTrainedTokenizerFast

    words = {word: number for number, word in enumerate(dict.fromkeys([*SPECIAL, *vocabulary(), *more]))}
    plain = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=plain,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<image>", "<user>", "<assistant>"],
        padding_side="left",
    )
    side = {"height": pixels, "width": pixels}
    image_processor = CLIPImageProcessorPil(
        size=side, crop_size=side, do_center_crop=False, image_mean=[0.5] * 3, image_std=[0.25] * 3
    )
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )


def build_llava(
    *,
    words: Count,
    image_token: int,
    pixels: Count = 48,
    patch: Count = 8,
    width: Count = 128,
    vision_layers: Count = 3,
    layers: Count = 3,
    heads: Count = 4,
    positions: Count = 256,
) -> nn.Module:
    """A LlavaForConditionalGeneration with fresh weights; vision tower and decoder share `width`."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    vision = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=vision_layers,
        num_attention_heads=heads,
        image_size=pixels,
        patch_size=patch,
        projection_dim=width,
    )
    text = LlamaConfig(
        vocab_size=words,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=positions,
        tie_word_embeddings=False,
        bos_token_id=SPECIAL.index("<s>"),
        eos_token_id=SPECIAL.index("</s>"),
        pad_token_id=SPECIAL.index("<pad>"),
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=image_token,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=(pixels // patch) ** 2,
        tie_word_embeddings=False,
    )
    net = LlavaForConditionalGeneration(config)
    net.generation_config.eos_token_id = SPECIAL.index("</s>")
    net.generation_config.pad_token_id = SPECIAL.index("<pad>")
    return net

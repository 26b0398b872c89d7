"""A checkpoint that lacks weights is refused wherever one is loaded: transformers draws them at random and goes on."""

import pytest
import transformers as tf

from lightning_modules.common.load import model_of
from lightning_modules.svco.loading import load_vlm
from lightning_modules.svco.mvc.filters import ModelSimilarity
from lightning_modules.svco.mvc.rewriting import LanguageModel
from tests.families.vlm import parts
from tests.svco.toy import tiny_vlm

SMALL = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)


def llama(folder):
    """Without its head, beside a tokenizer."""
    tokenizer = tiny_vlm().reader.tokenizer
    tf.LlamaModel(tf.LlamaConfig(vocab_size=len(tokenizer), **SMALL)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_of_what_rewords_captions(tmp_path):
    with pytest.raises(ValueError, match=r"^study.rewriter.path=.*holds LlamaModel, without 1 .*lm_head.weight is one"):
        LanguageModel(path=llama(tmp_path))


def test_of_what_tells_pictures_apart(tmp_path):
    """A classifier's checkpoint has no pooler, whose output is what pictures would be compared by."""
    tf.ViTForImageClassification(tf.ViTConfig(**SMALL, image_size=16, patch_size=8)).save_pretrained(tmp_path)
    tf.ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds ViTForImageClassification, without 2 .*pooler.dense.* drawn at random"):
        ModelSimilarity(path=str(tmp_path))._parts  # noqa: B018, the load


def test_a_masked_autoencoder_tells_no_pictures_apart(tmp_path):
    """It hides three patches of four at random, so one picture was unlike itself."""
    tf.ViTMAEModel(tf.ViTMAEConfig(**SMALL, image_size=64, patch_size=8)).save_pretrained(tmp_path)
    tf.ViTImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"ViTMAEModel gives one picture other features each time .* SigLIP, CLIP"):
        ModelSimilarity(path=str(tmp_path))._parts  # noqa: B018, the load


def test_of_what_stands_beside_a_model(tmp_path):
    folder = llama(tmp_path)
    tf.LlamaForCausalLM.from_pretrained(folder).save_pretrained(folder)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"^study.rewriter.path=.*: not loaded \("):
        LanguageModel(path=folder)
    tf.ViTModel(tf.ViTConfig(**SMALL, image_size=16, patch_size=8)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"^/.*: not loaded \(.*Expected a folder written by save_pretrained"):
        ModelSimilarity(path=folder)._parts  # noqa: B018, the load


def test_of_what_sees(tmp_path):
    net, processor = parts("llava")
    net.model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"^model.path=.*holds LlavaModel, without 1 .*LlavaForConditionalGeneration"):
        load_vlm(path=str(tmp_path))


def test_a_damaged_file_is_told_with_its_key(tmp_path):
    folder = llama(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ValueError, match=r"^model.path=.*: not loaded \(.*or a hub name with the network"):
        model_of(tf.AutoModel.from_pretrained, folder, said=f"model.path={folder}")

"""Real families by path: tiny, randomly initialised, saved to disk with their processors."""

import pytest
import torch

from lightning_modules.svco import checking
from lightning_modules.svco.loading import load_vlm
from lightning_modules.svco.losses import SCORES
from lightning_modules.svco.scores import Row, pair_scores, scores_of, separate
from tests.svco.toy import tiny_vlm, toy_pairs

TEXT = dict(hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2)


def save_llava(folder):
    vlm = tiny_vlm()
    vlm.core.save_pretrained(folder)
    vlm.reader.processor.save_pretrained(folder)


def save_interleave(folder):
    """LLaVA-Interleave is a llava with a SigLIP tower, a Qwen2 decoder and all patches kept."""
    from transformers import (
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        Qwen2Config,
        SiglipImageProcessorPil,
        SiglipVisionConfig,
    )

    tokenizer = tiny_vlm().reader.tokenizer
    vision = SiglipVisionConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=48, patch_size=8
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=Qwen2Config(vocab_size=len(tokenizer), **TEXT),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    torch.manual_seed(0)
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    processor = SiglipImageProcessorPil(size={"height": 48, "width": 48})
    LlavaProcessor(
        image_processor=processor, tokenizer=tokenizer, patch_size=8, vision_feature_select_strategy="full"
    ).save_pretrained(folder)


@pytest.mark.parametrize("save", [save_llava, save_interleave])
@torch.no_grad()
def test_a_model_by_path_has_shared_scores_equal_to_full_forwards(tmp_path, save):
    save(tmp_path)
    vlm = load_vlm(path=str(tmp_path)).eval()
    pairs = [vlm.reader.encode(p, p.images(48)) for p in toy_pairs(3)]
    rows = [Row(p.prompt_w, p.inputs_w, [p.response_w, p.response_l]) for p in pairs]
    assert torch.allclose(scores_of(vlm, rows), separate(vlm, rows), rtol=1e-5)
    assert set(pair_scores(vlm, pairs, SCORES)) == set(SCORES)


@pytest.mark.parametrize("family", ["idefics3", "smolvlm"])
@torch.no_grad()
def test_idefics_like_models_share_too(family):
    """Their processors need files of a hub; image tokens and pixels are laid out by hand."""
    from transformers import (
        Idefics3Config,
        Idefics3ForConditionalGeneration,
        SmolVLMConfig,
        SmolVLMForConditionalGeneration,
    )

    from datamodules.scenes.reader import Reader
    from lightning_modules.svco.models import prepared

    reader: Reader = tiny_vlm().reader
    image = reader.tokenizer.convert_tokens_to_ids("<image>")
    kinds = {
        "idefics3": (Idefics3Config, Idefics3ForConditionalGeneration),
        "smolvlm": (SmolVLMConfig, SmolVLMForConditionalGeneration),
    }
    config_class, model_class = kinds[family]
    vision = dict(
        hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8
    )
    text = dict(model_type="llama", vocab_size=len(reader.tokenizer), pad_token_id=0, **TEXT)
    config = config_class(vision_config=vision, text_config=text, image_token_id=image, scale_factor=2, pad_token_id=0)
    torch.manual_seed(0)
    vlm = prepared(net=model_class(config).eval(), reader=reader, lora_rank=0, freeze_vision=True)
    draw = torch.Generator().manual_seed(0)
    rows = []
    for length in (3, 5):
        prompt = torch.cat([torch.full((4,), image), torch.arange(10, 10 + length)])
        pixels = torch.rand(1, 1, 3, 32, 32, generator=draw)
        rows.append(Row(prompt, {"pixel_values": pixels}, [torch.tensor([20, 21, 3]), torch.tensor([22, 3])]))
    assert vlm.family == family
    assert torch.allclose(scores_of(vlm, rows), separate(vlm, rows), rtol=1e-5)
    other = [rows[0]._replace(inputs=rows[1].inputs), rows[1]]
    assert not torch.equal(scores_of(vlm, rows)[:2], scores_of(vlm, other)[:2])


def test_a_model_without_image_support_is_refused(tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    LlamaForCausalLM(LlamaConfig(vocab_size=64, **TEXT)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"is a llama model, which takes no images; expected"):
        load_vlm(path=str(tmp_path))
    with pytest.raises(ValueError, match=r"no config\.json there.*model\.local_files_only=false"):
        load_vlm(path=str(tmp_path / "none"))


@torch.no_grad()
def test_qwen2_vl_goes_through_full_forwards():
    """Its positions are no plain sequence, so nothing is shared; the score is what transformers' own loss says."""
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    from lightning_modules.svco.models import SHARED, prepared

    reader = tiny_vlm().reader
    image, words = reader.tokenizer.convert_tokens_to_ids("<image>"), len(reader.tokenizer)
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e4}
    config = Qwen2VLConfig(
        text_config=dict(vocab_size=words + 4, bos_token_id=2, eos_token_id=3, rope_parameters=rope, **TEXT),
        vision_config=dict(depth=1, embed_dim=32, num_heads=2, hidden_size=32, patch_size=8, mlp_ratio=1),
        image_token_id=image,
        video_token_id=words,
        vision_start_token_id=words + 1,
        vision_end_token_id=words + 2,
    )
    torch.manual_seed(0)
    vlm = prepared(net=Qwen2VLForConditionalGeneration(config).eval(), reader=reader, lora_rank=0, freeze_vision=True)
    assert vlm.family not in SHARED
    prompt = torch.tensor([words + 1, image, image, image, image, words + 2, 10, 11])
    inputs = {"pixel_values": torch.rand(16, 3 * 2 * 8 * 8), "image_grid_thw": torch.tensor([[1, 4, 4]])}
    inputs["mm_token_type_ids"] = (prompt == image).long()[None]
    response = torch.tensor([20, 21, 3])
    found = scores_of(vlm, [Row(prompt, inputs, [response, response[1:]])])
    ids = torch.cat([prompt, response])[None]
    labels = ids.masked_fill(torch.arange(ids.shape[1]) < len(prompt), -100)
    kinds = torch.cat([inputs["mm_token_type_ids"], torch.zeros(1, 3, dtype=torch.long)], 1)
    own = vlm.core(input_ids=ids, labels=labels, **{**inputs, "mm_token_type_ids": kinds}).loss
    assert float(found[0]) == pytest.approx(-3 * float(own), rel=1e-5)
    assert len(found) == 2
    # The tower is frozen; what joins it to the decoder trains, as in every family.
    visual = {n: p.requires_grad for n, p in vlm.named_parameters() if "visual." in n}
    assert {n for n, trains in visual.items() if trains} == {n for n in visual if ".merger." in n} != set()


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, torch.AcceleratorError])
def test_what_the_machine_had_no_room_for_is_no_verdict_on_the_family(tmp_path, monkeypatch, error):
    def fails(*_):
        raise error("out of memory")

    with monkeypatch.context() as patch:
        patch.setitem(checking.WAYS, "shared", fails)
        with pytest.raises(error):
            checking.checked(tiny_vlm(), cache_dir=str(tmp_path))
    assert checking.checked(tiny_vlm(), cache_dir=str(tmp_path)).way == "shared"


def test_a_verdict_is_of_a_way_of_attention_and_a_kind_of_device():
    vlm = tiny_vlm()
    kinds = [checking.kind(vlm), checking.kind(tiny_vlm(seed=1))]
    vlm.net.model.language_model.set_attn_implementation("eager")
    kinds.append(checking.kind(vlm))
    vlm.net.set_attn_implementation("eager")
    kinds += [checking.kind(vlm), checking.kind(vlm.to("meta"))]
    assert kinds[0] == kinds[1] and len(set(kinds)) == 4

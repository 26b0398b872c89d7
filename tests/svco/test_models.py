"""Models by path in other dtypes and with activations computed again; scores of several ranks."""

from pathlib import Path

import pytest
import torch

from datamodules.scenes import EmojiSource, MVCSource, PreferenceSource
from lightning_modules.svco import builds, loading
from lightning_modules.svco.benchmarks import Benchmarks
from lightning_modules.svco.loading import load_vlm
from lightning_modules.svco.models import VLM, export
from lightning_modules.svco.scores import pair_scores
from tests.ranks import run_ranks
from tests.svco.test_module import fit
from tests.svco.toy import encode, toy_pairs


def saved(vlm, folder):
    vlm.core.save_pretrained(folder)
    vlm.reader.processor.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    from tests.svco.toy import tiny_vlm

    return saved(tiny_vlm(), tmp_path_factory.mktemp("model"))


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"lora_rank": 2}, {"gradient_checkpointing": True}])
def test_bfloat16_takes_three_steps(path, settings):
    vlm = load_vlm(path=path, dtype="bfloat16", **settings)
    assert vlm.core.dtype == torch.bfloat16
    curve, module, _ = fit(steps=3, model=vlm, lr=1e-2)
    assert curve.loss[0] == pytest.approx(4 * 0.693147, abs=0.02)
    assert all(loss == loss and loss != curve.loss[0] for loss in curve.loss[1:])
    assert next(p for p in module.vlm.parameters() if p.requires_grad).dtype == (
        torch.float32 if "lora_rank" in settings else torch.bfloat16
    )


@pytest.mark.parametrize("way", ["shared", "continued"])
def test_activations_computed_again_give_the_same_gradients(path, way, monkeypatch):
    def gradients(again):
        vlm = load_vlm(path=path, gradient_checkpointing=again).train()
        vlm.way = way
        pair_scores(vlm, encode(vlm, toy_pairs(3)), ("ww", "wl", "nw"))["ww"].sum().backward()
        return {n: p.grad for n, p in vlm.named_parameters() if p.grad is not None}

    kept, again = gradients(False), gradients(True)
    assert kept.keys() == again.keys() and len(kept) > 10
    for name, gradient in kept.items():
        torch.testing.assert_close(again[name], gradient, rtol=1e-4, atol=1e-5, msg=name)


def test_what_cannot_be_loaded_is_named(path, monkeypatch):
    with pytest.raises(ValueError, match="model.quantize=4bit needs bitsandbytes, which is not installed"):
        load_vlm(path=path, quantize="4bit", lora_rank=2)
    monkeypatch.setattr(loading, "find_spec", lambda name: True)
    with pytest.raises(ValueError, match="trains adapters alone, and model.lora_rank is 0"):
        load_vlm(path=path, quantize="4bit")
    with pytest.raises(ValueError, match="model.dtype"):
        load_vlm(path=path, dtype="bfloat")


def reference_on(rank, ranks):
    from pytorch_lightning.strategies import DDPStrategy

    more = {"strategy": DDPStrategy(process_group_backend="gloo"), "devices": ranks} if ranks > 1 else {}
    _, module, _ = fit(steps=1, train=66, **more)
    return module._cache["train"]


def test_reference_scores_of_two_ranks_are_those_of_one():
    (one,) = run_ranks(reference_on, 1)
    first, second = run_ranks(reference_on, 2)
    assert one["ww"].shape == (66,)
    for name, expected in one.items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], expected, rtol=1e-6, atol=1e-5)


def test_lora_is_an_adapter_of_peft_with_equal_scores_and_a_path_of_its_own(path, tmp_path):
    from peft import PeftModel
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForImageTextToText

    vlm = load_vlm(path=path, lora_rank=2)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in vlm.net.named_parameters():
            if "lora_" in name:
                weight.copy_(torch.randn(weight.shape, generator=draw) * 0.1)
    pairs, needs = encode(vlm, toy_pairs(3)), ("ww", "wl", "nl")
    export(vlm, tmp_path / "export")
    with torch.no_grad():
        ours, base = (pair_scores(v, pairs, needs) for v in (vlm, load_vlm(path=path)))
        plain = AutoModelForImageTextToText.from_pretrained(path).eval()
        theirs = pair_scores(
            VLM(net=PeftModel.from_pretrained(plain, str(tmp_path / "export" / "adapter")), reader=vlm.reader),
            pairs,
            needs,
        )
        loaded = load_vlm(path=str(tmp_path / "export" / "adapter"))
        again = pair_scores(loaded, pairs, needs)
    assert not loaded.adapted
    for name in needs:
        assert not torch.allclose(ours[name], base[name], rtol=1e-3)
        torch.testing.assert_close(theirs[name], ours[name])
        torch.testing.assert_close(again[name], ours[name])
    # Weights that stand in the folder alone, or in the model alone, PEFT leaves out with a warning.
    place = tmp_path / "export" / "adapter"
    weights = load_file(place / "adapter_model.safetensors")
    some = next(iter(weights))
    for others in (
        {f"another.{name}": weight for name, weight in weights.items()},
        {name: weight for name, weight in weights.items() if name != some},
        {**weights, some.replace("layers.0", "layers.7"): weights[some].clone()},
    ):
        save_file(others, place / "adapter_model.safetensors", metadata={"format": "pt"})
        with pytest.raises(
            ValueError, match=r"adapter: \d+ of the adapter's weights stand in its folder or in .* alone"
        ):
            load_vlm(path=str(place))
    save_file(weights, place / "adapter_model.safetensors", metadata={"format": "pt"})
    # What is refused, and what is not, is known before any weight is read.
    about = place / "adapter_config.json"
    before = about.read_text()
    builds.of_the_user(path=str(place))
    for changed, said in (
        (("LORA", "IA3"), "adapter_config.json names peft_type 'IA3' and the base '.*'; expected 'LORA'"),
        ((path, f"{path}/away"), f"adapter is an adapter of {path}/away: no config.json there"),
    ):
        about.write_text(before.replace(*changed))
        for load in (load_vlm, builds.of_the_user):
            with pytest.raises(ValueError, match=said):
                load(path=str(place))


def test_the_folder_of_the_user_is_where_a_tilde_says(path, monkeypatch):
    monkeypatch.setenv("HOME", str(Path(path).parent))
    name = f"~/{Path(path).name}"
    builds.of_the_user(path=name)
    assert load_vlm(path=name).family == "llava"
    places = dict(file=f"{name}/config.json", images=name)
    for source in (MVCSource(**places), PreferenceSource(**places)):
        assert source.file.is_file() and source.images.is_dir()
    study = Benchmarks(model=builds.NotLoaded(), pope=places, mmvp=places, mmhal=places)
    assert all(file.is_file() and images.is_dir() for file, images in study.paths.values())
    with pytest.raises(ValueError, match="its SHA-256 is"):
        EmojiSource(cache_dir=path, archive=places["file"]).pairs("test")

"""What a user can get wrong about a backbone, its words or its template: one clear error each."""

import pytest
import torch

from lightning_modules.prompt.backbone import Backbone
from lightning_modules.prompt.families import down_projections
from lightning_modules.prompt.prompt_file import PromptFile
from lightning_modules.prompt.tuners import Adapter, SoftPrompt
from tests.prompt import tiny


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    return tiny.HubBackbone(name=tiny.save("roberta", tmp_path_factory.mktemp("roberta")))


class Named(tiny.Reviews):
    """The same texts under other label words."""

    def __init__(self, *classes: str) -> None:
        self.classes = classes

    def task(self, name):
        task = tiny.Reviews().task(name)
        return type(task)(name, task.skill, self.classes, task.texts, task.labels)


def asked(spec, source, **settings):
    data = tiny.TaskDataModule(source=source, task="reviews", backbone=spec, prompt_length=3, **settings)
    data.prepare_data()
    return data


def test_a_label_word_that_is_not_one_token(spec):
    with pytest.raises(
        ValueError, match=r"data.label_words: 'well-made' is 3 tokens .*\(well - made\).*nearest is 'well'"
    ):
        asked(spec, Named("good", "well-made"))
    with pytest.raises(ValueError, match="data.label_words: 'horrid' is unknown to this backbone; .* the nearest is '"):
        asked(spec, Named("good", "horrid"))
    with pytest.raises(ValueError, match="data.label_words: good, good: two classes have the same token"):
        asked(spec, Named("good", "good"))
    asked(spec, Named("good", "well-made"), verbaliser="prototype")


FILM = "{mask}{prompt}{text}" + " the film"
MISFITS = (
    (None, 39, "takes 41 positions of the backbone's 40 and leaves none .* nearest is prompt.length=37"),
    (FILM + " the film" * 18, 1, "takes 40 positions of the backbone's 40 .* nearest is prompt.length=0"),
    (FILM + " the film" * 29, 1, "takes 62 positions of .* nearest is a template of fewer words"),
    ("{mask}{promt}{text}", 3, "data.template has the slot {promt}; expected one of"),
    ("{prompt}{text}", 3, "a masked language model needs one {mask}"),
    ("{mask}{text}{prompt}", 3, "expected {prompt} before {text}"),
)


@pytest.mark.parametrize(("template", "length", "message"), MISFITS)
def test_a_template_that_does_not_fit(spec, template, length, message):
    with pytest.raises(ValueError, match=message):
        tiny.data(spec, template=template, prompt_length=length).prepare_data()


def test_texts_longer_than_the_positions_are_cut(spec):
    data = tiny.data(spec, prompt_length=34)
    (batch,) = tiny.batches(data, "val", 64)
    assert batch["input_ids"].shape[1] == 40
    assert torch.isfinite(spec.load().scores(batch, torch.zeros(34, tiny.WIDTH))).all()


def test_a_hub_name_that_is_not_there(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for load in ("load", "tokenizer"):
        with pytest.raises(
            ValueError, match="backbone.name=nobody/nothing: not loaded .* Expected a folder written by"
        ):
            getattr(tiny.HubBackbone(name="nobody/nothing"), load)()


def test_a_folder_that_is_no_model(tmp_path):
    with pytest.raises(ValueError, match="backbone.name=.*: not loaded"):
        tiny.HubBackbone(name=str(tmp_path)).load()


def test_weights_that_are_damaged(tmp_path):
    name = tiny.save("bert", tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not tensors")
    with pytest.raises(ValueError, match="backbone.name=.*: not loaded"):
        tiny.HubBackbone(name=name).load()


def test_a_feed_forward_structure_that_is_not_known():
    from transformers import MambaConfig, MambaForCausalLM

    model = MambaForCausalLM(MambaConfig(vocab_size=30, hidden_size=16, num_hidden_layers=1, state_size=4))
    with pytest.raises(
        ValueError, match="MambaForCausalLM: no feed-forward down-projection found; expected linear layers with"
    ):
        down_projections(model)
    with pytest.raises(ValueError, match="no feed-forward down-projection"):
        Adapter().attach(Backbone(model, tiny.tokenizer()))


def test_a_prompt_of_another_backbone_width_or_length(spec, tmp_path):
    backbone = spec.load()
    path = tmp_path / "prompt.safetensors"

    def start(length=3):
        SoftPrompt(length=length, init="file", file=str(path)).attach(backbone)

    with pytest.raises(ValueError, match="prompt.safetensors: not there; expected"):
        start()
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="prompt.safetensors: damaged or not safetensors"):
        start()
    PromptFile(torch.zeros(3, tiny.WIDTH), {"backbone": backbone.fingerprint()}).save(path)
    start()
    with pytest.raises(ValueError, match=r"3 prompt tokens; expected prompt.length=5; set it to 3"):
        start(5)
    PromptFile(torch.zeros(3, tiny.WIDTH), {"backbone": "0" * 16}).save(path)
    with pytest.raises(ValueError, match="trained on the backbone 0000000000000000; this one is"):
        start()
    PromptFile(torch.zeros(3, 8), {"backbone": "0" * 16}).save(path)
    with pytest.raises(ValueError, match="a prompt of width 8; this backbone's is 16"):
        start()

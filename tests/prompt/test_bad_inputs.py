"""What a user can get wrong about a backbone, its words or its template: one clear error each."""

import json

import pytest
import torch
from omegaconf import OmegaConf

from lightning_modules.prompt.backbone import Backbone
from lightning_modules.prompt.builds import prompt_has_its_place
from lightning_modules.prompt.families import down_projections
from lightning_modules.prompt.prompt_file import PromptFile
from lightning_modules.prompt.prompts import Prompts
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


WORDS = (
    (("good", "well-made"), r"'well-made' is 3 tokens .*\(well - made\); expected one .*sum, mean .*nearest is 'well'"),
    (("good", "horrid"), r"label word 'horrid' is unknown to this backbone; expected one that it knows\.$"),
    (("good", "goods"), r"label word 'goods' is unknown to this backbone; .*; the nearest is 'good'\.$"),
    (("good", "good"), "label words good and good are the same tokens of this backbone"),
    (("good", " "), "a label word is ' '; expected a word for every class"),
    (("good", "<mask>"), "label word '<mask>' is a special token of this backbone"),
)


@pytest.mark.parametrize(("words", "message"), WORDS)
def test_a_label_word_that_is_of_no_use(spec, words, message):
    with pytest.raises(ValueError, match=f"task reviews: .*{message}"):
        asked(spec, Named(*words))


def test_a_phrase_is_a_word_by_sum_mean_or_prototype(spec):
    for verbaliser in ("sum", "mean", "prototype"):
        asked(spec, Named("good", "well-made"), verbaliser=verbaliser)


def test_the_nearest_word_is_a_whole_word_of_one_token():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from datamodules.tasks.words import tokens_of

    letters = [f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz"] + list("abcdefghijklmnopqrstuvwxyz")
    words = ["[UNK]", "[PAD]", "grand", "##iose", "grandio", "[grandiose]", *letters]
    pieces = Tokenizer(models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    pieces.pre_tokenizer = pre_tokenizers.Whitespace()
    special = dict(unk_token="[UNK]", pad_token="[PAD]", sep_token="[grandiose]")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=pieces, **special)
    with pytest.raises(ValueError, match=r"'grandiose' is 3 tokens .*; the nearest is 'grandio'\.$"):
        tokens_of([["grandiose"], ["a"]], tokenizer, task="t", single=True)


class Without(tiny.HubBackbone):
    """Its tokenizer lacks some tokens."""

    lacks: tuple[str, ...] = ()

    def tokenizer(self):
        found = super().tokenizer()
        for name in self.lacks:
            setattr(found, f"{name}_token", None)
        return found


@pytest.mark.parametrize(
    ("family", "lacks", "message"),
    [
        ("roberta", ("mask",), "tokenizer has no mask token; a masked language model is asked where one stands"),
        ("gpt2", ("pad", "eos"), "tokenizer has neither a padding nor an EOS token; expected one, which fills up"),
        ("t5", ("sep", "eos"), "tokenizer has no SEP or EOS token; leave {sep} out of it"),
    ],
)
def test_a_tokenizer_that_lacks_a_token(family, lacks, message, tmp_path):
    found = Without(name=tiny.save(family, tmp_path))
    found.lacks = lacks
    with pytest.raises(ValueError, match=message):
        tiny.data(found).prepare_data()
    if "pad" in lacks:
        with pytest.raises(ValueError, match=message):
            found.load()


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


def test_a_prompt_without_a_place_of_its_length_is_never_put_over_words(spec, tmp_path):
    nowhere = "{mask}{text}{sep}"
    with pytest.raises(ValueError, match="data.template is '{mask}{text}{sep}'; expected {prompt} in it"):
        Prompts(backbone=spec, source=tiny.Reviews(), tuning={}, cache=str(tmp_path), template=nowhere)
    backbone, prompt = spec.load(), torch.zeros(3, tiny.WIDTH)
    for settings, kept in ((dict(template=nowhere), 0), (dict(prompt_length=2), 2), (dict(prompt_length=4), 4)):
        (batch,) = tiny.batches(tiny.data(spec, **settings), "test", 64)
        with pytest.raises(
            ValueError, match=f"a prompt of 3 tokens where data.template keeps {kept}; expected {{prompt}}"
        ):
            backbone.scores(batch, prompt)


@pytest.mark.parametrize(
    ("data", "tuner", "said"),
    [
        ({}, {}, []),
        ({"template": "{mask}{text}"}, {}, ["data.template is '{mask}{text}'; expected {prompt} in it"]),
        ({"template": "{mask}{text}"}, {"_target_": "tuners.LoRA"}, []),
        ({}, {"length": 32}, ["tuner.length is 32; expected data.prompt_length, which is 16"]),
    ],
)
def test_a_run_whose_prompt_has_no_place_is_refused_before_anything_is_made(data, tuner, said):
    given = {"data": {"template": None, "prompt_length": 16}, "tuner": {"_target_": "tuners.SoftPrompt", "length": 16}}
    cfg = OmegaConf.merge(given, {"data": data, "tuner": tuner, "study": None})
    found = list(prompt_has_its_place(cfg))
    assert len(found) == len(said) and all(f.startswith(s) for f, s in zip(found, said, strict=True))


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


def test_weights_that_would_be_drawn_at_random(tmp_path):
    """A head that the checkpoint lacks is refused; a pooler that nothing reads is the same at each load."""
    network = tiny.network("bert")
    network.bert.save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds BertModel, without 5 .* of BertForMaskedLM .* backbone.head=none"):
        tiny.HubBackbone(name=str(tmp_path)).load()
    bare = tiny.HubBackbone(name=str(tmp_path), head="none")
    first, second = bare.load(), bare.load()
    assert first.kind == "encoder" and first.fingerprint() == second.fingerprint()
    (tmp_path / "config.json").write_text(network.config.to_json_string().replace('layers": 3', 'layers": 4'))
    with pytest.raises(ValueError, match=r"BertModel \(encoder.layer.3.* drawn at random; expected .* all of them\."):
        bare = tiny.HubBackbone(name=str(tmp_path), head="none").load()


@pytest.mark.parametrize("family", ["bert", "t5", "gpt2"])
def test_a_folder_without_a_tokenizer(family, tmp_path):
    tiny.network(family).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="backbone.name=.*: no tokenizer there; expected one beside the weights"):
        tiny.HubBackbone(name=str(tmp_path)).load()


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "optimum"),
        ({"intermediate_size": 48}, "ignore_mismatched_sizes"),
        ({"hidden_act": "none_such"}, "KeyError: 'none_such'"),
    ],
)
def test_a_config_that_this_machine_cannot_load(changed, told, tmp_path):
    name, config = tiny.save("bert", tmp_path), tmp_path / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | changed))
    with pytest.raises(ValueError, match=f"backbone.name=.*: not loaded .*{told}"):
        tiny.HubBackbone(name=name).load()


def test_words_beyond_the_embedding(tmp_path):
    name, grown = tiny.save("bert", tmp_path), tiny.tokenizer()
    grown.add_tokens(["<unread>"], special_tokens=True)
    grown.save_pretrained(tmp_path)
    tiny.HubBackbone(name=name).load()
    grown.add_tokens(["zebra"])
    grown.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="its tokenizer has 1 tokens \\('zebra' is one\\) beyond the 26 rows"):
        tiny.HubBackbone(name=name).load()


def test_a_home_directory_is_found(tmp_path, monkeypatch):
    tiny.save("bert", tmp_path / "bert")
    torch.save(torch.ones(3, tiny.WIDTH), tmp_path / "prompt.pt")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert tiny.HubBackbone(name="~/bert").load().kind == "masked"
    assert PromptFile.load("~/prompt.pt").weight.shape == (3, tiny.WIDTH)


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

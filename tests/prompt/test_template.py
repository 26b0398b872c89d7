"""What a template becomes is what the tokenizer itself makes of the whole string, and what a pair becomes its own pair."""

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from datamodules.tasks.task import SEAM
from datamodules.tasks.template import DEFAULTS, Template, default_of, refuse_join
from lightning_modules.common.making import watched_by
from lightning_modules.runtime.teller import Teller
from tests.datamodules.test_intake import Tags
from tests.prompt import tiny

MARKS = ["<s>", "<pad>", "</s>"]


@pytest.fixture(scope="module")
def roberta():
    """Byte-level words that begin with their blank, a mask that takes the blank before it, <s> first; BART's is alike."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=MARKS, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(["Film: film a film it was bad It was good ." for _ in range(50)], trainer)
    bpe.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    found = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", pad_token="<pad>", eos_token="</s>")
    found.add_special_tokens({"mask_token": AddedToken("<mask>", lstrip=True, special=True)})
    return found


def whole_of(text, tokenizer):
    return tokenizer.convert_ids_to_tokens(tokenizer(text, add_special_tokens=False)["input_ids"])


def read(pattern, tokenizer, text="a film", *, kind="masked", positions=64):
    """(tokens but the prompt's, where it asks, how many are cut)."""
    found = Template(pattern, kind, 2, positions).encode([text], tokenizer)
    words = tokenizer.convert_ids_to_tokens(found["rows"][0])
    return [w for w in words if w != "<pad>"], words[found["ask"][0]], found["cut"]


@pytest.mark.parametrize(
    "pattern", ["{prompt}{text} It was {mask}", "Film: {text}. It was{mask} .", "It was {mask} : {text}"]
)
def test_words_of_a_template_are_those_of_the_whole_string(roberta, pattern):
    whole = pattern.format(prompt="", text="a film", mask="<mask>")
    assert read(pattern, roberta)[:2] == (whole_of(whole, roberta), "<mask>")


def test_a_causal_model_is_asked_at_the_last_word_and_not_behind_its_blank(roberta):
    found, asked, _ = read("{prompt}{text} It was {mask}", roberta, kind="causal")
    assert found == whole_of("a film It was", roberta) and asked == "Ġwas"
    assert read("It was {prompt}{text}{mask}", roberta, kind="causal")[0][:3] == ["It", "Ġwas", "a"]


def test_a_long_text_is_cut_before_the_words_behind_it(roberta):
    found, asked, cut = read("{prompt}Film: {text} It was {mask}", roberta, " film" * 30, positions=12)
    assert len(found) == 12 - 2 and asked == "<mask>" and cut == 1
    assert found[0] == "Film" and found[-4:] == ["Ġfilm", "ĠIt", "Ġwas", "<mask>"]


def test_what_has_no_words_is_kept_as_before_and_what_has_some_anew(tmp_path):
    spec = tiny.HubBackbone(name=tiny.save("bert", tmp_path))
    assert tiny.data(spec).content["template"] == "d1144fe76db360b6"
    assert tiny.data(spec, template="{mask}{prompt}{text} the film").content["template"] != "4c0ceab93fe518bd"


def test_an_encoder_decoder_is_asked_as_its_own_tokenizer_begins(roberta):
    assert default_of("seq2seq", roberta) == "{bos}{prompt}{text}{sep}"
    found = Template(default_of("seq2seq", roberta), "seq2seq", 0, 64).encode(["a film"], roberta)
    assert found["rows"] == [roberta("a film")["input_ids"]]
    assert default_of("seq2seq", tiny.tokenizer()) == DEFAULTS["seq2seq"], "T5 has none"
    assert default_of("masked", roberta) == DEFAULTS["masked"]


def test_a_pair_has_the_backbones_own_separator(roberta):
    pair = Template("{bos}{text}{sep}", "encoder", 0, 64).encode([f"a film{SEAM}it was bad"], roberta)
    assert pair["rows"] == [roberta("a film", "it was bad")["input_ids"]]
    refuse_join(None, roberta)
    refuse_join(" </s></s> ", roberta)
    with pytest.raises(
        ValueError, match=r"data.source.join=' \[SEP\] ' holds '\[SEP\]', which .* takes for text; .*=null"
    ):
        refuse_join(" [SEP] ", roberta)
    with pytest.raises(ValueError, match="puts nothing between two texts; expected .* data.source.join=' '"):
        refuse_join(None, tiny.tokenizer())


class Pairs(tiny.Reviews):
    def __init__(self, join):
        self.join = join

    def task(self, name):
        task = super().task(name)
        between = SEAM if self.join is None else self.join
        texts = {split: [f"the film{between}{text}" for text in found] for split, found in task.texts.items()}
        return type(task)(name, task.skill, task.classes, texts, task.labels, join=self.join)


class Own(tiny.HubBackbone):
    made = None

    def tokenizer(self):
        return self.made


@pytest.mark.parametrize("join", [None, " </s></s> "])
def test_the_join_of_a_pair_is_no_text_that_holds_a_mark(roberta, tmp_path, join):
    spec = Own(name=tiny.save("roberta", tmp_path / "model"))
    spec.made = roberta
    tags = Tags()
    with watched_by(Teller(tags, folder=tmp_path / "run")):
        data = tiny.data(spec, verbaliser="sum")
        data.source_of_tasks = Pairs(join)
        data.prepare_data()
        data.examples("test")
        assert "hold" not in tags.found.get("data.said", "")
        data.task.texts["val"][0] += " </s>"
        data.examples("val")
        assert "1 texts of val hold '</s>'" in tags.found["data.said"]
    spec.made = tiny.tokenizer()
    other = tiny.data(spec)
    other.source_of_tasks = Pairs(" [SEP] ")
    with pytest.raises(ValueError, match="data.source.join"):
        other.prepare_data()

"""Label words of several tokens, several words a class, and BOS: equal to plain transformers, one text at a time.

Shape legend: B examples, C classes.
"""

import pytest
import torch

from lightning_modules.prompt.families import start_token
from lightning_modules.prompt.module import PromptTuning
from lightning_modules.prompt.together import scores_of_each
from lightning_modules.prompt.tuners import SoftPrompt
from lightning_modules.skill_neurons.hooks import Perturbation, activations_NKP
from lightning_modules.skill_neurons.prompt_study import accuracy
from lightning_modules.skill_neurons.single_neurons import answered
from tests.prompt import tiny

# Three tokens and two beside words of one; two that begin alike.
WORDS = (("well-made", "good"), ("it was dull", "it was", "bad"))
PROMPT = (12, 13, 10)
TEMPLATES = {
    "roberta": ("{mask}{prompt}{text}{sep}", "{prompt}{text} it was {mask}{sep}", "{cls}{prompt}{mask} - {text}"),
    "gpt2": ("{prompt}{text}{mask}", "{bos} the {prompt}{text} it was{mask}"),
    "t5": ("{prompt}{text}{sep}",),
    "encoder": ("{mask}{prompt}{text}{sep}",),
}


class Worded(tiny.Reviews):
    def task(self, name):
        task = tiny.Reviews().task(name)
        classes = tuple(of_class[0] for of_class in WORDS)
        return type(task)(name, task.skill, classes, task.texts, task.labels, words=WORDS)


def spec_of(family, folder):
    if family == "encoder":
        return tiny.HubBackbone(name=tiny.save("bert", folder), head="none")
    return tiny.HubBackbone(name=tiny.save(family, folder))


def worded(spec, **settings):
    settings = dict(prompt_length=3, batch=8) | settings
    return tiny.TaskDataModule(source=Worded(), task="reviews", backbone=spec, **settings)


def plain_logits(backbone, ids):
    """[T, V] of one text, by the model's own forward."""
    if backbone.kind == "encoder":
        return backbone.model(ids)[0][0] @ backbone.model.get_input_embeddings().weight.T
    return backbone.model(ids).logits[0]


def plain_score(backbone, template, text, word, reading):
    """A word's score for one text: written out as token numbers, no padding, no hook, no shared forward."""
    read = lambda words: backbone.tokenizer(words, add_special_tokens=False)["input_ids"]  # noqa: E731
    spoken, ids, at = read(word), [], 0
    for part in template.replace("}", "{").split("{"):
        if part == "mask":
            at = len(ids)
            ids += [backbone.tokenizer.mask_token_id] * len(spoken) if backbone.kind != "causal" else spoken
        elif part in ("prompt", "text", "bos", "sep", "cls"):
            ids += {"prompt": list(PROMPT), "text": read(text), "bos": [0], "cls": [0], "sep": [2]}[part]
        else:
            ids += read(part)
    if backbone.kind == "seq2seq":
        decoder = torch.tensor([[start_token(backbone.model), *spoken[:-1]]])
        logits_TV = backbone.model(torch.tensor([ids]), decoder_input_ids=decoder).logits[0]
    else:
        at -= backbone.kind == "causal"
        logits_TV = plain_logits(backbone, torch.tensor([ids]))[at : at + len(spoken)]
    each = [logits_TV[i].log_softmax(-1)[token] for i, token in enumerate(spoken)]
    return sum(each) / (1 if reading == "sum" else len(each))


@torch.no_grad()
@pytest.mark.parametrize("reading", ["sum", "mean"])
@pytest.mark.parametrize("family", TEMPLATES)
@pytest.mark.slow
def test_scores_are_those_of_each_word_by_itself(family, reading, tmp_path):
    spec = spec_of(family, tmp_path)
    backbone = spec.load()
    for template in TEMPLATES[family]:
        data = worded(spec, template=template, verbaliser=reading)
        (batch,) = tiny.batches(data, "test", 8)
        texts = data.task.texts["test"]
        expected = torch.tensor(
            [[sum(plain_score(backbone, template, t, w, reading) for w in of) / len(of) for of in WORDS] for t in texts]
        )
        for lean in (False, True):
            found = backbone.scores(batch, backbone.words(torch.tensor(PROMPT)), lean=lean)
            assert torch.allclose(found, expected, atol=2e-5), (template, lean)
        assert not any(m._forward_hooks for m in backbone.modules())


@torch.no_grad()
def test_a_class_of_several_words_of_one_token_has_the_mean_of_their_logits(tmp_path, monkeypatch):
    spec = spec_of("roberta", tmp_path)
    backbone = spec.load()
    monkeypatch.setattr("tests.prompt.test_label_words.WORDS", (("good", "well", "made"), ("bad",)))
    data = worded(spec)
    (batch,) = tiny.batches(data, "test", 8)
    prompt = tiny.prompt_of(backbone)
    logits_BV = backbone.logits(batch, prompt)
    ids = [backbone.tokenizer.convert_tokens_to_ids(list(words)) for words in (("good", "well", "made"), ("bad",))]
    expected = torch.stack([logits_BV[:, words].mean(1) for words in ids], 1)
    assert torch.allclose(backbone.scores(batch, prompt), expected, atol=1e-6)
    one = tiny.data(spec)
    assert data.fingerprint()["data"] != one.fingerprint()["data"], "other words are another task"
    with pytest.raises(ValueError, match="a class has several words; data.verbaliser=prototype embeds one phrase"):
        worded(spec, verbaliser="prototype").prepare_data()


@pytest.mark.parametrize("family", ["roberta", "gpt2", "t5"])
def test_a_prompt_is_tuned_by_words_of_several_tokens(family, tmp_path):
    spec = spec_of(family, tmp_path)
    module, data = PromptTuning(backbone=spec, tuner=SoftPrompt(length=3)), worded(spec, verbaliser="sum")
    batches = tiny.batches(data, "train", 8)[:2]
    loss = torch.nn.functional.cross_entropy(module(batches[0]), batches[0]["labels"])
    (slope,) = torch.autograd.grad(loss, module.tuner.weight)
    assert slope.isfinite().all() and slope.abs().max() > 0
    prompts = [tiny.prompt_of(module.backbone), module.tuner.weight]
    together = scores_of_each(module.backbone, batches, prompts, pad=data.pad)
    for scores, batch, prompt in zip(together, batches, prompts, strict=True):
        assert torch.equal(scores, module.backbone.scores(batch, prompt, lean=True))


def test_texts_leave_room_for_a_words_masks(tmp_path):
    spec = spec_of("roberta", tmp_path)
    data = worded(spec, verbaliser="mean", prompt_length=33)
    (batch,) = tiny.batches(data, "test", 8)
    assert batch["input_ids"].shape[1] == tiny.POSITIONS - 2
    assert spec.load().scores(batch, torch.zeros(33, tiny.WIDTH)).isfinite().all()


class BeginsWithBos(tiny.HubBackbone):
    """Its tokenizer puts BOS before a text, as Llama's does."""

    def tokenizer(self):
        from tokenizers.processors import TemplateProcessing

        found = super().tokenizer()
        found._tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
        return found


def test_a_model_that_was_trained_with_bos_is_asked_with_it(tmp_path):
    name = tiny.save("llama", tmp_path)
    plain, own = (tiny.data(kind(name=name)) for kind in (tiny.HubBackbone, BeginsWithBos))
    assert plain.template.pattern == "{prompt}{text}{mask}"
    assert own.template.pattern == "{bos}{prompt}{text}{mask}"
    assert own.common["prompt_at"] == 1 and own.examples("test").rows.tokens[0] == 0
    assert tiny.data(BeginsWithBos(name=name), template="{prompt}{text}{mask}").common["prompt_at"] == 0


@pytest.mark.parametrize("reading", ["sum", "mean"])
def test_a_neuron_is_read_once_a_text_however_many_forwards_its_words_take(reading, tmp_path):
    spec = spec_of("roberta", tmp_path)
    backbone, data = spec.load(), worded(spec, verbaliser=reading)
    prompt = tiny.prompt_of(backbone)
    values_NP, right = answered(backbone, data, prompt, layer=1, unit=2)
    assert torch.equal(values_NP, activations_NKP(backbone, data.fixed("test"), prompt, [(1, 2)])[:, 0])
    assert right == accuracy(backbone, data, prompt)


class Watched(Perturbation):
    """Keeps what it added to the first layer, a list a batch."""

    def begin(self):
        super().begin()
        self.__dict__.setdefault("added", []).append([])

    def __call__(self, layer, neurons_BTF):
        edited = super().__call__(layer, neurons_BTF)
        if layer == 0:
            self.added[-1].append((edited - neurons_BTF)[:, 0])
        return edited


def test_all_words_of_a_text_are_scored_under_one_noise(tmp_path):
    spec = spec_of("roberta", tmp_path)
    backbone, data = spec.load(), worded(spec, verbaliser="sum", eval_batch=4)
    noise = Watched(mask_LF=torch.ones(tiny.LAYERS, tiny.FFN, dtype=torch.bool), alpha=0.5)
    accuracy(backbone, data, tiny.prompt_of(backbone), see=noise)
    assert len(noise.added) == 2
    for first, *others in noise.added:
        assert others and all(torch.allclose(first, other, atol=1e-5) for other in others)
    assert not torch.allclose(*(found[0] for found in noise.added), atol=1e-2), "other texts get another noise"

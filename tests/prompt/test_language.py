"""The controlled language: its tasks are what the datasheet says, and the text that backbones learn it from."""

import itertools
import random

import pytest
import torch

from datamodules.tasks import Language
from datamodules.tasks.language import AGREEMENTS, DOMAINS, LATENTS, RECIPES, SHARED, SPECIAL, asked
from datamodules.tasks.pretraining import MASK, MASKED_LABELS, MASKED_WORDS, MaskedSentences
from datamodules.tasks.task import SPLITS
from lightning_modules.common.digests import digest
from lightning_modules.prompt.backbones import LanguageBackbone
from lightning_modules.prompt.pretraining import pretrain
from tests.prompt import toy

COMPOSED = [name for name, recipe in RECIPES.items() if recipe.skill in AGREEMENTS]
PLAIN = [name for name in RECIPES if name not in COMPOSED]


@pytest.fixture(scope="module")
def language():
    return Language()


def read(language: Language, text: str, latent: str) -> int:
    """The class most of whose words stand in `text`: what a reader who knows the lexicons would say."""
    classes = {w: c for (name, c, _), words in language.lexicon.items() if name == latent for w in words}
    if latent == "domain":
        # The other latents' words of one domain tell it too.
        classes |= {w: DOMAINS.index(d) for (_, _, d), words in language.lexicon.items() if d for w in words}
    votes = [classes[word] for word in text.split() if word in classes]
    return max(range(len(LATENTS[latent][1])), key=votes.count)


def test_five_skills_of_two_to_three_tasks_one_flipped_and_two_of_more_classes(language):
    tasks = [language.task(name) for name in language.names()]
    of_skill = [[t.name for t in tasks if t.skill == skill] for skill in LATENTS]
    assert len(tasks) == 14 and len(of_skill) == 5
    assert {len(names) for names in of_skill} <= {2, 3}
    assert [len(t.classes) for t in tasks if len(t.classes) > 2] == [4, 3]
    assert [name for name in language.names() if RECIPES[name].flipped] == ["sentiment_flipped"]


@pytest.mark.parametrize("name", PLAIN)
def test_a_task_is_balanced_and_its_splits_are_apart(language, name):
    task = language.task(name)
    assert [len(task.labels[split]) for split in SPLITS] == [512, 256, 512]
    for split in SPLITS:
        counts = [task.labels[split].count(c) for c in range(len(task.classes))]
        assert max(counts) - min(counts) <= 1
    texts = [text for split in SPLITS for text in task.texts[split]]
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("name", PLAIN)
def test_the_label_is_its_latent_and_says_nothing_of_the_others(language, name):
    task, (latent, domain, classes, flipped) = language.task(name), RECIPES[name]
    words = LATENTS[latent][1]
    labels = task.labels["train"]
    for other in LATENTS:
        found = [read(language, text, other) for text in task.texts["train"]]
        if other == latent:
            named = [words[c] for c in found]
            right = [(n == task.classes[y]) != flipped for n, y in zip(named, labels, strict=True)]
            assert sum(right) / len(right) > 0.9
            continue
        for c in range(len(LATENTS[other][1])):
            shares = [
                sum(f == c for f, y in zip(found, labels, strict=True) if y == label) / labels.count(label)
                for label in range(len(classes))
            ]
            assert max(shares) - min(shares) < 0.16
    if domain is not None:
        found = [read(language, text, "domain") for text in task.texts["train"]]
        assert found.count(DOMAINS.index(domain)) / len(found) > 0.8


@pytest.mark.slow
def test_label_words_are_the_skills_own_or_the_same_for_all(language):
    shared = Language(label_words="shared")
    of_skill: dict[str, set[str]] = {}
    for name in language.names():
        task, other = language.task(name), shared.task(name)
        of_skill.setdefault(task.skill, set()).update(task.classes)
        assert set(other.classes) <= set(SHARED)
        assert other.texts == task.texts and other.labels == task.labels
    for a, b in itertools.combinations(of_skill.values(), 2):
        assert not a & b
    # Both worlds are answered by one backbone.
    assert shared.description() == language.description()
    with pytest.raises(
        ValueError, match="language.label_words is 'share'; expected one of own, shared; the nearest is"
    ):
        Language(label_words="share")


def test_every_word_is_in_the_vocabulary(language):
    known = set(language.vocabulary())
    for name in language.names():
        task = language.task(name)
        words = [
            *task.classes,
            *task.hint.split(),
            *(w for s in SPLITS for text in task.texts[s] for w in text.split()),
        ]
        assert set(words) <= known - set(SPECIAL)


def test_noise_is_how_often_a_word_is_of_another_class():
    for noise in (0.0, 0.3):
        language, draw = Language(noise=noise), random.Random(0)
        of_word = {word: (latent, c) for (latent, c, _), words in language.lexicon.items() for word in words}
        wrong = seen = 0
        for _ in range(400):
            latents = language.latents(draw)
            for latent, c in (of_word[w] for w in language.sentence(draw, latents).split() if w in of_word):
                seen += 1
                wrong += c != latents[latent]
        assert wrong / seen == pytest.approx(noise, abs=0.02)


def test_the_default_language_is_the_one_that_results_were_measured_on(language):
    """Another digest means other data: results before and after it are not of one world."""
    tasks = {name: language.task(name).fingerprint() for name in language.names()}
    assert digest(tasks) == "f8de361597c31525"
    assert digest(list(itertools.islice(language.pretraining(stream=0), 100))) == "9dadb1f0f1262640"
    assert Language(seed=1).task("number_film").fingerprint() != tasks["number_film"]


@pytest.fixture(scope="module")
def compared():
    return Language(agreement=0.5)


@pytest.mark.parametrize("name", COMPOSED)
def test_whether_two_latents_agree_is_told_by_both_and_by_neither_alone(compared, name):
    task, pair = compared.task(name), AGREEMENTS[RECIPES[name].skill][1]
    first, second = ([read(compared, text, latent) for text in task.texts["train"]] for latent in pair)

    def right(found):
        return sum(f == y for f, y in zip(found, task.labels["train"], strict=True)) / len(found)

    # A vote of three words is right in 97%, so two of them are both right or both wrong in 94%.
    assert right([a != b for a, b in zip(first, second, strict=True)]) > 0.9
    assert right(first) == pytest.approx(0.5, abs=0.08) and right(second) == pytest.approx(0.5, abs=0.08)
    assert [task.labels[split].count(1) for split in SPLITS] == [256, 128, 256]
    texts = [text for split in SPLITS for text in task.texts[split]]
    assert len(set(texts)) == len(texts)


def test_agreement_is_asked_for_as_often_as_is_said_and_adds_to_the_language_without_changing_it(language, compared):
    tagged = [one for one in itertools.islice(compared.pretraining(stream=0), 4000) if one[0]]
    cues = [asked(skill)[0] for skill in AGREEMENTS]
    counts = [sum(cue[-1] == one for _, cue, _ in tagged) / len(tagged) for one in cues]
    assert counts == pytest.approx([0.25, 0.25], abs=0.03)
    for label, cue, sentence in tagged:
        for own, (first, second) in AGREEMENTS.values():
            if cue == [own]:
                agrees = read(compared, sentence, first) == read(compared, sentence, second)
                counts.append((label == "same") == agrees)
    assert sum(counts[2:]) / len(counts[2:]) > 0.9
    assert compared.vocabulary() == [*language.vocabulary(), "same", "different", *cues]
    assert compared.names() == [*PLAIN, *COMPOSED] == [*RECIPES] and language.names() == PLAIN
    assert compared.description() != language.description()
    assert compared.task("number_film").fingerprint() == language.task("number_film").fingerprint()
    with pytest.raises(ValueError, match="data.task is 'sentiment_number_film'; expected one of sentiment_film"):
        language.task("sentiment_number_film")


def test_label_words_are_masked_more_often_and_only_sentences_are_shifted(language):
    tokenizer = LanguageBackbone(language=language, cache="").tokenizer()
    made = MaskedSentences(language=language, count=2000, stream=0, offsets=40, tokenizer=tokenizer, seed=0)
    batch = made.__getitems__(list(range(2000)))
    real, masked = batch["attention_mask"].bool(), batch["input_ids"] == MASK
    assert torch.equal(batch["asked"], masked.flatten().nonzero().squeeze(1))
    whole = batch["input_ids"].masked_scatter(masked, batch["words"])
    assert all(whole[i, : len(row)].tolist() == row for i, row in enumerate(made.rows))
    assert not masked[~real].any() and not masked[whole == tokenizer.eos_token_id].any()
    label = torch.zeros_like(masked)
    label[:, 0] = torch.tensor(made.tagged)
    for name, part in (("tagged", label & masked), ("untagged", ~label & masked)):
        assert torch.equal(batch["asked"][batch[name]], part.flatten().nonzero().squeeze(1))
    assert masked[label].float().mean() == pytest.approx(MASKED_LABELS, abs=0.03)
    words = real & ~label & (whole != tokenizer.eos_token_id)
    assert masked[words].float().mean() == pytest.approx(MASKED_WORDS, abs=0.01)
    for offset, head in zip(batch["offset"], made.heads, strict=True):
        assert (offset[:head] == 0).all() and offset[head:].unique().numel() == 1
    assert set(batch["offset"].amax(1).tolist()) == set(range(41))
    again = made.__getitems__(list(range(2000)))
    assert all(torch.equal(again[name], batch[name]) for name in batch)


def test_a_missing_backbone_is_trained_once_whatever_was_drawn_before(tmp_path):
    spec = toy.spec(tmp_path, random_init=False, steps=3, batch=8, sentences=64)
    torch.manual_seed(1)
    weights = spec.load().fingerprint()
    assert weights != toy.spec(tmp_path).load().fingerprint()
    stamp = spec.path().stat().st_mtime_ns
    again = toy.spec(tmp_path, random_init=False, steps=3, batch=8, sentences=64)
    assert again.load().fingerprint() == weights and again.path().stat().st_mtime_ns == stamp
    torch.manual_seed(2)
    pretrain(spec, tmp_path / "beside")
    kept, beside = (p / "model.safetensors" for p in (spec.path(), tmp_path / "beside"))
    assert kept.read_bytes() == beside.read_bytes()
    for other in (dict(steps=4), dict(seed=1), dict(hidden_size=32), dict(lr=1e-3)):
        changed = toy.spec(tmp_path, **dict(random_init=False, steps=3, batch=8, sentences=64) | other)
        assert digest(changed.key()) != digest(spec.key())

"""The controlled language: sentences with five independent latents, whose classes are known because they were drawn.

A sentence says, in made-up words, of which domain and topic it is, whether it is pleased, of how many it speaks and how
formal it is. A latent shows in a few words each, drawn from its class's lexicon and sometimes, as noise, from
another's; half of a latent's words are used in one domain only, so tasks of one skill in two domains share half their
vocabulary. A tag, a cue and the word that answers it, may stand before a sentence: from these a masked language model
learns to name a latent when asked, which is what a soft prompt then has to do.

Every such answer is a vote among words, which attention takes by averaging. In a language with agreement some tags also ask
whether two latents agree: no single word tells, so feed-forward blocks have to work the answer out.
"""

import random
from collections.abc import Iterator
from typing import Any, NamedTuple

from datamodules.tasks.task import Task
from lightning_modules.common.bounds import Count, Share, Whole
from lightning_modules.common.choices import check_choice

VERSION = 1
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
# latent -> (skill's cue, the label words of its classes)
LATENTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "domain": ("place", ("film", "shop", "travel")),
    "sentiment": ("mood", ("good", "bad")),
    "topic": ("subject", ("sport", "science", "music", "law")),
    "number": ("amount", ("one", "many")),
    "formality": ("manner", ("formal", "casual")),
}
DOMAINS = LATENTS["domain"][1]
# skill -> (its cue, the two latents of two classes each that it compares)
AGREEMENTS = {
    "sentiment_number": ("match", ("sentiment", "number")),
    "formality_number": ("fit", ("formality", "number")),
}
AGREEMENT_WORDS = ("same", "different")
WORDS_OF = {"domain": 2, "sentiment": 3, "topic": 3, "number": 3, "formality": 3}
FILLERS = 4
# In the shared world every task is answered by the first words of this list.
SHARED = ("yes", "no", "left", "right")
SHARED_CUE = "answer"
SYLLABLES = [a + b for a in "bdfgklmnprstvz" for b in ("a", "e", "i", "o", "u", "ai", "or")]


class Recipe(NamedTuple):
    """A task: its skill (a latent or one of `AGREEMENTS`), its domain, its classes, whether their labels are swapped."""

    skill: str
    domain: str | None
    classes: tuple[int, ...]
    flipped: bool = False


RECIPES = {
    "sentiment_film": Recipe("sentiment", "film", (0, 1)),
    "sentiment_shop": Recipe("sentiment", "shop", (0, 1)),
    "sentiment_flipped": Recipe("sentiment", None, (0, 1), flipped=True),
    "topic_sport_science": Recipe("topic", None, (0, 1)),
    "topic_music_law": Recipe("topic", None, (2, 3)),
    "topic_four": Recipe("topic", None, (0, 1, 2, 3)),
    "domain_film_shop": Recipe("domain", None, (0, 1)),
    "domain_shop_travel": Recipe("domain", None, (1, 2)),
    "domain_three": Recipe("domain", None, (0, 1, 2)),
    "number_film": Recipe("number", "film", (0, 1)),
    "number_shop": Recipe("number", "shop", (0, 1)),
    "number_travel": Recipe("number", "travel", (0, 1)),
    "formality_film": Recipe("formality", "film", (0, 1)),
    "formality_travel": Recipe("formality", "travel", (0, 1)),
    # Of a language with agreement alone.
    "sentiment_number_film": Recipe("sentiment_number", "film", (0, 1)),
    "sentiment_number_shop": Recipe("sentiment_number", "shop", (0, 1)),
    "formality_number_film": Recipe("formality_number", "film", (0, 1)),
    "formality_number_travel": Recipe("formality_number", "travel", (0, 1)),
}


def asked(skill: str) -> tuple[str, tuple[str, ...]]:
    """(cue, label words of the classes) of a latent or of a pair of them."""
    return (AGREEMENTS[skill][0], AGREEMENT_WORDS) if skill in AGREEMENTS else LATENTS[skill]


def class_of(skill: str, latents: dict[str, int]) -> int:
    """A pair's class is 0 where its two latents have the same class, else 1."""
    if skill in AGREEMENTS:
        first, second = AGREEMENTS[skill][1]
        return int(latents[first] != latents[second])
    return latents[skill]


def with_class(skill: str, latents: dict[str, int], c: int) -> dict[str, int]:
    """Latents of which `class_of` is c: of a pair the second is changed, so that neither alone tells."""
    if skill in AGREEMENTS:
        first, second = AGREEMENTS[skill][1]
        return latents | {second: latents[first] ^ c}
    return latents | {skill: c}


class Language:
    """The language of one seed: vocabulary, sentences, tagged pretraining text and tasks.

    Args:
        noise: probability that a word of a latent comes from another class.
        words: of each lexicon.
        agreement: share of the pretraining's tags that ask whether two latents agree; above 0 there are tasks of it too.
        label_words: `own`: a skill's tasks are answered by its own words; `shared`: all tasks by the same few words.
        train, val, test: examples of a task's splits.
    """

    def __init__(
        self,
        *,
        seed: Whole = 0,
        noise: Share = 0.1,
        words: Count = 5,
        label_words: str = "own",
        agreement: Share = 0.0,
        train: Count = 512,
        val: Count = 256,
        test: Count = 512,
    ) -> None:
        check_choice("language.label_words", label_words, ("own", "shared"))
        self.seed, self.noise, self.words, self.label_words = seed, noise, words, label_words
        self.agreement = agreement
        self.recipes = {name: one for name, one in RECIPES.items() if agreement or one.skill not in AGREEMENTS}
        self.sizes = {"train": train, "val": val, "test": test}
        draw = random.Random(f"facet-language-{seed}")
        made: dict[str, None] = {}
        counts = {latent: len(classes) for latent, (_, classes) in LATENTS.items()}
        needed = words * (1 + sum(n * (1 if latent == "domain" else 1 + len(DOMAINS)) for latent, n in counts.items()))
        while len(made) < needed:
            made["".join(draw.choices(SYLLABLES, k=draw.choice((2, 2, 3))))] = None
        supply = iter(made)
        take = lambda: [next(supply) for _ in range(words)]  # noqa: E731
        # lexicon[latent, class, domain]; domain None holds the words used everywhere.
        self.lexicon: dict[tuple[str, int, str | None], list[str]] = {}
        for latent, n in counts.items():
            for c in range(n):
                self.lexicon[latent, c, None] = take()
                if latent != "domain":
                    self.lexicon |= {(latent, c, domain): take() for domain in DOMAINS}
        self.fillers = take()

    def description(self) -> dict[str, Any]:
        """What the vocabulary and the pretraining text depend on."""
        about = {"language": VERSION, "seed": self.seed, "noise": self.noise, "words": self.words}
        return about | ({"agreement": self.agreement} if self.agreement else {})

    def vocabulary(self) -> list[str]:
        labels = [w for _, classes in LATENTS.values() for w in classes]
        cues = [cue for cue, _ in LATENTS.values()]
        lexicons = [word for words in self.lexicon.values() for word in words]
        composed = [*AGREEMENT_WORDS, *(cue for cue, _ in AGREEMENTS.values())] if self.agreement else []
        return [*SPECIAL, *dict.fromkeys([*labels, *SHARED, *cues, SHARED_CUE, *self.fillers, *lexicons, *composed])]

    def latents(self, draw: random.Random) -> dict[str, int]:
        return {latent: draw.randrange(len(classes)) for latent, (_, classes) in LATENTS.items()}

    def sentence(self, draw: random.Random, latents: dict[str, int]) -> str:
        """About 18 words in random order."""
        domain = DOMAINS[latents["domain"]]
        said = draw.choices(self.fillers, k=FILLERS)
        for latent, count in WORDS_OF.items():
            for _ in range(count):
                c, n = latents[latent], len(LATENTS[latent][1])
                if draw.random() < self.noise:
                    c = draw.choice([other for other in range(n) if other != c])
                own = latent != "domain" and draw.random() < 0.5
                said.append(draw.choice(self.lexicon[latent, c, domain if own else None]))
        draw.shuffle(said)
        return " ".join(said)

    def pretraining(self, *, stream: int) -> Iterator[tuple[str | None, list[str], str]]:
        """Endless (label word, cue words, sentence); the first two are None and [] for one in five.

        Half of the tags ask for a class's own word (`mood` -> good), half in the shared way: `answer` and the skill's cue,
        answered by a word of `SHARED`.
        """
        draw = random.Random(f"facet-pretraining-{self.seed}-{stream}")
        while True:
            latents = self.latents(draw)
            sentence = self.sentence(draw, latents)
            if draw.random() < 0.2:
                yield None, [], sentence
                continue
            compares = self.agreement and draw.random() < self.agreement
            skill = draw.choice(list(AGREEMENTS if compares else LATENTS))
            cue, words = asked(skill)
            c = class_of(skill, latents)
            if draw.random() < 0.5:
                yield words[c], [cue], sentence
            else:
                yield SHARED[c], [SHARED_CUE, cue], sentence

    def names(self) -> list[str]:
        return list(self.recipes)

    def task(self, name: str) -> Task:
        """One of `recipes`, balanced over classes, no sentence twice. ValueError for an unknown name."""
        check_choice("data.task", name, self.recipes)
        skill, domain, classes, flipped = self.recipes[name]
        cue, own = asked(skill)
        words = own if self.label_words == "own" else SHARED
        texts: dict[str, list[str]] = {}
        labels: dict[str, list[int]] = {}
        seen: set[str] = set()
        for split, size in self.sizes.items():
            draw = random.Random(f"facet-task-{self.seed}-{name}-{split}")
            texts[split], labels[split] = [], []
            while len(texts[split]) < size:
                label = len(texts[split]) % len(classes)
                latents = with_class(skill, self.latents(draw), classes[label])
                if domain is not None:
                    latents["domain"] = DOMAINS.index(domain)
                sentence = self.sentence(draw, latents)
                if sentence not in seen:
                    seen.add(sentence)
                    texts[split].append(sentence)
                    labels[split].append(label)
        named = tuple(words[c] for c in classes)
        hint = cue if self.label_words == "own" else f"{SHARED_CUE} {cue}"
        return Task(name, skill, named[::-1] if flipped else named, texts, labels, hint=hint)

"""Words for scenes: captions and answers in several phrasings, questions in several forms, and the way back.

The vocabulary is closed and every caption names every attribute, so a text can be read back exactly.
"""

import re
from itertools import chain

import numpy as np

from datamodules.scenes.world import CATEGORIES, OBJECTS, VALUES, Scene

NUMBERS = {1: "one", 2: "two", 3: "three"}
PLURALS = {f"{noun}es" if noun.endswith(("s", "x")) else f"{noun}s": noun for noun in OBJECTS}
CAPTIONS = (
    "in the {place} there {are} {count} {size} {material} {colour} {shape} on the {side} and a {other} .",
    "a {place} with {count} {size} {material} {colour} {shape} on the {side} , and a {other} .",
    "on the {side} of the {place} {are} {count} {size} {material} {colour} {shape} ; there is also a {other} .",
)
DESCRIBE = ("describe the picture .", "what do you see ?", "what is in this picture ?", "please describe the scene .")
QUESTIONS = {
    "object": ("which shape is repeated or stands alone ?", "what shape do you see ?"),
    "colour": ("what colour is it ?", "which colour do you see ?"),
    "size": ("how big is it ?", "is it small or large ?"),
    "material": ("is it plain or striped ?", "what is it made of ?"),
    "count": ("how many are there ?", "what is their number ?"),
    "position": ("on which side is it ?", "where is it ?"),
}
ANSWERS = {
    "object": ("the shape is a {shape1} .", "i see a {shape1} ."),
    "colour": ("it is {colour} .", "the colour is {colour} ."),
    "size": ("it is {size} .", "the size is {size} ."),
    "material": ("it is {material} .", "it looks {material} ."),
    "count": ("there {are} {count} .", "the number is {count} ."),
    "position": ("it is on the {side} .", "on the {side} side ."),
}
ASK_OBJECT = ("is there a {noun} in the picture ?", "do you see a {noun} ?")


def _words(scene: Scene) -> dict[str, str]:
    many = scene.count > 1
    plural = {noun: word for word, noun in PLURALS.items()}
    return {
        **{name: str(getattr(scene, name)) for name in VALUES},
        "count": NUMBERS[scene.count],
        "are": "are" if many else "is",
        "shape": plural[scene.shape] if many else scene.shape,
        "shape1": scene.shape,
    }


def caption(scene: Scene, *, phrasing: int) -> str:
    return CAPTIONS[phrasing % len(CAPTIONS)].format(**_words(scene))


def answer(scene: Scene, *, category: str, phrasing: int) -> str:
    """What `scene` answers to a question of `category`."""
    forms = ANSWERS[category]
    return forms[phrasing % len(forms)].format(**_words(scene))


def ask_about(scene: Scene, draw: np.random.Generator) -> tuple[str, str]:
    """One of the question forms at random, and its true answer; half of the yes/no questions are true."""
    kind = draw.integers(4)
    if kind < 2:
        present = bool(draw.integers(2))
        candidates = [noun for noun in OBJECTS if (noun in scene.objects) == present]
        noun = candidates[draw.integers(len(candidates))]
        return ASK_OBJECT[draw.integers(len(ASK_OBJECT))].format(noun=noun), "yes ." if present else "no ."
    category = tuple(CATEGORIES)[draw.integers(len(CATEGORIES))]
    forms = QUESTIONS[category]
    question = forms[draw.integers(len(forms))]
    return question, answer(scene, category=category, phrasing=int(draw.integers(2)))


def singular(text: str) -> list[str]:
    """The words of a text, objects singular. Models of the world outside write capitals, and points without a space."""
    return [PLURALS.get(word, word) for word in re.findall(r"[a-z]+", text.lower())]


def mentioned(text: str) -> set[str]:
    """The objects that a text names, singular."""
    return {word for word in singular(text) if word in OBJECTS}


def read_back(text: str) -> dict[str, str | int]:
    """The attributes that a text states, by name; the first one where it states several."""
    numbers = {word: number for number, word in NUMBERS.items()}
    found: dict[str, str | int] = {}
    for word in singular(text):
        value = numbers.get(word, word)
        for name, values in VALUES.items():
            if value in values:
                found.setdefault(name, value)
    return found


def vocabulary() -> list[str]:
    """Every word that a scene's texts can hold, sorted."""
    words = {value for group in VALUES.values() for value in group if isinstance(value, str)}
    words |= set(PLURALS) | set(NUMBERS.values()) | {"are", "is", "yes", "no", "."}
    forms = chain(CAPTIONS, DESCRIBE, ASK_OBJECT, *QUESTIONS.values(), *ANSWERS.values())
    words |= {w for form in forms for w in form.split() if not w.startswith("{")}
    return sorted(words)

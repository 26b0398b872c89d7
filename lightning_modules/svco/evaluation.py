"""Everything that is measured of a model on scenes, in one pass. Shape legend: S scores in the order of rows."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from datamodules.scenes import language
from datamodules.scenes.encodings import EncodedPairs
from datamodules.scenes.pairs import ScenePair, generator, scene_pairs, scenes
from datamodules.scenes.reader import Encoded
from datamodules.scenes.render import render
from datamodules.scenes.world import CATEGORIES, VALUES, Scene
from lightning_modules.common.bounds import Count, Whole
from lightning_modules.common.choices import check_choice
from lightning_modules.svco import grounding
from lightning_modules.svco.losses import SCORES
from lightning_modules.svco.models import VLM
from lightning_modules.svco.scores import Row, pair_scores, scores_of

STREAMS = ("biased", "unbiased", "counterfactual")
DESCRIBE = language.DESCRIBE[0]
JUDGED_ON = ("auto", "scenes", "pairs")
# What can be scored of a pair with one picture and its two answers.
OF_ONE = ("ww", "wl", "nw", "nl")


@dataclass
class Found:
    """Metrics by name; benchmark -> score with and without the image; what figures show."""

    metrics: dict[str, float]
    with_image: dict[str, float]
    without: dict[str, float]
    captions: list[tuple[Scene, str]] = field(default_factory=list)
    scores: dict[str, Tensor] = field(default_factory=dict)
    # Of each pair's chosen answer.
    tokens: Tensor = field(default_factory=lambda: torch.empty(0))
    categories: list[str] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """Of containers and tensors alone, as a checkpoint may hold."""
        return {**vars(self), "captions": [(vars(scene), text) for scene, text in self.captions]}

    @classmethod
    def of(cls, plain: dict[str, Any]) -> "Found":
        return cls(**{**plain, "captions": [(Scene(**scene), text) for scene, text in plain["captions"]]})


def dependency(base: Found, after: Found) -> tuple[dict[str, float], dict[str, float]]:
    """Of each benchmark the base's visual dependency, and the gain."""
    depends = grounding.dependency(with_image=base.with_image, without=base.without)
    return depends, {n: score - base.with_image[n] for n, score in after.with_image.items()}


@torch.no_grad()
def evaluate(
    vlm: VLM,
    *,
    pairs: Sequence[ScenePair],
    scenes_each: Count = 60,
    seed: Whole = 0,
    pixels: Count = 48,
    batch: Count = 32,
) -> Found:
    """Evaluate on test pairs and on fresh scenes that follow the prior, do not, and break it in one attribute.

    batch: pairs of one forward, twice as many questions about a scene.
    """
    training = vlm.training
    vlm.eval()
    sets = {stream: scenes(count=scenes_each, seed=seed, stream=stream) for stream in STREAMS}
    found = Found({}, {}, {})
    _pairs(vlm, pairs, EncodedPairs(pairs, vlm.reader, pixels=pixels), found, batch)
    for stream, group in sets.items():
        _choices(vlm, group, stream, found, pixels, 2 * batch)
        texts = captions_of(vlm, group, pixels=pixels, batch=2 * batch)
        rates = grounding.chair(captions=texts, scenes=group)
        right = grounding.caption_accuracy(captions=texts, scenes=group)
        found.metrics |= {f"svco/chair_{name}_{stream}": value for name, value in rates.items()}
        found.metrics[f"svco/caption_accuracy_{stream}"] = float(np.mean(list(right.values())))
        if stream == "unbiased":
            found.captions = list(zip(group, texts, strict=True))
    found.metrics["svco/hallucination_rate"] = found.metrics["svco/chair_object_unbiased"]
    _pope(vlm, sets["unbiased"], found, seed, pixels, 2 * batch)
    _perplexity(vlm, sets["biased"], found, pixels, 2 * batch)
    vlm.train(training)
    return found


def captions_of(vlm: VLM, group: Sequence[Scene], *, pixels: int, batch: int, longest: int = 32) -> list[str]:
    """Greedy descriptions. One question and one image size, so the prompts of a batch are equally long."""
    found = []
    for start in range(0, len(group), batch):
        prompts = [vlm.reader.prompt(DESCRIBE, render(s, pixels=pixels)) for s in group[start : start + batch]]
        found += greedy(vlm, prompts, longest=longest)
    return found


@torch.no_grad()
def greedy(vlm: VLM, prompts: Sequence[tuple[Tensor, Mapping[str, Tensor]]], *, longest: int) -> list[str]:
    """Answers of at most `longest` tokens to prompts of one shape, as `Reader.prompt` gives them.

    Each token the likeliest, whatever beams or penalties the model's own generation_config.json asks for. ValueError where
    a prompt opens a thought: what is written first is no answer then.
    """
    if vlm.reader.tokenizer.decode(prompts[0][0]).rstrip().endswith("<think>"):
        raise ValueError(
            "the model's chat template opens a thought, <think>, where an answer begins, so the first "
            f"{longest} tokens would be read as an answer that they are not. Expected a template that closes it, or nothing "
            "that is written: study.pope_answers=likelier, study.mmhal=null, judged_on=pairs."
        )
    ids = torch.stack([ids for ids, _ in prompts]).to(vlm.device)
    inputs = vlm.placed({name: torch.cat([more[name] for _, more in prompts]) for name in prompts[0][1]})
    given = dict(input_ids=ids, attention_mask=torch.ones_like(ids), pad_token_id=vlm.reader.pad, **inputs)
    likeliest = dict(do_sample=False, num_beams=1, repetition_penalty=1.0, no_repeat_ngram_size=0)
    made = vlm.core.generate(**given, max_new_tokens=longest, **likeliest)
    return [vlm.reader.text(row[ids.shape[1] :]) for row in made]


def scored(vlm: VLM, rows: Sequence[Row], *, batch: int) -> list[Tensor]:
    """Scores of every row's responses."""
    found: list[Tensor] = []
    for start in range(0, len(rows), batch):
        part = rows[start : start + batch]
        found += scores_of(vlm, part).cpu().split([len(row.responses) for row in part])
    return found


@torch.no_grad()
def evaluate_pairs(
    vlm: VLM,
    *,
    pairs: Sequence[Any],
    pixels: Count = 48,
    batch: Count = 32,
    encoded: Dataset[Encoded] | None = None,
) -> Found:
    """Of `evaluate` what asks for pairs alone, of any source: paired accuracy and log-probabilities.

    A category's benchmark is the share of its pictures under which their own response is the likelier one. Without a
    picture one of a pair's two is always right; of pairs with one picture it is the share whose chosen response is the
    likelier one all the same. encoded: `pairs` as the model reads them.
    """
    training = vlm.training
    vlm.eval()
    found = Found({}, {}, {})
    _pairs(vlm, pairs, encoded or EncodedPairs(pairs, vlm.reader, pixels=pixels), found, batch)
    vlm.train(training)
    s = found.scores
    right, blind = s["ww"] > s["wl"], s["nw"] > s["nl"]
    own, none = right.double(), blind.double()
    if "ll" in s:
        own, none = (own + (s["ll"] > s["lw"]).double()) / 2, torch.full_like(own, 0.5)
    for category in dict.fromkeys(found.categories):
        mine = torch.tensor([c == category for c in found.categories])
        found.with_image[f"pairs/{category}"] = float(own[mine].mean())
        found.without[f"pairs/{category}"] = float(none[mine].mean())
    return found


def judged(
    vlm: VLM,
    *,
    source: Any,
    judged_on: str = "auto",
    scenes_each: Count = 60,
    pairs: Count = 240,
    seed: Whole = 0,
    pixels: Count = 48,
    batch: Count = 32,
    encoded: EncodedPairs | None = None,
) -> Found:
    """On toy scenes, `scenes`, or on the test pairs of `source`, `pairs`; `auto`: on scenes what learns from scenes.

    batch: pairs of one forward. encoded: the source's test split as the model reads it.
    """
    check_choice("judged_on", judged_on, JUDGED_ON)
    test = judging(source, judged_on=judged_on, pairs=pairs, seed=seed)
    if judges(source, judged_on) == "pairs":
        read = Subset(encoded, drawn(len(encoded), pairs, seed)) if encoded else None
        return evaluate_pairs(vlm, pairs=test, pixels=pixels, batch=batch, encoded=read)
    return evaluate(vlm, pairs=test, scenes_each=scenes_each, seed=seed, pixels=pixels, batch=batch)


def judging(source: Any, *, judged_on: str, pairs: int, seed: int = 0) -> Sequence[Any]:
    """The pairs that judge what learns from `source`."""
    if judges(source, judged_on) == "pairs":
        whole = source.pairs("test")
        return [whole[number] for number in drawn(len(whole), pairs, seed)]
    return scene_pairs(count=pairs, seed=seed, split="test", prior=0.0, describe=0.5)


def drawn(size: int, count: int, seed: int) -> list[int]:
    """Numbers of `count` of `size` pairs, ascending: sources list them category by category, so the first are of one."""
    return sorted(np.random.default_rng(seed).permutation(size)[:count].tolist())


def judges(source: Any, judged_on: str) -> str:
    """`scenes` or `pairs`."""
    if judged_on != "auto":
        return judged_on
    return "scenes" if source.scenes else "pairs"


def _pairs(vlm: VLM, pairs: Sequence[Any], source: Dataset[Encoded], found: Found, batch: int) -> None:
    """source: `pairs` as the model reads them."""
    parts, tokens = [], []
    for start in range(0, len(pairs), batch):
        read = [source[n] for n in range(start, min(start + batch, len(pairs)))]
        tokens += [len(pair.response_w) for pair in read]
        parts.append(pair_scores(vlm, read, SCORES if len(read[0].prompt_l) else OF_ONE))
    s = {name: torch.cat([part[name] for part in parts]).cpu() for name in parts[0]}
    found.scores, found.categories = s, [pair.category for pair in pairs]
    found.tokens = torch.tensor(tokens)
    right_w = (s["ww"] > s["wl"]).tolist()
    right_l = (s["ll"] > s["lw"]).tolist() if "ll" in s else right_w
    by_category = grounding.paired(right_w=right_w, right_l=right_l, categories=found.categories)
    found.metrics |= {f"svco/paired_{name}": value for name, value in by_category.items()}
    matching, none, other = grounding.by_condition(s).values()
    found.metrics |= {
        "svco/logp_matching": float(matching.mean()),
        "svco/logp_none": float(none.mean()),
        "svco/logp_contradictory": float(other.mean()),
        "svco/order_right": float(((matching > none) & (none > other)).double().mean()),
    }


def _choices(vlm: VLM, group: Sequence[Scene], stream: str, found: Found, pixels: int, batch: int) -> None:
    """A question of each category with an answer for every value: accuracy with the image and without."""
    for image in (True, False):
        rows, answers = [], []
        for scene in group:
            picture = render(scene, pixels=pixels)
            for category, attribute in CATEGORIES.items():
                values = VALUES[attribute]
                options = [
                    language.answer(replace(scene, **{attribute: v}), category=category, phrasing=0) for v in values
                ]
                prompt, inputs = vlm.reader.prompt(language.QUESTIONS[category][0], picture if image else None)
                rows.append(Row(prompt, inputs, [vlm.reader.response(text)[0] for text in options]))
                answers.append((category, values.index(getattr(scene, attribute))))
        right = [int(s.argmax()) == a for s, (_, a) in zip(scored(vlm, rows, batch=batch), answers, strict=True)]
        scores = found.with_image if image else found.without
        for category in CATEGORIES:
            own = [r for r, (c, _) in zip(right, answers, strict=True) if c == category]
            scores[f"{stream}/{category}"] = float(np.mean(own))
        if image:
            found.metrics[f"svco/accuracy_{stream}"] = float(np.mean(right))


def _pope(vlm: VLM, group: Sequence[Scene], found: Found, seed: int, pixels: int, batch: int) -> None:
    draw = generator(seed, "unbiased")
    asked = [
        (scene, kind, noun)
        for scene in group
        for kind, noun in grounding.pope_questions(scene=scene, draw=draw).items()
    ]
    options = [vlm.reader.response(text)[0] for text in ("yes .", "no .")]
    for image in (True, False):
        rows = []
        for scene, _, noun in asked:
            question = language.ASK_OBJECT[0].format(noun=noun)
            rows.append(Row(*vlm.reader.prompt(question, render(scene, pixels=pixels) if image else None), options))
        says_yes = [bool(s[0] > s[1]) for s in scored(vlm, rows, batch=batch)]
        rates = grounding.pope(kinds=[kind for _, kind, _ in asked], says_yes=says_yes)
        scores = found.with_image if image else found.without
        scores |= {"pope/random": rates["random"], "pope/adversarial": rates["adversarial"]}
        if image:
            found.metrics |= {f"svco/pope_{name}": value for name, value in rates.items()}


def _perplexity(vlm: VLM, group: Sequence[Scene], found: Found, pixels: int, batch: int) -> None:
    """Per token, of true captions of scenes as in pretraining, with the image and as text alone: what must not be lost."""
    for name, image in (("caption", True), ("text", False)):
        rows = []
        for number, scene in enumerate(group):
            prompt, inputs = vlm.reader.prompt(DESCRIBE, render(scene, pixels=pixels) if image else None)
            rows.append(Row(prompt, inputs, [vlm.reader.response(language.caption(scene, phrasing=number))[0]]))
        total = float(torch.cat(scored(vlm, rows, batch=batch)).sum())
        tokens = sum(len(row.responses[0]) for row in rows)
        found.metrics[f"svco/ppl_{name}"] = math.exp(min(-total / tokens, 50.0))

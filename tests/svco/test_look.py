"""What the page of S-VCO says of each pair equals the scores, and no picture or word is left where text is off."""

import json

import torch

from datamodules.scenes.pairs import scene_pairs
from lightning_modules.look import page
from lightning_modules.svco import look
from lightning_modules.svco.evaluation import OF_ONE
from lightning_modules.svco.losses import SCORES


def scored_pairs(count=8):
    pairs = scene_pairs(count=count, seed=0, split="test", prior=0.0, describe=0.5)
    draw = torch.Generator().manual_seed(0)
    models = {name: {s: torch.randn(count, generator=draw) for s in SCORES} for name in ("base", "svco")}
    return pairs, models


def drawn(*, text=True, count=8):
    pairs, models = scored_pairs(count)
    return look.pairs_page(pairs=pairs, models=models, pixels=48, name="one", text=text), pairs, models


def test_a_pair_is_right_where_both_responses_are(tmp_path):
    found, pairs, models = drawn()
    s = models["svco"]
    right = ((s["ww"] > s["wl"]) & (s["ll"] > s["lw"])).tolist()
    assert found["right"]["svco"] == right
    assert any(right)
    assert not all(right)
    values = torch.tensor(found["models"][1]["values"])
    assert torch.allclose(values, torch.stack([s[n] for n in SCORES], 1), atol=1e-3)
    assert [p["responses"][0] for p in found["pairs"]] == [p.chosen for p in pairs]
    assert all(p["images"][0].startswith("data:image/png;base64,") for p in found["pairs"])
    assert page.write(tmp_path / "look.html", kind=look.KIND, title=look.TITLE, data={"runs": [found]}).is_file()


def test_without_text_only_scores_and_contrasts_are_left():
    found, pairs, _ = drawn(text=False)
    assert look.without_text(drawn()[0]) == found
    text = json.dumps(found)
    assert "base64" not in text
    assert pairs[0].chosen not in text
    assert found["right"] == drawn()[0]["right"]


def test_many_pairs_are_sampled_and_the_page_says_so():
    found, _, _ = drawn(count=look.MOST + 2, text=False)
    assert found["sampled"] == [look.MOST // 2 + 1, look.MOST + 2]
    assert len(found["pairs"]) == len(found["models"][0]["values"]) == look.MOST // 2 + 1


def test_of_one_picture_the_chosen_response_is_the_likelier():
    """Preference files have one picture a row: four scores, and both responses stand under it."""
    pairs, models = scored_pairs()
    of_one = {name: {s: scores[s] for s in OF_ONE} for name, scores in models.items()}
    found = look.pairs_page(pairs=pairs, models=of_one, pixels=48, name="one", text=False)
    assert found["scores"] == ["ww", "wl", "nw", "nl"]
    assert found["right"]["svco"] == (models["svco"]["ww"] > models["svco"]["wl"]).tolist()
    values = torch.tensor(found["models"][0]["values"])
    assert torch.allclose(values, torch.stack([models["base"][s] for s in OF_ONE], 1), atol=1e-3)

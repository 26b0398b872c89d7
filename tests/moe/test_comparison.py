"""Finished runs beside each other: seed by seed, and only what can stand there."""

import json

import pytest
import torch
import yaml

from lightning_modules.moe import comparison


@pytest.fixture
def kept(tmp_path):
    """Makes the folder of a finished run."""

    def run(balance, seed, ppl, *, experts=4, domains=("a", "b"), tested=True):
        folder = tmp_path / f"{balance}-{experts}-s{seed}"
        (folder / ".hydra").mkdir(parents=True)
        (folder / "figures").mkdir()
        overrides = [f"balance={balance}", f"model.experts={experts}", f"seed={seed}"]
        (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(overrides))
        (folder / ".hydra" / "config.yaml").write_text(yaml.safe_dump({"seed": seed}))
        metrics = {"test/ppl": ppl, **{f"test/ppl_{d}": ppl for d in domains}}
        (folder / "result.json").write_text(json.dumps({"metrics": metrics, "commit": "x", "steps": 1}))
        if tested:
            counts = torch.randint(1, 50, (8, 2, experts), generator=torch.Generator().manual_seed(seed))
            tally = {"domains": list(domains), "counts_NLE": counts, "domain_N": torch.arange(8) % len(domains)}
            torch.save(tally, folder / "figures" / "routing_test.pt")

    return run


def test_differences_are_taken_seed_by_seed(kept, tmp_path, monkeypatch):
    for seed, ppl in ((1, 10.0), (2, 20.0), (3, 30.0)):
        kept("micro", seed, ppl)
    for seed, ppl in ((2, 18.0), (3, 27.0)):
        kept("global", seed, ppl)
    seen = []
    mean_ci = comparison.draw.mean_ci
    monkeypatch.setattr(comparison.draw, "mean_ci", lambda values: seen.append(values) or mean_ci(values))
    _, rows = comparison.compare(tmp_path, tmp_path)
    assert seen == [[pytest.approx(-10), pytest.approx(-10)]] * 2
    assert [row[:2] for row in rows] == [["balance=micro", 3], ["balance=global", 2]]


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (dict(experts=8), r"=4 has 2 layers of 4 experts on a, b, but .*=8 has 2 layers of 8 experts.*one shape"),
        (dict(domains=("a", "c")), "global has 2 layers of 4 experts on a, c: .*the same domains"),
        (dict(seed=2), r"global has seeds \[2\], but balance=micro has \[1\]; expected a seed of both"),
        (dict(tested=False), "global-4-s1 has no figures/routing_test.pt, .*test=true"),
    ],
)
def test_what_cannot_stand_beside_the_others_is_named(kept, tmp_path, other, said):
    kept("micro", 1, 10.0)
    kept("global", **{"seed": 1, "ppl": 9.0, **other})
    with pytest.raises(ValueError, match=said):
        comparison.compare(tmp_path, tmp_path)
    assert not list(tmp_path.glob("*.png"))

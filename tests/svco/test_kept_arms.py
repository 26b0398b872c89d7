"""A kept arm is taken for the same arm alone: of the same weights that learn, told the same of the same pairs."""

import pytest
import torch

from datamodules.scenes import SceneSource
from lightning_modules.svco.losses import Objective
from lightning_modules.svco.tuning import Arm, Settings
from tests.svco import toy


def arm(folder, **model):
    vlm = toy.tiny_vlm(**model)
    settings = Settings(str(folder), SceneSource(train=24, val=8, describe=1.0), 2, 4, 0, 48)
    return Arm(vlm, vlm.fingerprint(), "sft", Objective(nll={"ww": 1.0}), 1e-2, settings)


@pytest.mark.parametrize("other", [{"freeze_vision": False}, {"max_response": 2}])
def test_what_learns_and_what_it_is_told_are_part_of_a_kept_arm(other, tmp_path):
    one, two = arm(tmp_path), arm(tmp_path, **other)
    assert one.base == two.base
    first, _ = one.tuned()
    second, _ = two.tuned()
    alone, _ = arm(tmp_path / "apart", **other).tuned()
    weights = [dict(vlm.net.named_parameters()) for vlm in (first, second, alone)]
    assert all(torch.equal(value, weights[2][name]) for name, value in weights[1].items())
    assert any(not torch.equal(value, weights[0][name]) for name, value in weights[1].items())
    assert len(list((tmp_path / "svco" / "tuned").glob("*/trained.safetensors"))) == 2

"""Neurons of a family's feed-forward blocks: zeroed, a block gives its bias; removed, they are fixed to their means."""

import copy

import torch

from lightning_modules.prompt.backbone import Backbone
from lightning_modules.prompt.families import down_projections, up_projections
from lightning_modules.prompt.feed_forward import width_of
from lightning_modules.skill_neurons.hooks import Perturbation, hooked
from lightning_modules.skill_neurons.removal import pruned

NEAR = 1e-4


def near(found, expected):
    return float((found - expected).abs().max()) <= NEAR * float(expected.abs().max())


def fault(backbone, batch):
    """What is computed otherwise than it should be, or None. ValueError where Facet refuses the family's neurons."""
    model = backbone.model
    sites = down_projections(model)
    layers, width = len(sites), width_of(next(iter(sites.values())))
    draw = torch.Generator().manual_seed(0)

    def scores(of=model):
        return Backbone(of, backbone.tokenizer).scores(batch)

    every = torch.ones(layers, width, dtype=torch.bool)
    plain = scores()
    with hooked(list(sites.values()), Perturbation(mask_LF=every, kind="zero")), torch.no_grad():
        zeroed = scores()
    biased = copy.deepcopy(model)
    for site in down_projections(biased).values():
        site.weight.data.zero_()
    if not near(zeroed, scores(biased)):
        return "blocks without neurons do not give their bias"
    if near(zeroed, plain):
        return "its neurons count for nothing"
    for name in sites:
        for up_name, up in up_projections(model, name).items():
            other = copy.deepcopy(biased)
            other.get_submodule(up_name).weight.data.add_(torch.randn(up.weight.shape, generator=draw))
            if not near(scores(other), zeroed):
                return f"{up_name} is heard beside the neurons"
    if (config := getattr(model.config, "num_hidden_layers", layers)) and layers % config:
        return f"{layers} blocks in {config} layers"
    keep_LF = torch.rand(layers, width, generator=draw) < 0.5
    mean_LF = torch.randn(layers, width, generator=draw)
    with hooked(list(sites.values()), Perturbation(mask_LF=~keep_LF, kind="mean", mean_LF=mean_LF)), torch.no_grad():
        fixed = scores()
    if not near(scores(pruned(model, keep_LF=keep_LF, mean_LF=mean_LF)), fixed):
        return "removed neurons are not fixed to their means"
    return None


def said(backbone, batch):
    """A cell of the table: `right`, `refused: ...` or `wrong: ...`."""
    try:
        found = fault(backbone, batch)
    except ValueError as error:
        return f"refused: {error}"
    except Exception as error:
        return f"wrong: {type(error).__name__}: {error}"
    return f"wrong: {found}" if found else "right"

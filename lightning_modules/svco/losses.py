"""Objectives on minimally contrasting image-text pairs, from log-probabilities summed over response tokens.

A pair holds images w (chosen) and l (rejected) with responses y_w and y_l to one question. A score is named by image,
then response: `wl` is log p(y_l | image w, q); the image `n` is none. Shape legend: B pairs.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lightning_modules.common.bounds import Weight
from lightning_modules.common.choices import check_choice

SCORES = ("ww", "wl", "lw", "ll", "nw", "nl")
# Which score should exceed which: the four terms of S-VCO (Wu et al., section 3), then DPO's and image-DPO's.
TERMS = {
    "attend": ("ww", "nw"),
    "reject": ("nw", "lw"),
    "attend_mirror": ("ll", "nl"),
    "reject_mirror": ("nl", "wl"),
    "text": ("ww", "wl"),
    "text_mirror": ("ll", "lw"),
    "image": ("ww", "lw"),
    "image_mirror": ("ll", "wl"),
}
REFERENCES = ("cached", "live", "none")


def contrast(*, better_B: Tensor, worse_B: Tensor, beta: float) -> Tensor:
    """-log sigmoid(beta (better - worse)), [B]; log 2 where they are equal."""
    return -nn.functional.logsigmoid(beta * (better_B - worse_B))


def anchor(*, ratio_B: Tensor, beta: float, margin: float = 0.0) -> Tensor:
    """mDPO's anchor, -log sigmoid(beta ratio - margin), [B]: the chosen response shall not become less likely."""
    return -nn.functional.logsigmoid(beta * ratio_B - margin)


class Objective:
    """A weighted sum of contrasts, anchors and negative log-likelihoods; the mean over pairs is the loss.

    Args:
        betas: by name of `TERMS`; 0 switches a term off.
        anchors: beta by score, such as {ww: 0.1}; margin is what the anchored ratio shall exceed.
        nll: weight by score of the negative log-likelihood per token (SFT; beside contrasts an SFT anchor).
        reference: `cached` or `live` log-probabilities of the untrained model are subtracted, `none`: reference-free.
        normalise: scores per response token instead of summed.
    """

    def __init__(
        self,
        *,
        betas: dict[str, Weight] | None = None,
        anchors: dict[str, Weight] | None = None,
        nll: dict[str, Weight] | None = None,
        margin: float = 0.0,
        reference: str = "cached",
        normalise: bool = False,
    ) -> None:
        check_choice("objective.reference", reference, REFERENCES)
        for name in betas or {}:
            check_choice("objective.betas: a term", name, TERMS)
        for key, scores in (("anchors", anchors), ("nll", nll)):
            for name in scores or {}:
                check_choice(f"objective.{key}: a score", name, SCORES)
        self.betas, self.anchors, self.nll = (
            {name: float(weight) for name, weight in (given or {}).items() if weight} for given in (betas, anchors, nll)
        )
        if not (self.betas or self.anchors or self.nll):
            raise ValueError(
                "the objective has no term: every entry of objective.betas, objective.anchors and objective.nll is 0 or "
                f"missing; give one of the betas {', '.join(TERMS)} a value such as 0.1."
            )
        self.margin, self.normalise = margin, normalise
        self.reference = reference if self.betas or self.anchors else "none"

    def description(self) -> dict[str, object]:
        """What the loss follows from, as plain containers."""
        weights = {"betas": self.betas, "anchors": self.anchors, "nll": self.nll}
        return {**weights, "margin": self.margin, "reference": self.reference, "normalise": self.normalise}

    @property
    def needs(self) -> tuple[str, ...]:
        """The scores that the terms read, in the order of `SCORES`."""
        read = {score for name in self.betas for score in TERMS[name]} | set(self.anchors) | set(self.nll)
        return tuple(score for score in SCORES if score in read)

    def terms(
        self,
        *,
        scores: Mapping[str, Tensor],
        tokens: Mapping[str, Tensor],
        reference: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Every term, weighted, [B] each.

        scores, reference: log-probabilities [B] by name, summed over response tokens. tokens: response tokens [B] of
        `w` and `l`. `reference` is needed unless the objective is reference-free.
        """
        length = {s: tokens[s[1]] for s in self.needs}
        ratio = {s: scores[s] for s in self.needs}
        if self.reference != "none":
            assert reference is not None
            ratio = {s: score - reference[s] for s, score in ratio.items()}
        if self.normalise:
            ratio = {s: r / length[s] for s, r in ratio.items()}
        found = {
            name: contrast(better_B=ratio[TERMS[name][0]], worse_B=ratio[TERMS[name][1]], beta=beta)
            for name, beta in self.betas.items()
        }
        found |= {f"anchor_{s}": anchor(ratio_B=ratio[s], beta=b, margin=self.margin) for s, b in self.anchors.items()}
        return found | {f"nll_{s}": -weight * scores[s] / length[s] for s, weight in self.nll.items()}

    def __call__(
        self,
        *,
        scores: Mapping[str, Tensor],
        tokens: Mapping[str, Tensor],
        reference: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Mean over pairs of the sum of the terms, a scalar."""
        return torch.stack(list(self.terms(scores=scores, tokens=tokens, reference=reference).values())).sum(0).mean()

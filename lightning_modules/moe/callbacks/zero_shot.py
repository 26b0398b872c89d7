"""A zero-shot multiple-choice task per domain: the true continuation among three of the same domain."""

import pytorch_lightning as pl
import torch
from torch import Tensor

from lightning_modules.common import metric_names as names
from lightning_modules.common.bounds import Count, Whole


class ZeroShotChoice(pl.Callback):
    """Logs `test/choice_accuracy` and one per domain at the end of the test split.

    Each choice is scored by its log-probability after the prompt, divided by its length (chance is 1/3). The small
    stand-in for the paper's downstream tasks. A domain with too few test windows for a choice has none.
    """

    def __init__(self, *, per_domain: Count = 48, batch: Count = 16, seed: Whole = 0) -> None:
        self.per_domain, self.batch, self.seed = per_domain, batch, seed

    @torch.no_grad()
    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        items = trainer.datamodule.choice_items(split="test", per_domain=self.per_domain, seed=self.seed)
        if not len(items["answer"]):
            return
        parts = (items[name].to(pl_module.device).split(self.batch) for name in ("prompt_ids", "choices_ids"))
        end = getattr(trainer.datamodule, "end", None)
        chosen = [
            score_choices(module=pl_module, prompt_NP=prompt_NP, choices_NCW=choices_NCW, end=end).argmax(1)
            for prompt_NP, choices_NCW in zip(*parts, strict=True)
        ]
        right_N = (torch.cat(chosen).cpu() == items["answer"]).double()
        values = {"test/choice_accuracy": float(right_N.mean())}
        for index in items["domain"].unique().tolist():
            domain = trainer.datamodule.domains[index]
            values[names.per_domain("test/choice_accuracy", domain)] = float(right_N[items["domain"] == index].mean())
        pl_module.log_dict(values, rank_zero_only=True)


def score_choices(
    *, module: pl.LightningModule, prompt_NP: Tensor, choices_NCW: Tensor, end: int | None = None
) -> Tensor:
    """Mean log-probability per token of each of C continuations of W tokens after its prompt of P: [N, C].

    end: the token behind each document, where a token sees its own alone; what follows one then counts for nothing.
    """
    items, choices, _ = choices_NCW.shape
    prompt = prompt_NP.shape[1]
    text = torch.cat([prompt_NP[:, None].expand(-1, choices, -1), choices_NCW], 2).flatten(0, 1)
    ends = torch.zeros_like(text, dtype=torch.bool) if end is None else text == end
    apart = {} if end is None else {"document": ends.cumsum(1) - ends.long()}
    logits = module(text, **apart)[:, prompt - 1 : -1]
    logp = logits.float().log_softmax(-1).gather(-1, text[:, prompt:, None]).squeeze(-1)
    told = ~ends[:, prompt - 1 : -1]
    return ((logp * told).sum(1) / told.sum(1).clamp(min=1)).view(items, choices)

"""Taking prompts from one model to another (section 5 of Su et al.): a projector, trained on some tasks' prompts.

Shape legend: N prompts, P prompt tokens, H hidden width of the source, G of the target.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from datamodules.tasks.datamodule import TaskDataModule
from lightning_modules.common.bounds import Count, Positive
from lightning_modules.common.choices import check_choice
from lightning_modules.prompt.backbone import Backbone
from lightning_modules.prompt.families import word_embedding
from lightning_modules.training.inner import inner_trainer, seeded

VARIANTS = ("flat", "per_token")
OBJECTIVES = ("distance", "task")
WAYS = tuple(itertools.product(VARIANTS, OBJECTIVES))


class Projector(nn.Module):
    """Linear, LeakyReLU, Linear, then LayerNorm over each token: [N, P, H] to [N, P, G].

    LayerNorm keeps the norm of what comes out in the range of the target's embeddings, whose spread its gain starts with.

    Args:
        variant: `flat` mixes all tokens of a prompt (the paper's); `per_token` takes each by itself.
        hidden: width between the two linear layers.
        scale: standard deviation of the target's word embeddings.
    """

    def __init__(
        self,
        *,
        length: Count,
        source: Count,
        target: Count,
        hidden: Count = 64,
        variant: str = "flat",
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        check_choice("projector.variant", variant, VARIANTS)
        tokens = length if variant == "flat" else 1
        self.length, self.source, self.target, self.variant = length, source, target, variant
        self.layers = nn.Sequential(
            nn.Linear(tokens * source, hidden), nn.LeakyReLU(), nn.Linear(hidden, tokens * target)
        )
        self.norm = nn.LayerNorm(target)
        nn.init.constant_(self.norm.weight, scale)

    def forward(self, prompts_NPH: Tensor) -> Tensor:
        """ValueError for prompts of another length or width than it was made for."""
        if prompts_NPH.shape[1:] != (self.length, self.source):
            raise ValueError(
                f"projector: prompts of shape {tuple(prompts_NPH.shape[1:])}; expected ({self.length}, {self.source}), the "
                "tokens and width it was trained on. Train one for this source model (experiment=prompt/project)."
            )
        prompts_NPH = prompts_NPH.to(self.norm.weight.device)
        flat = prompts_NPH.flatten(1) if self.variant == "flat" else prompts_NPH
        return self.norm(self.layers(flat).view(-1, self.length, self.target))


class ProjectorTraining(pl.LightningModule):
    """Trains the projector and nothing else.

    `distance`: mean squared distance to the target model's own prompts. `task`: cross-entropy of the target model on
    the training tasks, which take turns.

    Args:
        prompts_NPH: of the source model, one per training pair. targets_NPG: of the target model. data: of each pair's task.
    """

    def __init__(
        self,
        *,
        projector: Projector,
        backbone: Backbone,
        prompts_NPH: Tensor,
        targets_NPG: Tensor,
        data: Sequence[TaskDataModule],
        objective: str = "task",
        lr: Positive = 3e-3,
    ) -> None:
        super().__init__()
        check_choice("projector.objective", objective, OBJECTIVES)
        self.projector, self.objective, self.lr, self.tasks = projector, objective, lr, list(data)
        # In a tuple, so that the frozen model is no submodule and cannot reach the optimizer.
        self._frozen = (backbone,)
        # They go where the module goes.
        self.prompts_NPH: Tensor
        self.targets_NPG: Tensor
        self.register_buffer("prompts_NPH", prompts_NPH, persistent=False)
        self.register_buffer("targets_NPG", targets_NPG, persistent=False)

    def training_step(self, batch: Any, step: int) -> Tensor:
        if self.objective == "distance":
            return nn.functional.mse_loss(self.projector(self.prompts_NPH), self.targets_NPG)
        pair, turn = step % len(self.tasks), step // len(self.tasks)
        prompt = self.projector(self.prompts_NPH[pair : pair + 1])[0]
        examples = self._frozen[0].placed(self.tasks[pair].train_batch(turn))
        return nn.functional.cross_entropy(self._frozen[0].scores(examples, prompt), examples["labels"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.projector.parameters(), lr=self.lr, weight_decay=0.0)


def train_projector(
    *, steps: Count, seed: int, variant: str = "flat", hidden: Count = 64, **settings: Any
) -> Projector:
    """A frozen one. variant, hidden: of the projector; `settings` are `ProjectorTraining`'s but for it."""
    source, target = settings["prompts_NPH"], settings["backbone"]
    # What the embedding gives, which in some families it scales.
    scale = float(target.words(torch.arange(len(word_embedding(target.model).weight))).float().std())
    with seeded(seed):
        projector = Projector(
            length=source.shape[1],
            source=source.shape[2],
            target=target.width,
            hidden=hidden,
            variant=variant,
            scale=scale,
        )
        module = ProjectorTraining(projector=projector, **settings)
        inner_trainer(max_steps=steps, gradient_clip_val=1.0).fit(module, range(steps))
    return projector.eval().requires_grad_(False)

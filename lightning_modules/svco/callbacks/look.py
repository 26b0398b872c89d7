"""Writes the page of a training once the test split has been judged: every pair, before and after."""

import pytorch_lightning as pl

from lightning_modules.look.callback import PageCallback
from lightning_modules.svco import look
from lightning_modules.svco.callbacks.scene_evaluation import SceneEvaluation


class LookPage(PageCallback):
    """From what `SceneEvaluation` measured before training and at the end."""

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        judged = next((c for c in trainer.callbacks if isinstance(c, SceneEvaluation)), None)
        if not (judged and judged.found and self.wants(trainer)):
            return
        source = trainer.datamodule.source
        trained = self.name if self.name != "base" else "base, trained"
        models = {"base": judged.base or judged.found, trained: judged.found}
        found = look.pairs_page(
            pairs=judged.pairs(source),
            models={name: measured.scores for name, measured in models.items()},
            pixels=trainer.datamodule.pixels,
            name=self.name,
            text=self.text,
        )
        self.write(found, kind=look.KIND, title=look.TITLE)

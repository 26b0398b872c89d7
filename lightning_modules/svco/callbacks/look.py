"""Writes the page of a training once the test split has been judged: every pair, before and after."""

from pathlib import Path

import pytorch_lightning as pl

from lightning_modules.look.page import LOOK, write
from lightning_modules.svco import look
from lightning_modules.svco.callbacks.scene_evaluation import SceneEvaluation


class LookPage(pl.Callback):
    """`<folder>/look.html`, from what `SceneEvaluation` measured before training and at the end.

    text: False keeps every word and picture of the data out of it. name: how the page calls the run. page: False makes none.
    cache: where what every page needs is kept between runs.
    """

    def __init__(
        self, *, folder: str, name: str = "this run", text: bool = True, page: bool = True, cache: str | None = None
    ) -> None:
        self.folder, self.name, self.text, self.page = Path(folder), name, text, page
        self.cache = Path(cache) if cache else None

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        judged = next((c for c in trainer.callbacks if isinstance(c, SceneEvaluation)), None)
        if not (self.page and trainer.is_global_zero and judged and judged.found):
            return
        source = trainer.datamodule.source
        models = {"base": judged.base or judged.found, self.name: judged.found}
        found = look.pairs_page(
            pairs=judged.pairs(source),
            models={name: measured.scores for name, measured in models.items()},
            pixels=trainer.datamodule.pixels,
            name=self.name,
            text=self.text,
        )
        write(self.folder / LOOK, kind=look.KIND, title=look.TITLE, data={"runs": [found]}, cache=self.cache)

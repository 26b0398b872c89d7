"""Files as people have them, awkward ones: what each reader makes of them. `make files` writes docs/results/files.json.

A case is a reader, a name, what lays the file into a folder and returns its path, and what is expected: `read`, or words
of the refusal. What is read is a task of classes `good` and `bad`, a corpus of one domain, pairs, preferences, a picture or
a prompt.
"""

from pathlib import Path

from tests.datamodules.files.corpora import CORPORA
from tests.datamodules.files.pairs import PAIRS
from tests.datamodules.files.preferences import PREFERENCES
from tests.datamodules.files.prompts import PROMPTS
from tests.datamodules.files.tasks import TASKS

CASES = (*TASKS, *CORPORA, *PAIRS, *PREFERENCES, *PROMPTS)


def read(reader: str, path: Path) -> None:
    """By the reader, as a run does; says what it says."""
    from datamodules.corpus import FolderSource
    from datamodules.scenes import MVCSource, PairsDataModule, PreferenceSource, mvc
    from datamodules.tasks import Hub
    from lightning_modules.common.say import say
    from lightning_modules.prompt.prompt_file import PromptFile

    if reader == "task":
        sizes = dict(train=20, val=10, test=10)
        words = {"0": "bad", "1": "good"}
        Hub(name="custom", dataset=str(path), text="text", words=words, **sizes).task("custom").intake.tell()
    elif reader == "corpus":
        source = FolderSource(path=str(path))
        for texts in source.documents().values():
            assert list(texts)
        for warning in source.warnings:
            say(warning)
    elif reader == "pairs":
        PairsDataModule(source=MVCSource(file=str(path), val=2, test=2)).prepare_data()
    elif reader == "preferences":
        PairsDataModule(source=PreferenceSource(file=str(path), val=2, test=2)).prepare_data()
    elif reader == "picture":
        assert mvc.open_image(path).mode == "RGB"
    else:
        assert PromptFile.load(path).weight.shape == (3, 8)

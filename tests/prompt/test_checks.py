"""What is wrong with a prompt's config is told before anything costly is imported."""

import pytest
from omegaconf import OmegaConf

from lightning_modules.prompt import checks

LANGUAGE, VADER, HUB = (f"datamodules.tasks.{name}" for name in ("Language", "Vader", "Hub"))


@pytest.mark.parametrize(
    ("source", "task", "study", "wrong"),
    [
        (LANGUAGE, "sentiment_flim", None, ["task is 'sentiment_flim'"]),
        (LANGUAGE, "sentiment_film", None, []),
        (VADER, "sentiment_film", None, ["task is 'sentiment_film'"]),
        # A study takes its own; `task` is not read.
        (LANGUAGE, "x", {"tasks": ["number_film", "y"]}, ["study.tasks is 'y'"]),
        (LANGUAGE, "x", {"tasks": None}, []),
        # A file has to be read to know.
        (HUB, "x", None, []),
    ],
)
def test_tasks_that_are_known_by_heart_are_refused(source, task, study, wrong):
    cfg = OmegaConf.create({"data": {"source": {"_target_": source}}, "task": task, "study": study})
    said = list(checks.tasks_are_known(cfg))
    assert len(said) == len(wrong)
    assert all(text.startswith(start) for text, start in zip(said, wrong, strict=True))


@pytest.mark.parametrize(
    ("source", "agreement", "task", "refused"),
    [
        (LANGUAGE, 0.0, "sentiment_number_film", True),
        (LANGUAGE, 0.5, "sentiment_number_film", False),
        (LANGUAGE, 0.0, "sentiment_film", False),
        (VADER, 0.0, "sentiment_number_film", False),
    ],
)
def test_a_task_of_agreement_is_refused_where_the_backbone_is_not_taught_it(source, agreement, task, refused):
    given = {"_target_": source, "agreement": agreement}
    for asked in ({"task": task, "study": None}, {"task": "x", "study": {"tasks": ["number_film", task]}}):
        said = list(checks.agreement_is_taught(OmegaConf.create({"data": {"source": given}} | asked)))
        assert len(said) == refused
        assert all("language.agreement=0.2" in text for text in said)

"""Every awkward file of `tests/datamodules/files` is read, or refused in words that name what is wrong."""

import pytest

from lightning_modules.runtime.provenance import machine
from tests.datamodules.files import CASES, read
from tests.results import note


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()


@pytest.mark.parametrize("case", CASES, ids=[f"{c.reader}: {c.name}" for c in CASES])
def test_an_awkward_file(tmp_path, capsys, case):
    folder = tmp_path / "files"
    folder.mkdir()
    path = case.make(folder)
    capsys.readouterr()
    try:
        read(case.reader, path)
        verdict, said = "read", capsys.readouterr().err
    except ValueError as error:
        verdict, said = "refused", str(error)
    said = " ".join(said.split()).replace(str(folder), "FOLDER")
    row = {"reader": case.reader, "case": case.name, "verdict": verdict, "said": said}
    note("files", key=("reader", "case"), command="make files", **row, machine=machine())
    assert (verdict, "\n" in said) == ("refused" if case.refused else "read", False), said
    assert (case.refused or case.warned) in said


def test_there_are_sixty_and_no_two_of_one_name():
    assert len({(c.reader, c.name) for c in CASES}) == len(CASES) >= 60

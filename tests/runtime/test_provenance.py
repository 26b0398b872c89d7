"""Where a result says that it was made."""

import subprocess

import torch

from lightning_modules.runtime import provenance


def test_a_machine_names_the_gpus_of_a_process_that_used_them(monkeypatch):
    plain = provenance.machine()
    names = ["NVIDIA H200", "NVIDIA H200", "NVIDIA L4"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(names))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: names[number])
    assert provenance.machine() == plain, "nor is CUDA started to ask"
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    assert provenance.machine() == f"{plain}, 2 x NVIDIA H200, 1 x NVIDIA L4"


def test_a_copy_without_its_history_is_told_its_commit(monkeypatch):
    assert provenance.head().startswith(provenance.commit().removesuffix("-dirty"))
    monkeypatch.setenv("FACET_COMMIT", "0123456789abcdef")
    assert provenance.head() == provenance.commit() == "0123456789abcdef"
    monkeypatch.delenv("FACET_COMMIT")
    monkeypatch.setattr(provenance, "git", lambda *_: "")
    assert (provenance.head(), provenance.commit()) == ("", "unknown")


def test_a_git_that_takes_too_long_or_writes_what_is_no_text_ends_no_run(monkeypatch):
    def slow(*_, **__):
        raise subprocess.TimeoutExpired("git", 30)

    run = subprocess.run
    monkeypatch.setattr(subprocess, "run", slow)
    assert provenance.git("status") == ""
    monkeypatch.setattr(subprocess, "run", lambda _, **given: run(["printf", r"caf\351"], **given))
    assert provenance.git("diff") == "caf\N{REPLACEMENT CHARACTER}"

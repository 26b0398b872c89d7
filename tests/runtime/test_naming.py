"""What a run is called in MLflow, and where it says it came from."""

import subprocess
import sys

import pytest
from omegaconf import OmegaConf

import main as entry
from lightning_modules.runtime import naming
from lightning_modules.runtime.identity import by_setting
from tests.runtime.cli import PROJECT


@pytest.mark.parametrize(
    ("overrides", "apart", "name"),
    [
        (["experiment=moe/scope", "balance=micro"], ["balance", "seed"], "s1 micro"),
        (["balance=global_two_pass", "optimizer.lr=0.01", "trainer.max_steps=9"], ["balance", "optimizer.lr"], None),
        (["balance=micro", "trainer.max_steps=9"], ["seed"], "s1"),
        (["balance=micro", "trainer.max_steps=9"], [], "balance=micro trainer.max_steps=9 s1"),
    ],
)
def test_a_job_is_named_by_what_sets_it_apart_in_its_sweep(overrides, apart, name):
    assert naming.run_name(overrides, 1, apart) == (name or "s1 lr=0.01 global_two_pass")


def test_what_takes_several_values_in_a_sweep():
    cfg = OmegaConf.create({"hydra": {"sweeper": {"params": {"balance": "micro,global"}}}})
    given = ["-m", "experiment=moe/scope", "seed=1,2", "optimizer.lr=interval(1e-4,1e-2)", "trainer.max_steps=3"]
    assert naming.swept(cfg, given) == ["seed", "optimizer.lr", "balance"]


def test_the_command_of_a_run_holds_no_address():
    given = [
        "experiment=moe/scope",
        "logger.tracking_uri=postgresql://user:password@host/db",
        "paths.runs=/a",
        "seed=2",
    ]
    told = naming.source(given, commit="abc")
    assert told["mlflow.note.content"] == "```bash\npython main.py experiment=moe/scope seed=2\n```\n"
    assert told["mlflow.source.git.commit"] == "abc"
    assert "password" not in str(told)


def test_the_command_of_a_sweep_is_the_one_given():
    told = naming.source(["-m", "experiment=moe/scope", "seed=1,2", "paths.runs=/a"], commit="")
    assert told["mlflow.note.content"] == "```bash\npython main.py -m experiment=moe/scope seed=1,2\n```\n"
    ended = naming.description(["seed=2"], {"test/ppl": 61.2749, "test/nan": float("nan")})
    assert ended == "```bash\npython main.py seed=2\n```\n\n- test/ppl: **61.27**\n- test/nan: **nan**\n"


def test_a_long_command_is_broken_and_read_again():
    given = [
        "experiment=moe/scope",
        *(f"model.key_{n}=value_{n}" for n in range(9)),
        "data.path='a b, c'",
        "x=" + "y" * 120,
    ]
    told = naming.description(given, {"test/ppl": 1.0})
    lines = told.split("```")[1].splitlines()[1:]
    assert len(lines) > 3
    assert all(len(line) <= 90 for line in lines if "yyy" not in line)
    assert all(line.endswith(" \\") for line in lines[:-1])
    shell = 'python() { printf "%s\\0" "$@"; }\n' + "\n".join(lines)
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=True)
    assert done.stdout.split("\0")[1:-1] == given
    assert naming.overrides_of(told) == given
    assert naming.overrides_of("by hand") is None


def test_names_of_means_are_names_that_mlflow_takes():
    from mlflow.utils.validation import _validate_metric_name

    how = ["balance=micro", "data.path='a b'"]
    runs = [
        {"overrides": how, "metrics": {"val/ppl": 1.0}},
        {"overrides": how, "metrics": {"val/ppl": 2.0, "test/ppl": 9.0}},
    ]
    found = naming.means({"any": runs}, ["val/ppl", "test/ppl"], apart=["balance", "data.path"])
    assert found == {"sweep/val/ppl micro path:a b": 1.5, "sweep/test/ppl micro path:a b": 9.0}
    for name in found:
        _validate_metric_name(name)


def test_a_mean_keeps_its_name_as_the_sweep_goes_on_and_mixes_no_two_settings():
    """Of one setting nothing is known yet to set it apart from others; other commands may have run in the same folder."""

    def run(*overrides):
        return {"overrides": list(overrides), "metrics": {"val/ppl": 1.0}}

    def named(*runs):
        return list(naming.means(by_setting(list(runs)), ["val/ppl"], apart=["balance", "seed"]))

    first, second = run("balance=micro", "seed=1"), run("balance=global", "seed=1")
    assert named(first) == ["sweep/val/ppl micro"]
    assert named(first, second) == ["sweep/val/ppl micro", "sweep/val/ppl global"]
    assert len(named(first, run("balance=micro", "optimizer.lr=0.1"))) == 2


def test_the_version_is_said():
    done = subprocess.run(
        [sys.executable, "main.py", "--version"], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"facet {naming.version()}\n"


@pytest.mark.parametrize("version", [(3, 10), (3, 14)])
def test_another_python_is_refused_by_name(version, monkeypatch, capsys):
    monkeypatch.setattr(entry.sys, "version_info", version)
    assert entry.start() == 2
    assert f"this is Python {version[0]}.{version[1]}; expected 3.11, 3.12 or 3.13" in capsys.readouterr().err


def test_one_version_everywhere():
    citation = (PROJECT / "CITATION.cff").read_text()
    assert f"\nversion: {naming.version()}\n" in citation
    assert f"\n## {naming.version()} " in (PROJECT / "CHANGELOG.md").read_text()

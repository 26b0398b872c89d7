"""The command line, from the outside: what runs, what it leaves behind, and what it says when it cannot."""

import json

import pytest
import torch
from mlflow import MlflowClient

from lightning_modules.runtime import naming, provenance
from tests.runtime.cli import PLAIN, main

# Their pages, which others look at, take two seconds each.
FOUR = ["-m", "balance=micro,global", "seed=1,2", "experiment_name=test/sweep", "look.page=false"]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """`-m balance=micro,global seed=1,2`: four runs in one process."""
    folder = tmp_path_factory.mktemp("sweep")
    return main(folder, *FOUR)


def runs_of(done, experiment):
    client = MlflowClient(f"sqlite:///{done.folder}/tracking/mlflow.db")
    found = client.get_experiment_by_name(experiment)
    return client, client.search_runs([found.experiment_id])


def test_a_sweep_gives_comparable_runs(sweep):
    client, runs = runs_of(sweep, "test/sweep")
    parents = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    (parent,) = parents
    runs = [r for r in runs if r not in parents]
    assert {r.info.run_name for r in runs} == {"s1 micro", "s2 micro", "s1 global", "s2 global"}
    for setting in ("micro", "global"):
        values = [r.data.metrics["test/ppl"] for r in runs if r.data.params["balance"] == setting]
        assert parent.data.metrics[f"sweep/test/ppl {setting}"] == pytest.approx(sum(values) / 2)
    for run in runs:
        assert run.data.tags["mlflow.source.name"] == "main.py"
        assert run.data.tags["mlflow.source.git.commit"] == run.data.tags["git.commit"]
        assert run.data.tags["facet.version"] == naming.version()
        setting = run.data.params["balance"]
        assert run.data.tags["setting"] == setting, "what charts are grouped by"
        told = run.data.tags["mlflow.note.content"]
        assert f"\npython main.py debug=smoke balance={setting}" in told
        assert f"\n- test/ppl: **{run.data.metrics['test/ppl']:.4g}**\n" in told
    assert len(runs) == 4
    assert {(r.data.params["balance"], r.data.params["seed"]) for r in runs} == {
        (option, seed) for option in ("micro", "global") for seed in ("1", "2")
    }
    assert {r.info.status for r in runs} == {"FINISHED"}
    assert len({r.info.run_name for r in runs}) == 4
    for seed in ("1", "2"):
        pair = [r for r in runs if r.data.params["seed"] == seed]
        assert len({r.data.tags["fingerprint.order"] for r in pair}) == 1, "same data in the same order"
        # The first forward is that of the same weights on the same batch.
        first = [client.get_metric_history(r.info.run_id, "train/ce")[0] for r in pair]
        assert {m.step for m in first} == {4}
        assert abs(first[0].value - first[1].value) < 0.02
    assert len({r.data.tags["fingerprint.data"] for r in runs}) == 1
    assert len({r.data.metrics["test/ppl"] for r in runs}) == 4


def test_a_run_logs_what_one_compares_by(sweep):
    client, runs = runs_of(sweep, "test/sweep")
    runs = [r for r in runs if "mlflow.parentRunId" in r.data.tags]
    wanted = {"train/loss", "train/tokens_per_s", "val/ppl", "val/ppl_hard", "test/ppl", "test/choice_accuracy"}
    wanted |= {f"moe/lbl_{scope}" for scope in ("sequence", "micro", "global")}
    wanted |= {"moe/balance_bsz", "moe/maxvio_micro", "moe/maxvio_global", "moe/dead_experts", "moe/routing_entropy"}
    wanted |= {"test/mutual_information", "test/mutual_information_shuffled", "test/topk_score_sum"}
    for run in runs:
        assert wanted <= set(run.data.metrics), wanted - set(run.data.metrics)
        bsz = {"micro": 4, "global": 32}[run.data.params["balance"]]
        assert run.data.metrics["moe/balance_bsz"] == bsz
        assert {"git.commit", "package.torch", "fingerprint.tokenizer", "parameters.active"} <= set(run.data.tags)
        assert run.data.tags["machine"] == provenance.machine()
        top = {f.path for f in client.list_artifacts(run.info.run_id)}
        assert {"figures", "hydra", "provenance", "result.json", "config.yaml", "console.log", "export"} <= top
        (dataset,) = run.inputs.dataset_inputs
        assert (dataset.dataset.name, dataset.dataset.digest) == ("corpus", run.data.tags["fingerprint.data"])
        figures = {f.path for f in client.list_artifacts(run.info.run_id, "figures")}
        assert {"figures/selection_heatmap.png", "figures/routing_test.pt"} <= figures


def test_a_finished_run_is_left_alone_and_its_export_loads(sweep):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    before = {p: p.stat().st_mtime_ns for p in sweep.folder.glob("runs/**/result.json")}
    assert len(before) == 4
    again = main(sweep.folder, *FOUR)
    assert again.text.count("Already done") == 4
    assert {p: p.stat().st_mtime_ns for p in before} == before
    export = next(sweep.folder.glob("runs/**/export"))
    ids = AutoTokenizer.from_pretrained(export)("aeiou", return_tensors="pt")["input_ids"]
    assert torch.isfinite(AutoModelForCausalLM.from_pretrained(export)(ids).logits).all()


def test_two_ranks_train_like_one(tmp_path):
    settings = ["logger=none", "balance=global", "trainer.log_every_n_steps=1", "experiment_name=test/ranks", *PLAIN]
    one = main(tmp_path, *settings)
    two = main(tmp_path, *settings, "trainer=ddp_cpu", "trainer.devices=2", "trainer.max_steps=20")
    assert "error" not in two.text.lower()
    first, second = (list(d.results().values()) for d in (one, two))
    assert len(second) == 2
    values = [r["metrics"]["test/ppl"] for r in second]
    assert values[0] == pytest.approx(values[1], rel=1e-4)
    assert first[0]["steps"] == 20
    assert {r["metrics"]["moe/balance_bsz"] for r in second} == {32}


@pytest.mark.parametrize(
    ("learning_rate", "every", "said", "checkpoints"),
    [
        ("1e30", 1, "weight model.model.embed_tokens.weight is not finite after optimizer step 2", 1),
        ("1e3", 4, "loss is", 1),
    ],
)
def test_a_non_finite_loss_or_weight_marks_the_run_failed_with_its_reason(
    tmp_path, learning_rate, every, said, checkpoints
):
    # The second diverges after a good checkpoint has been written.
    settings = [
        f"optimizer.lr={learning_rate}",
        "optimizer.warmup_steps=0",
        f"callbacks.resume_point.every_n_steps={every}",
    ]
    done = main(tmp_path, *settings, "experiment_name=test/nan", "trainer.gradient_clip_val=null", check=False)
    assert done.code == 1
    assert f"error: {said}" in done.text
    assert "Traceback" not in done.text
    assert done.results() == {}
    _, (run,) = runs_of(done, "test/nan")
    assert run.info.status == "FAILED"
    assert run.data.tags["failure_reason"].startswith(f"NonFiniteLossError: {said}")
    found = list(done.folder.glob("runs/**/last.ckpt"))
    assert len(found) == checkpoints
    for kept in found:
        state = torch.load(kept, weights_only=True)["state_dict"]
        assert all(torch.isfinite(v).all() for v in state.values()), "the last checkpoint is from before the bad step"


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["balance=globl"], ["balance=globl: no such option; the nearest is 'global'", "global_two_pass"]),
        (["model.top_k=9"], ["model.top_k is 9; expected 1 to model.experts, which is 8"]),
        (
            ["balance=group", "balance.block=3"],
            ["balance.block is 3 sequences; expected a divisor or a multiple"],
        ),
        (["data=corpus_folder", "data.path=nowhere"], ["data.path=", "nowhere is no folder"]),
        (["data.global_batch=30"], ["data.global_batch is 30", "the nearest is 32"]),
        (["trainer.accumulate_grad_batches=3"], ["data.global_batch is 32", "the nearest is 36"]),
    ],
)
def test_one_clear_error(tmp_path, overrides, expected):
    done = main(tmp_path, *overrides, "logger=none", check=False)
    assert done.code == 2
    assert "Traceback" not in done.text
    for words in expected:
        assert words in done.text
    assert done.results() == {}


@pytest.mark.slow
def test_every_option_of_every_group_composes():
    """`--cfg job` on each file of conf/ would take minutes; composing them here takes seconds."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from lightning_modules.runtime.config import register_resolvers
    from tests.runtime.cli import PROJECT

    register_resolvers(project=PROJECT)
    groups = ("model", "data", "balance", "optimizer", "trainer", "logger", "debug", "experiment/moe")
    seen = 0
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        for group in groups:
            for file in sorted((PROJECT / "conf" / group).glob("*.yaml")):
                needed = ["data.path=x"] if file.stem == "corpus_folder" else []
                name = f"{group.split('/')[0]}={'/'.join([*group.split('/')[1:], file.stem])}"
                cfg = compose("config", overrides=[name, *needed])
                assert json.dumps(OmegaConf.to_container(cfg, resolve=False))
                seen += 1
    assert seen > 25

"""The module in the real Trainer: cached against live reference, LoRA, resume, what is saved; and whole runs."""

import sys
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch

from datamodules.scenes.datamodule import PairsDataModule, SceneSource
from lightning_modules.svco import module
from lightning_modules.svco.losses import Objective
from lightning_modules.svco.module import SVCO
from lightning_modules.svco.scores import pair_scores
from lightning_modules.training.inner import inner_trainer
from tests import forks
from tests.ranks import run_ranks
from tests.runtime.cli import PROJECT
from tests.svco.toy import encode, tiny_vlm

FOUR = dict.fromkeys(("attend", "reject", "attend_mirror", "reject_mirror"), 0.1)


class Curve(pl.Callback):
    def __init__(self):
        self.loss = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.loss.append(float(trainer.callback_metrics["train/loss"]))


def fit(*, steps=6, reference="cached", lora_rank=0, resume=None, lr=3e-3, model=None, callbacks=(), train=16, **more):
    pl.seed_everything(0, verbose=False)
    module = SVCO(
        model=model or tiny_vlm(lora_rank=lora_rank),
        objective=Objective(**{"betas": FOUR, "reference": reference, **more.pop("objective", {})}),
        optimizer={"lr": lr, "warmup_steps": 1},
    )
    data = PairsDataModule(source=SceneSource(train=train, val=6, test=6), global_batch=4, eval_batch=4)
    curve = Curve()
    trainer = pl.Trainer(
        **{"accelerator": "cpu", **more},
        max_steps=steps,
        logger=False,
        callbacks=[curve, *callbacks],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        val_check_interval=3,
        check_val_every_n_epoch=None,
        use_distributed_sampler=False,
    )
    trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
    return curve, module, trainer


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_first_loss_is_four_log_2_and_training_moves_it(precision):
    """Also where the steps, and so the reference, are in mixed precision."""
    curve, _, trainer = fit(precision=precision)
    assert curve.loss[0] == pytest.approx(4 * 0.693147, abs=1e-4)
    assert abs(curve.loss[-1] - curve.loss[0]) > 1e-3
    assert {"val/loss", "val/paired_accuracy", "svco/loss_attend"} <= set(trainer.callback_metrics)


@pytest.mark.slow
@pytest.mark.parametrize("lora_rank", [0, 4])
def test_cached_reference_scores_equal_live_ones(lora_rank):
    cached, one, _ = fit(lora_rank=lora_rank)
    live, other, _ = fit(lora_rank=lora_rank, reference="live")
    assert cached.loss == pytest.approx(live.loss, abs=1e-4)
    for (name, a), (_, b) in zip(one.named_parameters(), other.named_parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-4), name


def test_pairs_that_the_model_reads_as_one_response_are_told(capsys):
    fit(steps=1, model=tiny_vlm(max_response=2))
    assert "Warning: 20 pairs have one response twice to the model" in capsys.readouterr().out
    fit(steps=1)
    assert "one response twice" not in capsys.readouterr().out


def test_frozen_weights_do_not_move_and_are_not_saved(tmp_path):
    before = {n: p.clone() for n, p in tiny_vlm().named_parameters()}
    _, module, trainer = fit()
    moved = {n for n, p in module.vlm.named_parameters() if not torch.equal(p, before[n])}
    assert moved and not any("vision_tower" in n for n in moved)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    saved = torch.load(tmp_path / "a.ckpt", weights_only=True)["state_dict"]
    assert set(saved) == {n for n, p in module.named_parameters() if p.requires_grad}
    with pytest.raises(ValueError, match=r"other trained weights \(1 differ.*model.freeze_vision"):
        module.load_state_dict(dict(list(saved.items())[1:]))


@pytest.mark.slow
def test_a_resumed_run_ends_bitwise_as_an_undisturbed_one(tmp_path):
    whole, module, _ = fit(steps=6)

    class Save(pl.Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 3:
                trainer.save_checkpoint(tmp_path / "three.ckpt")

    pl.seed_everything(0, verbose=False)
    half = SVCO(model=tiny_vlm(), objective=Objective(betas=FOUR), optimizer={"lr": 3e-3, "warmup_steps": 1})
    data = PairsDataModule(source=SceneSource(train=16, val=6, test=6), global_batch=4, eval_batch=4)
    settings = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    pl.Trainer(
        accelerator="cpu",
        max_steps=6,
        callbacks=[Save()],
        use_distributed_sampler=False,
        limit_val_batches=0,
        **settings,
    ).fit(half, datamodule=data)
    rest, resumed, _ = fit(steps=6, resume=tmp_path / "three.ckpt")
    assert rest.loss == whole.loss[3:]
    for (name, a), (_, b) in zip(module.named_parameters(), resumed.named_parameters(), strict=True):
        assert torch.equal(a, b), name


def test_a_plan_counts_the_tokens_of_the_models_own_reader():
    data, vlm = PairsDataModule(source=SceneSource(train=3), global_batch=4), tiny_vlm()
    pair = data.source.pairs("train")[0]
    prompts = [len(vlm.reader.prompt(pair.instruction, image)[0]) for image in (*pair.images(data.pixels), None)]
    responses = [len(vlm.reader.response(text)[0]) for text in (pair.chosen, pair.rejected)]
    assert data.tokens_per_step_of(SimpleNamespace(vlm=vlm)) == 4 * sum(p + r for p in prompts for r in responses)


def fit_on_a_rank(rank, ranks):
    """With a vision tower that trains, whose last norm no feature comes through."""
    machine = dict(devices=ranks, strategy="ddp") if ranks > 1 else {}
    curve, module, _ = fit(model=tiny_vlm(freeze_vision=False), **machine)
    return curve.loss, module.state_dict()


def test_two_processes_train_a_tower_not_all_of_which_is_read():
    (loss, state), (first, second) = fit_on_a_rank(0, 1), run_ranks(fit_on_a_rank, 2)
    found = torch.tensor([first[0], second[0]]).mean(0)
    torch.testing.assert_close(found, torch.tensor(loss), rtol=0, atol=1e-4)
    for name, weight in state.items():
        torch.testing.assert_close(first[1][name], weight, rtol=0, atol=5e-3, msg=lambda m, n=name: f"{n}: {m}")


def test_other_pairs_are_refused():
    data = PairsDataModule(source=SceneSource(train=16), global_batch=4)
    state = {"forwards": 2, "fingerprint": data.fingerprint()}
    other = PairsDataModule(source=SceneSource(train=17), global_batch=4)
    with pytest.raises(ValueError, match="started on other data: the fingerprint of data"):
        other.load_state_dict(state)


def test_the_nats_of_a_token_depend_on_no_batch():
    def validated(eval_batch):
        trainer = inner_trainer(max_steps=1, limit_val_batches=None)
        module = SVCO(model=tiny_vlm(), objective=Objective(nll={"ww": 1.0}))
        data = PairsDataModule(source=SceneSource(train=4, val=9, test=4), eval_batch=eval_batch)
        trainer.validate(module, datamodule=data, verbose=False)
        return float(trainer.callback_metrics["val/pair_nll"])

    vlm = tiny_vlm()
    pairs = encode(vlm, SceneSource(val=9).pairs("val"))
    with torch.no_grad():
        scores = pair_scores(vlm, pairs, ("ww", "ll"))
    tokens = sum(len(pair.response_w) + len(pair.response_l) for pair in pairs)
    expected = -float(sum(scores.values()).sum()) / tokens
    assert [validated(1), validated(4)] == pytest.approx([expected] * 2, rel=1e-5)


def validated_on_a_rank(rank, ranks):
    """Nats a token, of pairs some of whose chosen answers are a token shorter than they were."""
    vlm = tiny_vlm()
    whole = vlm.reader.encode

    def cut(pair, images):
        found = whole(pair, images)
        return found._replace(response_w=found.response_w[: -1 - int(found.response_w.sum()) % 2])

    vlm.reader.encode = cut
    data = PairsDataModule(source=SceneSource(train=4, val=6, test=4, seed=1), eval_batch=4)
    machine = dict(devices=ranks, strategy="ddp") if ranks > 1 else {}
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, use_distributed_sampler=False, **machine
    )
    module = SVCO(model=vlm, objective=Objective(nll={"ww": 1.0}))
    trainer.validate(module, datamodule=data, verbose=False)
    tokens = sum(len(pair.response_w) + len(pair.response_l) for batch in data.val_dataloader() for pair in batch.pairs)
    return tokens, float(trainer.callback_metrics["val/pair_nll"])


def test_the_nats_of_a_token_depend_on_no_number_of_processes():
    tokens, expected = validated_on_a_rank(0, 1)
    found = run_ranks(validated_on_a_rank, 2)
    assert sum(own for own, _ in found) == tokens and tokens % 2, "their mean over the ranks is no whole number"
    assert [nats for _, nats in found] == pytest.approx([expected] * 2, rel=1e-5)


def test_reference_scores_are_asked_for_in_batches_of_validation(monkeypatch):
    asked = []
    monkeypatch.setattr(
        module, "pair_scores", lambda vlm, pairs, needs: asked.append(len(pairs)) or pair_scores(vlm, pairs, needs)
    )
    fit(steps=1, train=10)
    assert asked[:5] == [4, 4, 2, 4, 2]


TINY = (
    "threads=1 logger=none model.vision_steps=3 model.steps=3 model.scenes=40 model.batch=8 model.width=32 "
    "model.vision_layers=1 model.layers=1 model.heads=2 data.source.train=32 data.source.val=6 data.source.test=6"
)
RUN = "trainer.max_steps=4 trainer.val_check_interval=2 trainer.enable_progress_bar=false data.global_batch=4"
EVALUATION = "callbacks.scene_evaluation.scenes_each=4 callbacks.scene_evaluation.pairs=6"
STUDY = "study.steps=3 study.scenes_each=4 study.test_pairs=6 study.learning_rates=[1e-3] data.global_batch=4"


def main(folder, *overrides):
    places = [f"paths.{name}={folder}/{name}" for name in ("cache", "runs", "tracking")]
    command = [sys.executable, str(PROJECT / "main.py"), *places, *TINY.split(), *overrides]
    done = forks.run(command, cwd=folder, timeout=300)
    return done.returncode, done.stdout + done.stderr


def test_whole_runs_and_the_export(tmp_path):
    code, text = main(tmp_path, "experiment=svco/train", *RUN.split(), *EVALUATION.split())
    assert code == 0, text
    folder = next(tmp_path.glob("runs/svco/train/*"))
    assert (folder / "result.json").is_file()
    assert {p.stem for p in (folder / "figures").glob("*.png")} == {
        "log_probabilities",
        "examples",
        "gain_by_dependency",
    }
    # The export is a model by path: another objective trains on from it, with LoRA.
    path = [f"model.path={folder}/export", "model.lora_rank=2", "model=vlm", "objective=sft_both"]
    without = [o for o in TINY.split() if not o.startswith("model.")]
    places = [f"paths.{name}={tmp_path}/{name}" for name in ("cache", "runs", "tracking")]
    command = [
        sys.executable,
        str(PROJECT / "main.py"),
        *places,
        *without,
        *path,
        "experiment=svco/train",
        *RUN.split(),
    ]
    done = forks.run([*command, *EVALUATION.split()], cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_study_trains_nothing_twice(tmp_path):
    code, text = main(tmp_path, "experiment=svco/ablate", *STUDY.split())
    assert code == 0, text
    made = sorted(p.name for p in tmp_path.glob("cache/svco/tuned/*/trained.safetensors"))
    times = {p: p.stat().st_mtime_ns for p in tmp_path.glob("cache/svco/tuned/*/trained.safetensors")}
    assert len(made) == 4
    code, text = main(tmp_path, "experiment=svco/ablate", *STUDY.split(), "fresh=true")
    assert code == 0, text
    assert {p: p.stat().st_mtime_ns for p in tmp_path.glob("cache/svco/tuned/*/trained.safetensors")} == times

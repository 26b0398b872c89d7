"""Our pairs' file, as it is, through TRL's own DPO trainer: it trains, and its first log-probabilities are ours."""

import re
from pathlib import Path

import datasets
import pytest
import torch
from transformers import AutoModelForImageTextToText
from trl import DPOConfig, DPOTrainer

from datamodules.scenes import mvc, preferences
from datamodules.scenes.reader import Reader
from lightning_modules.svco.losses import SCORES
from lightning_modules.svco.models import VLM
from lightning_modules.svco.scores import pair_scores
from tests.families.vlm import parts
from tests.svco.test_mvc import many

PAIRS = 4


@pytest.mark.parametrize("family", ["idefics3", "gemma3"])
def test_trls_dpo_trainer_reads_our_pairs_and_scores_them_as_we_do(tmp_path, monkeypatch, family):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    pairs, _ = mvc.read(Path(many(tmp_path, count=PAIRS)))
    file = preferences.write(tmp_path / "ours.parquet", pairs)
    net, processor = parts(family)
    # Where TRL reads otherwise: it counts what a template writes behind the end of a turn, and adds no beginning of its own.
    processor.chat_template = re.sub(
        r"(<end_of_utterance>|<end_of_turn>|<\|im_end\|>)\n", r"\1", processor.chat_template
    )
    # The trainer loads the reference model anew from where the model was loaded.
    net.save_pretrained(tmp_path / "model")
    net = AutoModelForImageTextToText.from_pretrained(tmp_path / "model").eval()
    vlm = VLM(net=net, reader=Reader(processor=processor))
    with torch.no_grad():
        ours = pair_scores(vlm, [vlm.reader.encode(p, p.images()) for p in pairs], SCORES)
    before = {name: weight.detach().clone() for name, weight in net.named_parameters()}
    settings = dict(per_device_train_batch_size=2 * PAIRS, max_steps=2, max_length=None, learning_rate=1e-4)
    quiet = dict(
        report_to=[], save_strategy="no", use_cpu=True, bf16=False, gradient_checkpointing=False, logging_steps=1
    )
    trainer = DPOTrainer(
        model=net,
        args=DPOConfig(output_dir=str(tmp_path / "out"), **settings, **quiet),
        train_dataset=datasets.load_dataset("parquet", data_files=str(file), split="train"),
        processing_class=processor,
    )
    trainer.train()
    first = trainer.state.log_history[0]
    assert first["logps/chosen"] == pytest.approx(float(torch.cat([ours["ww"], ours["ll"]]).mean()), rel=1e-4)
    assert first["logps/rejected"] == pytest.approx(float(torch.cat([ours["wl"], ours["lw"]]).mean()), rel=1e-4)
    changed = [name for name, weight in net.named_parameters() if not torch.equal(weight, before[name])]
    assert any("vision" in name or "visual" in name for name in changed), "the pictures reach it"

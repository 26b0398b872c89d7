"""Speed of prompts (`make bench`); fresh weights, as none of it depends on them.

Tuning against PEFT under Hugging Face's Trainer and against the limit, the finder against storing all activations and
against its two forwards with nothing read, the transfer matrix against one prompt at a time with PEFT.
"""

import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from datamodules.tasks import Language
from lightning_modules.prompt.backbones import LanguageBackbone
from lightning_modules.prompt.prompts import Prompts
from lightning_modules.skill_neurons import predictivity as sn
from lightning_modules.skill_neurons.hooks import hooked
from lightning_modules.transfer.stacked import stacked_accuracy
from tests.bench.results import Quiet, in_fresh_process, row, write

LENGTH, BATCH, STEPS, ROUNDS = 16, 32, 150, 5
TASK = "sentiment_film"
PROMPTS = 14
TUNING = {"steps": STEPS, "batch": BATCH, "lr": 0.01, "warmup_steps": 0, "min_lr_ratio": 1.0, "weight_decay": 0.0}


def prompts(examples: int = 512) -> Prompts:
    language = Language(train=examples, val=examples, test=512)
    cache = tempfile.mkdtemp()
    spec = LanguageBackbone(language=language, cache=cache, random_init=True)
    return Prompts(backbone=spec, source=language, tuning=TUNING, cache=cache, length=LENGTH)


def seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def limit(made: Prompts) -> Callable[[], None]:
    """The frozen forward and the gradient to the prompt, on batches that lie ready."""
    data = made.datamodule(TASK, seed=0)
    batches = [data.training[n * BATCH : (n + 1) * BATCH] for n in range(512 // BATCH)]
    weight = nn.Parameter(torch.randn(LENGTH, made.backbone.width))

    def work() -> None:
        for step in range(STEPS):
            batch = batches[step % len(batches)]
            scores_BC = made.backbone.scores(batch, weight, lean=True)
            nn.functional.cross_entropy(scores_BC, batch["labels"]).backward()
            weight.grad = None

    return work


def ours(made: Prompts) -> Callable[[], None]:
    """A prompt as studies train it, from the datamodule to the trained prompt, without the file."""
    from lightning_modules.prompt.module import PromptTuning
    from lightning_modules.training.inner import inner_trainer, seeded

    def work() -> None:
        with seeded(0):
            module = PromptTuning(backbone=made.backbone, tuner=made.soft(seed=0), lr=0.01)
            inner_trainer(max_steps=STEPS).fit(module, datamodule=made.datamodule(TASK, seed=0))

    return work


def with_peft(made: Prompts) -> Any:
    """PEFT has no masked-LM task; its feature extraction puts the prompt before the model's own inputs."""
    from peft import PromptTuningConfig, TaskType, get_peft_model

    settings = dict(num_virtual_tokens=LENGTH, token_dim=made.backbone.width)
    sizes = dict(num_layers=3, num_attention_heads=4)
    model = made.spec.load().model
    config = PromptTuningConfig(
        task_type=TaskType.FEATURE_EXTRACTION, num_transformer_submodules=1, **settings, **sizes
    )
    return get_peft_model(model, config)


def rows_of(made: Prompts, split: str) -> tuple[list[dict[str, Any]], Tensor]:
    """[MASK] and the text, as a user of PEFT would tokenize them."""
    data = made.datamodule(TASK, seed=0)
    tokenizer, task = data.tokenizer, data.task
    encoded = tokenizer([f"<mask> {text} </s>" for text in task.texts[split]], add_special_tokens=False)["input_ids"]
    rows = [{"input_ids": ids, "labels": label} for ids, label in zip(encoded, task.labels[split], strict=True)]
    return rows, data.common["label_ids"]


def collated(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    from datamodules.tasks.template import collate

    return {**collate([r["input_ids"] for r in rows], pad=1), "labels": torch.tensor([r["labels"] for r in rows])}


def peft_trainer(made: Prompts) -> Callable[[], None]:
    import transformers

    rows, words = rows_of(made, "train")

    class Trainer(transformers.Trainer):
        def compute_loss(self, model: nn.Module, inputs: dict[str, Tensor], **_: Any) -> Tensor:
            labels = inputs.pop("labels")
            logits_BC = model(**inputs).logits[:, LENGTH, words]
            return nn.functional.cross_entropy(logits_BC, labels)

    def work() -> None:
        with tempfile.TemporaryDirectory() as folder:
            arguments = transformers.TrainingArguments(
                output_dir=folder,
                max_steps=STEPS,
                per_device_train_batch_size=BATCH,
                learning_rate=0.01,
                report_to=[],
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
                use_cpu=True,
                remove_unused_columns=False,
            )
            Trainer(model=with_peft(made), args=arguments, train_dataset=rows, data_collator=collated).train()

    return work


def peft_matrix(made: Prompts, prompts_KPH: Tensor) -> Callable[[], None]:
    """One prompt at a time over the test examples, in batches of the Trainer's size for evaluation."""
    rows, words = rows_of(made, "test")
    model = with_peft(made).eval()
    batches = [collated(rows[n : n + BATCH]) for n in range(0, len(rows), BATCH)]
    weight = model.prompt_encoder["default"].embedding.weight

    @torch.no_grad()
    def work() -> None:
        for prompt in prompts_KPH:
            weight.copy_(prompt)
            for batch in batches:
                inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
                (model(**inputs).logits[:, LENGTH, words].argmax(1) == batch["labels"]).sum()

    return work


def stream(made: Prompts, prompt: Tensor) -> Tensor:
    data = made.data(TASK)
    labels = torch.tensor(data.task.labels["val"])
    train, dev = data.fixed("train"), data.fixed("val")
    return sn.find(made.backbone, train=train, dev=dev, labels_N=labels, prompt=prompt, classes=2)[0]


@torch.no_grad()
def store(made: Prompts, prompt: Tensor) -> Tensor:
    """The released way: every activation of both splits is kept, statistics come after."""
    data = made.data(TASK)
    kept: dict[str, Tensor] = {}
    for split in ("train", "val"):
        parts = []
        for batch in data.fixed(split):
            layers: list[Tensor] = []
            with hooked(made.backbone.sites(), lambda _i, x, layers=layers: layers.append(x.clone())):
                made.backbone.answer(batch, prompt)
            parts.append(torch.stack([x[:, 1 : 1 + LENGTH] for x in layers], 1))
        kept[split] = torch.cat(parts)
    labels = torch.tensor(data.task.labels["val"])[:, None, None, None]
    accuracy = ((kept["val"] > kept["train"].mean(0)).long() == labels).float().mean(0)
    return torch.maximum(accuracy, 1 - accuracy).amax(1)


@torch.no_grad()
def forwards(made: Prompts, prompt: Tensor) -> Tensor:
    """What the finder cannot do without if a forward is a whole one: both splits, with nothing read."""
    for split in ("train", "val"):
        for batch in made.data(TASK).fixed(split):
            last = made.backbone.answer(batch, prompt)
    return last


WAYS = {"stream": stream, "store": store, "forwards": forwards}


def finder(examples: str, *ways: str) -> None:
    """A process of its own: seconds of each way round by round, and how far the first of them raised the peak memory."""
    torch.set_num_threads(1)
    made = prompts(int(examples))
    prompt = torch.randn(LENGTH, made.backbone.width, generator=torch.Generator().manual_seed(0))
    data = made.data(TASK)
    for split in ("train", "val"):
        made.backbone.answer(next(iter(data.fixed(split))), prompt)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = {ways[0]: float(WAYS[ways[0]](made, prompt).double().sum())}
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for way in ways[1:]:
        found[way] = float(WAYS[way](made, prompt).double().sum())
    rounds = [[seconds(lambda way=way: WAYS[way](made, prompt)) for way in ways] for _ in range(ROUNDS)]  # type: ignore[misc]
    took = {way: [taken[i] for taken in rounds] for i, way in enumerate(ways)}
    print(json.dumps({"seconds": took, "mb": (after - before) / 1024, "sum": found}))


def ratio(took: dict[str, list[float]], a: str, b: str) -> float:
    """Median over rounds of a's seconds over b's."""
    return statistics.median(x / y for x, y in zip(took[a], took[b], strict=True))


def finder_rows() -> list[dict[str, Any]]:
    asked = {"stream": ("stream", "store", "forwards"), "store": ("store",)}
    few, many = ({w: in_fresh_process("tests.bench.prompt", n, *asked[w]) for w in asked} for n in ("512", "5120"))
    took, sums = many["stream"]["seconds"], many["stream"]["sum"]
    peer = "storing all activations first"
    speed, share = ratio(took, "store", "stream"), ratio(took, "forwards", "stream")
    most = ratio(took, "store", "forwards")
    why = f"storing takes the same two forwards, and with them alone it would be {most:.2f}" if speed < 3 else ""
    same = abs(sums["stream"] - sums["store"]) / sums["store"]
    return [
        row("finder: examples/s, 5,120 a split", 2 * 5120 / statistics.median(took["stream"]), "examples/s"),
        row("finder: speed", speed, "x", goal=">= 3", peer=peer, why=why),
        row("finder: share of two forwards", share, "x", goal=">= 0.9", peer="both splits forward, with nothing read"),
        row("finder: memory added by 10x the examples", many["stream"]["mb"] - few["stream"]["mb"], "MiB", goal="0"),
        row("storing all: memory added by 10x the examples", many["store"]["mb"] - few["store"]["mb"], "MiB"),
        row("finder: predictivity, relative difference", same, "", goal="<= 1e-3", peer=peer),
    ]


def main() -> None:
    quiet = Quiet()
    torch.set_num_threads(1)
    made = prompts()
    drawn = torch.randn(PROMPTS, LENGTH, made.backbone.width, generator=torch.Generator().manual_seed(0))
    arms = {"ours": ours(made), "peft": peft_trainer(made), "limit": limit(made)}
    matrix = {"ours": lambda: stacked_accuracy(made.backbone, made.data(TASK), drawn), "peft": peft_matrix(made, drawn)}
    took: dict[str, list[float]] = {}
    for group, works in (("tune", arms), ("matrix", matrix)):
        for work in works.values():
            work()
        for _ in range(ROUNDS):
            for name, work in works.items():
                took.setdefault(f"{group} {name}", []).append(seconds(work))
    middle = {name: statistics.median(values) for name, values in took.items()}
    rows = [
        row("tuning: steps/s, a prompt of 150 steps", STEPS / middle["tune ours"], "steps/s"),
        row(
            "tuning: speed",
            ratio(took, "tune peft", "tune ours"),
            "x",
            goal=">= 1.3",
            peer="PEFT under transformers' Trainer",
            missed=f"at the limit it would be {ratio(took, 'tune peft', 'tune limit'):.2f}",
        ),
        row(
            "tuning: share of the limit",
            ratio(took, "tune limit", "tune ours"),
            "x",
            goal=">= 0.95",
            peer="frozen forward and gradient to the prompt",
            missed="the rest is Lightning's loop and the optimizer's step",
        ),
        *finder_rows(),
    ]
    speed = ratio(took, "matrix peft", "matrix ours")
    layers = (
        "from the first layer on a text's states are others under every prompt; two layers of three are whole and PEFT's "
        "three and head are: 1.5 by arithmetic"
    )
    transfer = [
        row("matrix: cells/s", PROMPTS / middle["matrix ours"], "cells/s"),
        row(
            "matrix: speed",
            speed,
            "x",
            goal=">= 2",
            peer="one prompt at a time with PEFT",
            why=layers if speed < 2 else "",
        ),
    ]
    quiet.insist()
    write("prompt", rows, command="make bench")
    write("transfer", transfer, command="make bench")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        finder(*sys.argv[1:])
    else:
        main()

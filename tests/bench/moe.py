"""Speed of MoE training (`make bench`): our step against a bare loop and the Hugging Face Trainer, and what a scope costs.

Arms run in fresh processes, in turns, on the same model, batch size and text; a step's time is from one step's begin
to the next one's, so data loading, logging and hooks count. The overhead of the global scope comes from one training
run in which the scope changes every few steps.
"""

import json
import resource
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch

from tests.bench.results import Quiet, in_fresh_process, row, write
from tests.results import PROJECT

ROUNDS, WARM_UP, STEPS, SEGMENT = 3, 5, 25, 10
SETTINGS = ["model=small", "data=corpus", "balance=micro", f"trainer.max_steps={WARM_UP + STEPS}"]
SETTINGS += ["trainer.val_check_interval=1000000", "trainer.enable_progress_bar=false"]


def parts(*overrides: str) -> tuple[Any, Any, Any]:
    """(config, datamodule, module) of a real run."""
    from hydra import compose, initialize_config_dir
    from hydra.utils import instantiate

    from lightning_modules.runtime import quiet
    from lightning_modules.runtime.config import register_resolvers

    quiet.hush()
    register_resolvers(project=PROJECT)
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        places = [f"paths.run={tempfile.mkdtemp()}", "run_name=bench"]
        cfg = compose("config", overrides=[*SETTINGS, *places, *overrides])
    torch.manual_seed(0)
    datamodule = instantiate(cfg.data)
    datamodule.prepare_data()
    return cfg, datamodule, instantiate(cfg.module)


def lightning_steps(
    cfg: Any, datamodule: Any, module: Any, *, logger: Any = False, extra: tuple[Any, ...] = ()
) -> list[float]:
    """Begin of every step of the trainer that a run builds, with the callbacks that a run has while it trains."""
    import pytorch_lightning as pl
    from hydra.utils import instantiate

    class Clock(pl.Callback):
        def __init__(self) -> None:
            self.begins: list[float] = []

        def on_train_batch_start(self, *args: Any) -> None:
            self.begins.append(time.perf_counter())

    clock = Clock()
    names = ("whole_windows", "finite_loss", "expert_frequency_sync", "routing_metrics", "throughput")
    callbacks = [instantiate(cfg.callbacks[n]) for n in names if n in cfg.callbacks]
    settings = {**instantiate(cfg.trainer), "enable_checkpointing": False}
    trainer = pl.Trainer(logger=logger, callbacks=[clock, *callbacks, *extra], **settings)
    trainer.fit(module, train_dataloaders=None, datamodule=datamodule)
    return clock.begins


def ours() -> list[float]:
    return lightning_steps(*parts())


def ours_tracked() -> list[float]:
    """With MLflow at the default cadence, into a database of its own."""
    from pytorch_lightning.loggers import MLFlowLogger

    folder = tempfile.mkdtemp()
    logger = MLFlowLogger(
        "bench", tracking_uri=f"sqlite:///{folder}/mlflow.db", artifact_location=f"{folder}/artifacts"
    )
    assert logger.run_id
    return lightning_steps(*parts(), logger=logger)


def bare() -> list[float]:
    """The least that trains this model with our losses: forward, loss, backward, clip, AdamW; no framework."""
    from lightning_modules.moe.linear_cross_entropy import linear_cross_entropy
    from lightning_modules.moe.losses import load_balancing_loss, router_z_loss
    from lightning_modules.moe.routing import RouterStats

    _, datamodule, module = parts()
    model, tap = module.model, module.tap
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1, fused=True)
    begins = []
    batches = iter(datamodule.train_dataloader())
    for _ in range(WARM_UP + STEPS):
        begins.append(time.perf_counter())
        batch = next(batches)
        ce = linear_cross_entropy(
            hidden_TH=model.base_model(input_ids=batch["input_ids"]).last_hidden_state.flatten(0, 1),
            weight_VH=model.get_output_embeddings().weight,
            targets_T=batch["targets"].flatten(),
        )
        logits_LTE, indices_LTK = tap.read()
        valid_T = torch.ones(logits_LTE.shape[1], dtype=torch.bool)
        stats = RouterStats(logits_LTE, indices_LTK, valid_T, len(batch["input_ids"]) // datamodule.micro_batch)
        lbl = load_balancing_loss(frequency=stats.frequency, prob_sums_LME=stats.prob_sums_LME)
        loss = ce + 0.008 * lbl + 0.001 * router_z_loss(logits_LTE=logits_LTE, valid_T=valid_T)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return begins


def hugging_face() -> list[float]:
    """transformers' Trainer with its own auxiliary loss and its default experts backend."""
    import transformers

    _, datamodule, module = parts("model.experts_implementation=grouped_mm")
    model = module.model
    for router in module.tap.routers:
        router._forward_hooks.clear()
    # `parts` turned its auxiliary loss off; here it does the balancing.
    model.config.output_router_logits = True
    model.config.router_aux_loss_coef = model.router_aux_loss_coef = 0.008
    begins: list[float] = []

    class Clock(transformers.TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            begins.append(time.perf_counter())

    class Rows(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(datamodule.training)

        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            tokens = torch.from_numpy(datamodule.training.window(index)[0][:-1])
            return {"input_ids": tokens, "labels": tokens}

    arguments = transformers.TrainingArguments(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=datamodule.global_batch,
        max_steps=WARM_UP + STEPS,
        learning_rate=1e-3,
        weight_decay=0.1,
        logging_steps=10,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    transformers.Trainer(model=model, args=arguments, train_dataset=Rows(), callbacks=[Clock()]).train()
    return begins


ARMS: dict[str, Callable[[], list[float]]] = {f.__name__: f for f in (ours, bare, hugging_face, ours_tracked)}


def arm(name: str) -> None:
    begins = ARMS[name]()[WARM_UP:]
    steps = [b - a for a, b in pairwise(begins)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": statistics.mean(steps), "peak_mb": peak}))


def scope_rank(rank: int, ranks: int, port: int, queue: Any) -> None:
    """One rank of a run whose scope changes every SEGMENT steps; puts (micro, global seconds per step) pairs."""
    import os

    from lightning_modules.moe.callbacks.expert_frequency_sync import ExpertFrequencySync

    torch.set_num_threads(1)
    if ranks > 1:
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE=str(ranks))
        os.environ.update(LOCAL_RANK=str(rank), NODE_RANK="0")

    class Alternating(ExpertFrequencySync):
        forwards = 0

        def active(self, trainer: Any) -> bool:
            on = super().active(trainer) and (trainer.global_step // SEGMENT) % 2 == 1
            self.forwards += on
            return on

    sync = Alternating()
    segments = 2 * 16 + 1
    trainer = ["trainer=ddp_cpu"] if ranks > 1 else []
    sizes = ["data.global_batch=16", "data.micro_batch=2", "data.seq_len=64", f"trainer.devices={ranks}"]
    cfg, datamodule, module = parts(*trainer, *sizes, f"trainer.max_steps={SEGMENT * segments}", "balance=micro")
    begins = lightning_steps(cfg, datamodule, module, extra=(sync,))
    # The first segment of each scope warms up.
    times = [
        (begins[i + SEGMENT - 1] - begins[i + 1]) / (SEGMENT - 2) for i in range(0, len(begins) - SEGMENT, SEGMENT)
    ]
    pairs = [(times[i], times[i + 1]) for i in range(2, len(times) - 1, 2)]
    if rank == 0:
        queue.put({"pairs": pairs, "collectives": sync.collectives / max(1, sync.forwards) if ranks > 1 else 0.0})


def scope_cost(ranks: int) -> dict[str, Any]:
    import torch.multiprocessing as mp

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    context = mp.get_context("spawn")
    queue = context.Queue()
    workers = [context.Process(target=scope_rank, args=(r, ranks, port, queue)) for r in range(ranks)]
    for worker in workers:
        worker.start()
    found = queue.get(timeout=900)
    for worker in workers:
        worker.join()
    ratios = sorted(g / m for m, g in found["pairs"])
    return {"percent": 100 * (statistics.median(ratios) - 1), "ratios": ratios, "collectives": found["collectives"]}


def main() -> None:
    quiet = Quiet()
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in ARMS}
    for number in range(ROUNDS):
        # Every round starts with another arm, so that none is always the first on a cool machine.
        names = list(ARMS)[number % len(ARMS) :] + list(ARMS)[: number % len(ARMS)]
        for name in names:
            print(f"round {number + 1} of {ROUNDS}: {name}", file=sys.stderr)
            rounds[name].append(in_fresh_process("tests.bench.moe", name))

    def ratio(name: str, faster: str, slower: str, **told: str) -> dict[str, Any]:
        """The row of a median over rounds, with the least and the most of them."""
        pairs = zip(rounds[faster], rounds[slower], strict=True)
        found = sorted(s["seconds"] / f["seconds"] for f, s in pairs)
        return row(name, statistics.median(found), "x", why=f"rounds {found[0]:.3f} to {found[-1]:.3f}", **told)

    rows = [
        ratio("tokens/s of our step / bare loop", "ours", "bare", goal=">= 0.97", peer="bare PyTorch loop"),
        ratio(
            "tokens/s of our step / HF Trainer",
            "ours",
            "hugging_face",
            goal=">= 1.2",
            peer="transformers Trainer",
            missed="most of a step is products, attention and arithmetic that both have (rows of the embedded step)",
        ),
        ratio("tokens/s with MLflow / without", "ours_tracked", "ours", goal=">= 0.97", peer="our step, logger=none"),
    ]
    for ranks in (1, 2, 4):
        print(f"scope cost at {ranks} ranks", file=sys.stderr)
        cost = scope_cost(ranks)
        goal = "<= 2" if ranks == 2 else ""
        spread = (
            f"quartiles {100 * (quartile(cost['ratios'], 1) - 1):.1f} to {100 * (quartile(cost['ratios'], 3) - 1):.1f}"
        )
        peer = "micro-batch scope in the same run"
        rows.append(
            row(f"overhead of global scope, {ranks} ranks", cost["percent"], "%", goal=goal, peer=peer, why=spread)
        )
        if ranks > 1:
            name = f"collectives per micro-step, {ranks} ranks"
            rows.append(row(name, cost["collectives"], "all-reduces", goal="1", peer=peer))
    print("operators of a step", file=sys.stderr)
    rows += in_fresh_process("tests.bench.operators")["rows"]
    for name, found in rounds.items():
        rows.append(row(f"peak memory, {name}", statistics.median(f["peak_mb"] for f in found), "MiB"))
    quiet.insist()
    write("moe", rows, command="make bench")


def quartile(values: list[float], which: int) -> float:
    return statistics.quantiles(values, n=4)[which - 1]


if __name__ == "__main__":
    if len(sys.argv) > 1:
        arm(sys.argv[1])
    else:
        main()

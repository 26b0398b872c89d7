"""Whether the machine has what `trainer` names, told before anything is made."""

import os
from collections.abc import Iterator

from omegaconf import DictConfig

from lightning_modules.common import rank
from lightning_modules.common.choices import check_choice

GPU = ("gpu", "cuda", "mps")
ACCELERATORS = ("cpu", "auto", *GPU)
# What srun, torchrun, other launchers and people who start each node by hand tell a process. A batch script of SLURM's has
# a SLURM_PROCID too, without srun.
STARTED = (
    "SLURM_STEP_ID",
    "TORCHELASTIC_RUN_ID",
    "NODE_RANK",
    "GROUP_RANK",
    "RANK",
    "LSB_JOBID",
    "OMPI_COMM_WORLD_RANK",
)
# Names of SLURM's jobs in which somebody types: in these Lightning starts the processes itself.
TYPED = ("bash", "interactive")


def accelerator_of(cfg: DictConfig) -> str:
    """`cpu`, `cuda` or `mps`: what `trainer.accelerator` comes to on this machine."""
    wanted = cfg.trainer.accelerator
    if wanted not in ("auto", "gpu"):
        return wanted
    # Seconds that a run on the CPU can do without until it is sure to begin.
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if torch.backends.mps.is_available():
        return "mps"
    return "cpu" if wanted == "auto" else "cuda"


def available(accelerator: str) -> int:
    """Devices of a kind that torch can use here; processes on the CPU are not counted out."""
    if accelerator == "cpu":
        return 1
    import torch

    return torch.cuda.device_count() if accelerator == "cuda" else int(torch.backends.mps.is_available())


def devices(cfg: DictConfig) -> int:
    """Devices of a node. ValueError for what is no number of devices."""
    given = cfg.trainer.devices
    if given in ("auto", -1, "-1"):
        return max(1, available(accelerator_of(cfg)))
    if isinstance(given, int) or (isinstance(given, str) and given.isdecimal()):
        count = int(given)
    elif isinstance(given, str):
        parts = [part for part in given.split(",") if part.strip()]
        count = len(parts) if all(part.strip().isdecimal() for part in parts) else 0
    else:
        count = len(given)
    if count < 1:
        raise ValueError(
            f"trainer.devices is {given!r}; expected a number of at least 1, a list of device numbers, or auto."
        )
    return count


def processes(cfg: DictConfig) -> int:
    """Processes that the trainer starts, over all nodes; `auto` counts as what it will be."""
    return devices(cfg) * cfg.trainer.get("num_nodes", 1)


def submitted(cfg: DictConfig) -> bool:
    """Whether jobs run on other machines than this one; each asks again where it runs."""
    return "facet_slurm" in cfg.hydra.launcher.get("_target_", "")


def missing(cfg: DictConfig) -> bool:
    """Whether the trainer wants a GPU and this machine has none."""
    return cfg.trainer.accelerator in GPU and not available(accelerator_of(cfg))


def machine_has_the_devices(cfg: DictConfig) -> Iterator[str]:
    check_choice("trainer.accelerator", cfg.trainer.accelerator, ACCELERATORS)
    wanted = devices(cfg)
    # A plan of a machine that is not at hand is arithmetic.
    if submitted(cfg) or cfg.plan:
        return
    found = available(accelerator_of(cfg))
    if cfg.trainer.accelerator in GPU and not found:
        import torch

        yield (
            f"trainer.accelerator is {cfg.trainer.accelerator}, but torch {torch.__version__} finds no such device on this "
            "machine; expected one, or trainer=cpu."
        )
    elif cfg.trainer.accelerator in GPU and wanted > found:
        yield f"trainer.devices is {cfg.trainer.devices}, but this machine has {found}; the nearest is {found}."


def nodes_know_of_each_other(cfg: DictConfig) -> Iterator[str]:
    """Lightning waits half an hour, without a word, for processes that nobody has started."""
    several = cfg.trainer.get("num_nodes", 1) > 1 and not (cfg.plan or submitted(cfg))
    if several and not any(name in os.environ for name in STARTED):
        yield (
            f"trainer.num_nodes is {cfg.trainer.num_nodes}, and nothing told this process which node it is on; expected "
            "it started on each node by srun or torchrun, or with NODE_RANK and MASTER_ADDR set."
        )


def launched() -> tuple[str, int | None]:
    """(variable, processes) by which torchrun, srun or Lightning itself told this one that it has started them all.

    '' where this process is to start the others, None where their number was not told.
    """
    told, there = rank.told(), os.environ
    if "WORLD_SIZE" in there and (told or {"TORCHELASTIC_RUN_ID", "LOCAL_RANK"} & there.keys()):
        return "WORLD_SIZE", int(there["WORLD_SIZE"])
    if {"SLURM_STEP_ID", "SLURM_NTASKS"} <= there.keys() and (told or there.get("SLURM_JOB_NAME") not in TYPED):
        return "SLURM_NTASKS", int(there["SLURM_NTASKS"])
    return next((name for name in rank.TOLD if there.get(name)), "") if told else "", None


def started_as_many(cfg: DictConfig) -> Iterator[str]:
    """A process that was started as the second of several, and is to run alone, would hold no folder and keep no record."""
    if cfg.plan or submitted(cfg):
        return
    name, started = launched()
    wanted = processes(cfg)
    if not name or started == wanted or (cfg.study and started == 1) or (started is None and rank.told() < wanted):
        return
    nodes = cfg.trainer.get("num_nodes", 1)
    fit = f"trainer.devices={started // nodes}, or " if started and started % nodes == 0 else ""
    instead = (
        f"srun --ntasks={wanted}. Runs side by side are each an srun of their own, or a sweep with hydra/launcher=joblib"
        if name.startswith("SLURM")
        else f"{wanted} started. Where no launcher has, {', '.join(rank.TOLD[:2])} and WORLD_SIZE are unset"
    )
    yield (
        f"{name}={os.environ[name]}: {started or 'several'} processes were started for this run, and trainer.devices x "
        f"trainer.num_nodes is {wanted}; expected {fit}{instead}."
    )


def slurm_as_lightning_takes_it(cfg: DictConfig) -> Iterator[str]:
    """In a job of SLURM's that has tasks it goes by these, and starts no process itself."""
    there = os.environ
    lightnings = "SLURM_NTASKS" in there and "TORCHELASTIC_RUN_ID" not in there
    if cfg.plan or submitted(cfg) or not lightnings or there.get("SLURM_JOB_NAME") in TYPED:
        return
    tasks = f"SLURM_NTASKS={there['SLURM_NTASKS']}"
    if int(there["SLURM_NTASKS"]) > 1 and "SLURM_NTASKS_PER_NODE" not in there:
        yield f"{tasks} and no SLURM_NTASKS_PER_NODE, which Lightning goes by; expected --ntasks-per-node=N, not --ntasks."
    if "SLURM_STEP_ID" not in there and processes(cfg) > 1 and not cfg.study:
        yield f"{tasks}, and this process, which would wait for others, was not started by srun; expected srun before it."


def studies_keep_their_weights(cfg: DictConfig) -> Iterator[str]:
    given = str(cfg.trainer.precision)
    if cfg.study and given in ("bf16-true", "16-true"):
        yield (
            f"trainer.precision is {given}, which would cast the model that a study trains on and measures with; the "
            f"nearest is {given.replace('true', 'mixed')}."
        )


def precision_is_there(cfg: DictConfig) -> Iterator[str]:
    if submitted(cfg):
        return
    given = str(cfg.trainer.precision)
    kind = accelerator_of(cfg)
    if kind == "cpu" and given == "16-mixed":
        yield "trainer.precision is 16-mixed, which the CPU lacks; the nearest is bf16-mixed."
    if kind == "cuda" and given.startswith("bf16") and available(kind):
        import torch

        if torch.cuda.is_bf16_supported():
            return
        yield f"trainer.precision is {given}, which this GPU lacks; the nearest is {given.replace('bf16', '16')}."
    if kind == "mps" and given.startswith("64"):
        yield f"trainer.precision is {given}, which MPS lacks; the nearest is 32-true."

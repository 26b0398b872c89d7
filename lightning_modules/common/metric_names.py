"""Every metric name in one place: `split/name` or `system/name`, as the MLflow UI groups them by prefix."""

TRAIN_LOSS = "train/loss"
TRAIN_CE = "train/ce"
TRAIN_ACCURACY = "train/accuracy"
TRAIN_TOKENS_PER_SECOND = "train/tokens_per_s"

MOE_LBL = "moe/lbl"
MOE_LBL_SEQUENCE = "moe/lbl_sequence"
MOE_LBL_MICRO = "moe/lbl_micro"
MOE_LBL_GLOBAL = "moe/lbl_global"
MOE_Z_LOSS = "moe/z_loss"
MOE_BALANCE_BSZ = "moe/balance_bsz"
MOE_MAXVIO_MICRO = "moe/maxvio_micro"
MOE_MAXVIO_MICRO_RECENT = "moe/maxvio_micro_recent"
MOE_MAXVIO_GLOBAL = "moe/maxvio_global"
MOE_ROUTING_ENTROPY = "moe/routing_entropy"
MOE_DEAD_EXPERTS = "moe/dead_experts"
MOE_TOPK_SCORE_SUM = "moe/topk_score_sum"

# Curves of what is trained inside a run, and how much of all that it needs is there.
INNER, PROGRESS = "inner/", "progress/"
# What a clock or the machine goes into differs from run to run: nobody compares it bit by bit. Prefixes, and table columns.
CLOCKED = ("system/", "runtime/", TRAIN_TOKENS_PER_SECOND, "prompt/speed_up")
CLOCKED_COLUMNS = ("speed-up",)

# Words of metrics of which less is better; of any other more is.
LESS = {"ppl", "ce", "loss", "nll", "lbl", "maxvio", "hallucination", "seconds"}


def direction(metric: str) -> str:
    """`minimize` or `maximize`, as a search has it: `val/ppl` is the better the smaller."""
    return "minimize" if LESS & set(metric.rpartition("/")[2].split("_")) else "maximize"


def per_domain(name: str, domain: str) -> str:
    """`val/ppl`, `python` -> `val/ppl_python`."""
    return f"{name}_{domain}"


VAL_SVCO_LOSS = "val/loss"
VAL_PAIRED = "val/paired_accuracy"
VAL_PAIR_NLL = "val/pair_nll"
TEST_PAIRED = "test/paired_accuracy"


def svco_term(term: str) -> str:
    """`attend` -> `svco/loss_attend`."""
    return f"svco/loss_{term}"

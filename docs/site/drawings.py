"""The drawings of docs/: `python docs/site/drawings.py` writes docs/drawings/*.svg; a test compares them with this file."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path

from drawing import Drawing

FOLDER = Path(__file__).parents[1] / "drawings"
DOMAINS = (("law", "a"), ("poems", "b"), ("code", "c"), ("news", "d"))


def batches() -> Drawing:
    """Micro and global batch: over which sequences f is counted."""
    d = Drawing(
        width=480, height=330, title="Four micro-batches make up a global batch; f is counted in each, or over all."
    )
    d.text(240, 18, "One optimizer step: the global batch", bold=True)
    for number, (name, colour) in enumerate(DOMAINS):
        x = 12 + number * 116
        d.box(x, 40, 108, 84, colour="soft", dashed=True)
        for row in range(2):
            d.box(x + 8, 50 + row * 34, 92, 26, name, colour=colour, full=0.25)
        d.text(x + 54, 140, "micro-batch", size=12, colour="soft")
        d.line((x + 4, 158), (x + 104, 158), colour=colour)
        d.text(x + 54, 174, f"f of {name}", size=13)
    d.text(240, 202, "balance=micro: four f, each must be even,", size=13)
    d.text(240, 219, "so each kind of text is spread over all experts", size=13)
    d.line((16, 250), (464, 250), colour="ink")
    d.text(240, 267, "one f of all sequences", size=13)
    d.text(240, 293, "balance=global: only the sum must be even,", size=13)
    d.text(240, 310, "so an expert may take one kind of text", size=13)
    return d


def shares() -> Drawing:
    """f and P of four experts from the scores of six tokens, and their loss."""
    logits = [[2.0, 1.0, 0.1, 0.0], [1.9, 0.2, 1.1, 0.3], [1.5, 1.0, 0.4, 0.1]]
    logits += [[0.2, 1.6, 0.3, 0.9], [1.4, 0.1, 1.2, 0.2], [0.3, 0.4, 1.8, 0.2]]
    scores = [[math.exp(x) / sum(map(math.exp, row)) for x in row] for row in logits]
    chosen = [max(range(4), key=row.__getitem__) for row in scores]
    f = [chosen.count(i) / len(chosen) for i in range(4)]
    p = [sum(row[i] for row in scores) / len(scores) for i in range(4)]
    loss = 4 * sum(a * b for a, b in zip(f, p, strict=True))
    d = Drawing(
        width=480, height=400, title="Scores of six tokens for four experts; f counts choices, P averages scores."
    )
    for i in range(4):
        d.text(170 + i * 80, 16, f"expert {i + 1}", size=13, bold=True)
    for row, values in enumerate(scores):
        y = 34 + row * 32
        d.text(60, y + 12, f"token {row + 1}", size=13)
        for i, value in enumerate(values):
            best = chosen[row] == i
            d.box(136 + i * 80, y, 68, 25, f"{value:.2f}", colour="a" if best else "soft", full=value, size=13)
            if best:
                d.box(133 + i * 80, y - 3, 74, 31, colour="ink")
    for y, name, values, what in ((248, "f", f, "share of choices"), (312, "P", p, "mean score")):
        d.text(64, y, f"{name}: {what}", size=13)
        for i, value in enumerate(values):
            d.box(
                136 + i * 80,
                y - 14 + 26 * (1 - value),
                68,
                26 * value + 1,
                colour="b" if name == "f" else "a",
                full=0.6,
            )
            d.text(170 + i * 80, y + 24, f"{value:.2f}", size=13)
    d.text(240, 366, f"loss = 4 (f1 P1 + f2 P2 + f3 P3 + f4 P4) = {loss:.2f}", bold=True)
    d.text(240, 387, "1 where either is even, up to 4 where all goes to one expert", size=13, colour="soft")
    return d


def skill_neuron() -> Drawing:
    """One neuron's activation on examples of two classes, and the threshold."""
    negative = [0.10, 0.16, 0.22, 0.25, 0.31, 0.36, 0.40, 0.62]
    positive = [0.44, 0.58, 0.63, 0.70, 0.74, 0.79, 0.85, 0.92]
    # A round number on purpose: the mean of the training examples, which are others.
    threshold = 0.5
    right = sum(x < threshold for x in negative) + sum(x > threshold for x in positive)
    d = Drawing(
        width=480, height=270, title="Activations of one neuron: most negative examples below the mean, positive above."
    )
    d.text(240, 16, "What one neuron does at a prompt token", bold=True)
    for y, values, hollow, name in ((74, negative, True, "negative"), (118, positive, False, "positive")):
        d.text(92, y, name, size=13, anchor="end")
        for value in values:
            d.dot(104 + value * 350, y, colour="b" if hollow else "a", hollow=hollow, radius=6)
    d.line((104 + threshold * 350, 40), (104 + threshold * 350, 146), colour="ink", dashed=True)
    d.arrow((104, 152), (462, 152))
    d.text(104 + threshold * 350, 168, "mean activation on the training set", size=12, colour="soft")
    d.text(456, 186, "activation", size=12, anchor="end", colour="soft")
    total = len(negative) + len(positive)
    d.text(240, 210, f"{right} of {total} on their side: predictivity {right / total:.2f}", bold=True)
    d.text(240, 234, "Chance is not 0.5: the best of hundreds of neurons always looks good,", size=12, colour="soft")
    d.text(240, 252, "so the same is done with shuffled labels (the null).", size=12, colour="soft")
    return d


def transfer() -> Drawing:
    """A prompt of one task before the text of another."""
    d = Drawing(
        width=480, height=310, title="A prompt tuned on one task is put before the text of another; nothing is trained."
    )
    d.text(240, 16, "A prompt tuned on one task, tried on another", bold=True)
    for i in range(4):
        d.box(20 + i * 30, 46, 24, 34, colour="a", full=0.5)
    d.text(76, 96, "prompt of film reviews", size=12, colour="soft")
    text = d.box(170, 46, 290, 34, "a shop review", colour="c", full=0.2)
    d.text(315, 96, "text of the other task", size=12, colour="soft")
    model = d.box(120, 130, 240, 40, "frozen language model", full=0.12)
    d.arrow((76, 108), (180, 130), colour="a")
    d.arrow((text.x + 145, 108), (300, 130), colour="c")
    answer = d.box(105, 200, 270, 34, "answer in the words of the other task")
    d.arrow(model.bottom, answer.top)
    d.text(240, 262, "relative performance =", size=13)
    d.text(240, 282, "accuracy with this prompt / accuracy with the task's own", size=13, bold=True)
    return d


def contrasts() -> Drawing:
    """S-VCO's four terms: two pictures, two answers, and no picture."""
    d = Drawing(
        width=480,
        height=360,
        title="Each answer should be likelier with its own picture than without, and less with the other.",
    )
    d.text(240, 16, "How likely is each answer, under which picture?", bold=True)
    for x, name, colour in ((70, "picture w", "a"), (240, "no picture", "soft"), (410, "picture l", "b")):
        d.box(x - 52, 40, 104, 70, colour=colour, full=0.08, dashed=colour == "soft")
        d.text(x, 124, name, size=13)
    d.polygon([(70, 54), (92, 96), (48, 96)], colour="a")
    d.box(390, 56, 40, 40, colour="b", full=1)
    for y, words, colour, first in (
        (150, "answer w: “a triangle”", "a", True),
        (250, "answer l: “a square”", "b", False),
    ):
        d.text(240, y + 4, words, size=14, bold=True)
        own, other = (70, 410) if first else (410, 70)
        for x, size in ((own, 46), (240, 30), (other, 14)):
            d.box(x - 30, y + 72 - size, 60, size, colour=colour, full=0.5)
        left, right = ("attend >", "reject >") if first else ("< reject", "< attend")
        d.text(155, y + 58, left, size=13)
        d.text(325, y + 58, right, size=13)
    d.text(240, 342, "Bars: the log-probability wanted, w and l mirrored: the S of S-VCO", size=13, colour="soft")
    return d


def run() -> Drawing:
    """What a command goes through."""
    d = Drawing(width=480, height=590, title="From a command to result.json.")
    steps = ["python main.py experiment=parity/width", "Hydra composes conf/\nand the conf/ of FACET_PACKAGES"]
    steps += ["preflight: names, keys, types,\nranges, checks.py", "runs/EXPERIMENT/HASH-sSEED,\none writer"]
    steps += ["datamodule, module, callbacks;\nor the study", "fit, from last.ckpt where it is"]
    steps += ["test on the best checkpoint,\nfigures, export", "result.json, written last"]
    boxes = []
    for number, words in enumerate(steps):
        colour = "a" if number in (0, 7) else "soft"
        boxes.append(d.box(12, 10 + number * 73, 272, 46, words, colour=colour, full=0.12, size=13))
    for above, below in itertools.pairwise(boxes):
        d.arrow(above.bottom, below.top)
    beside = {
        1: ("-m: a sweep, one parent\nrun, each job a process", False),
        2: ("any error: all of them,\nexit code 2, nothing made", False),
        3: ("plan=true: a few timed\nsteps, nothing kept", False),
        5: ("MLflow, by a journal\non the disk", True),
        7: ("MLflow: metrics, figures,\nexport", True),
    }
    for number, (words, dashed) in beside.items():
        other = d.box(314, 10 + number * 73, 162, 46, words, size=12, dashed=dashed)
        d.arrow(boxes[number].right, other.left, dashed=dashed)
    return d


def batch() -> Drawing:
    """What an example goes through."""
    d = Drawing(width=480, height=500, title="From the order of examples to a step of the optimizer.")
    steps = ["datamodules/order.py: which examples,\nfrom seed, epoch, rank", "OrderedDataModule"]
    steps += ["data.py: a whole batch at once", "module.py: training_step", "losses.py: a scalar"]
    steps += ["AdamW with warm-up and cosine"]
    words = ["", "indices", "the batch", "tensors", "gradient"]
    boxes = [
        d.box(12, 10 + n * 83, 270, 46, s, full=0.12, colour="a" if n == 4 else "soft", size=13)
        for n, s in enumerate(steps)
    ]
    for above, below, told in zip(boxes, boxes[1:], words, strict=False):
        d.arrow(above.bottom, below.top, told)
    journal = d.box(318, boxes[3].y, 136, 46, "self.log: journal,\nMLflow, result.json", size=12)
    d.arrow(boxes[3].right, journal.left)
    point = d.box(318, boxes[5].y, 154, 60, "resume point: weights,\nmoments, random\nstates, step", size=12)
    d.arrow(boxes[5].right, (point.x, boxes[5].right[1]))
    d.arrow((464, point.y), boxes[1].right, via=(464, boxes[1].right[1]), dashed=True)
    d.text(300, boxes[1].right[1] - 26, "after a kill: the\nbatch that was due", size=12, anchor="start", colour="soft")
    return d


DRAWINGS: dict[str, Callable[[], Drawing]] = {
    draw.__name__: draw for draw in (batches, shares, skill_neuron, transfer, contrasts, run, batch)
}


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, draw in DRAWINGS.items():
        (FOLDER / f"{name}.svg").write_text(draw().svg())


if __name__ == "__main__":
    main()

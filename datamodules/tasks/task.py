"""A classification task: texts with class numbers, split, and the words that name its classes."""

from dataclasses import dataclass, field

from datamodules.intake import Intake
from lightning_modules.common.digests import digest, number_of

SPLITS = ("train", "val", "test")
# Between the two texts of a pair, where the backbone's own separator goes. Cleaned texts cannot hold it: it is a blank.
SEAM = "\x1e"
# A text and the number of its class.
Example = tuple[str, int]


@dataclass(frozen=True)
class Task:
    """`texts[split]` and `labels[split]` of equal length; `classes[c]` is the label word (or phrase) of class c.

    words: every label word of every class, where some class has several; `classes` are the first of each.
    skill: what a solver must be able to do; tasks of one skill are "similar". hint: words that name the skill, the text of
    a hard prompt. join: what stands between the two texts of a pair; None: `SEAM`. intake: what its reader left out, where
    it counted.
    """

    name: str
    skill: str
    classes: tuple[str, ...]
    texts: dict[str, list[str]]
    labels: dict[str, list[int]]
    hint: str = ""
    join: str | None = " "
    intake: Intake | None = field(default=None, compare=False)
    words: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        for split in SPLITS:
            missing = set(range(len(self.classes))) - set(self.labels[split])
            if missing:
                words = ", ".join(self.classes[c] for c in sorted(missing))
                raise ValueError(
                    f"task {self.name}: the {split} split has no example of class {words}; expected every one of its "
                    f"{len(self.classes)} classes. Bring more examples, or leave the class out."
                )

    @property
    def label_words(self) -> tuple[tuple[str, ...], ...]:
        """The words of each class, one or several."""
        return self.words or tuple((word,) for word in self.classes)

    def fingerprint(self) -> str:
        """16 hex digits over texts, labels and label words."""
        return digest([self.name, self.classes, self.texts, self.labels, *([self.words] if self.words else [])])


def balanced_split(
    examples: list[Example], *, sizes: dict[str, int], classes: int, name: str
) -> dict[str, list[Example]]:
    """Disjoint splits, the same in every process, with equally many of each class as far as they reach.

    Examples, each text once, go in the order of a hash of their text; a split of size n takes n // classes of each class.
    """
    order = sorted(examples, key=lambda example: number_of(f"{name}|{example[0]}"))
    by_class = [[example for example in order if example[1] == c] for c in range(classes)]
    # What there is of the rarest class is shared among the splits in proportion to their sizes, at least one to each.
    wanted, rarest = sum(size // classes for size in sizes.values()), min(map(len, by_class))
    share = min(1.0, rarest / max(1, wanted))
    counts = {split: max(1, int(size // classes * share)) for split, size in sizes.items()}
    # Small splits that were raised to one would leave the last split fewer of this class than of the others, or none.
    while sum(counts.values()) > rarest and max(counts.values()) > 1:
        counts[max(counts, key=counts.__getitem__)] -= 1
    found = {}
    start = 0
    for split, count in counts.items():
        chosen = {example for members in by_class for example in members[start : start + count]}
        found[split] = [example for example in order if example in chosen]
        start += count
    return found

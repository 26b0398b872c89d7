"""The page of a real training on a corpus whose answer is known: experts must take kinds of text, or none can."""

import random

from lightning_modules.look import page
from tests.runtime.cli import main

LETTERS = {"hard": "bdgkpt", "soft": "fhlmnrs", "vowels": "aeiouy"}
SIZES = ["data.vocab_size=300", "data.seq_len=32", "data.micro_batch=4", "data.global_batch=24", "data.eval_windows=24"]
SHORT = ["trainer.max_steps=40", "trainer.val_check_interval=40", "logger=none", "export=false"]


def trained(folder, letters, *overrides, seed=0):
    """What the page of a mixture shows that was trained on a domain for each of `letters`, words drawn from its own."""
    for domain, own in letters.items():
        # Of the letters alone: domains of the same letters are one distribution under several names.
        draw = random.Random(f"{seed} {own}")
        words = ["".join(draw.choices(own, k=4)) for _ in range(12)]
        draw = random.Random(f"{seed} {domain}")
        text = "\n\n".join(" ".join(draw.choices(words, k=60)) for _ in range(150))
        (folder / "text" / domain).mkdir(parents=True)
        (folder / "text" / domain / "text.txt").write_text(text)
    main(folder, "data=corpus_folder", f"data.path={folder}/text", *SIZES, *SHORT, *overrides)
    (path,) = folder.glob("runs/**/look.html")
    (found,) = page.read(path)["runs"]
    return found


def test_where_no_two_domains_share_a_word_the_first_row_names_an_expert_and_its_domain(tmp_path):
    found = trained(tmp_path, LETTERS, "balance=global")
    first = found["standing_out"][0]
    (domain,) = first["domains"]
    assert domain["share"] > domain["high"]
    assert first["words"]
    own = set(LETTERS[domain["domain"]])
    assert all(set(word.strip()) <= own for word in first["words"])
    assert {d["domain"] for row in found["standing_out"] for d in row["domains"]} == set(LETTERS)


def test_where_all_domains_are_one_text_under_three_names_no_expert_is_named(tmp_path):
    found = trained(tmp_path, dict.fromkeys(LETTERS, "bdgkptaei"), "balance=global")
    assert found["domains"] == sorted(LETTERS)
    assert found["standing_out"] == []
    assert found["verdict"].startswith("No expert takes any domain more often than chance")

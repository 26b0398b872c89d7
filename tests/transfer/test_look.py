"""What the page of prompt transfer says equals the matrices."""

from types import SimpleNamespace

import torch

from lightning_modules.transfer import look

TASKS, SKILLS = ["a", "b", "c"], {"a": "x", "b": "x", "c": "y"}


def drawn(**settings):
    relative = torch.tensor([[1.0, 0.8, 0.4, 0.5, float("nan")], [0.9, 1.0, 0.5, 0.5, 0.6], [0.3, 0.4, 1.0, 0.5, 0.6]])
    indicator = torch.tensor([[1.0, 0.7, 0.1], [0.7, 1.0, 0.2], [0.1, 0.2, 1.0]])
    words = {"a": [[(" great", 0.9), ("<b>bad", 0.1)]], "b": [], "c": []}
    matrices = {"accuracy": relative * 0.8, "relative": relative, "on": indicator}
    return look.matrix_page(tasks=TASKS, skills=SKILLS, matrices=matrices, words=words, name="one", **settings)


def test_cells_are_those_of_the_matrices():
    found = drawn()
    assert found["kinds"][0] == ["its own", "same type", "another type", "random prompt", "hard prompt"]
    assert found["matrices"]["relative"][0] == [1.0, 0.8, 0.4, 0.5, None]
    assert found["matrices"]["on"][2] == [0.1, 0.2, 1.0, None, None]
    # A hard prompt is words as a person writes them: averaged with noise it would hide the null.
    assert found["verdict"].endswith("same type 0.85, another type 0.40, random prompt 0.50.")
    # No mean is of a control: b is neither asked nor answers.
    without = drawn(controls={"b"})
    assert "same type" not in without["verdict"]
    assert without["verdict"].endswith("another type 0.35, random prompt 0.50.")
    assert without["matrices"] == found["matrices"]


def test_the_words_nearest_to_a_prompt_are_those_it_is_made_of():
    class Tokenizer:
        def decode(self, ids):
            return f"w{ids[0]}"

    class Toy:
        tokenizer = Tokenizer()
        model = torch.nn.Module()
        # Of two tables a prompt stands in the encoder's.
        model.config = SimpleNamespace(is_encoder_decoder=True)

    table, other = torch.nn.Embedding(20, 8), torch.nn.Embedding(20, 8)
    Toy.model.get_input_embeddings = lambda: other
    Toy.model.get_encoder = lambda: SimpleNamespace(get_input_embeddings=lambda: table)
    (first, second) = look.nearest_words(Toy(), table.weight[[7, 3]] * 2.5, most=2)
    assert first[0] == ("w7", 1.0)
    assert second[0] == ("w3", 1.0)


def test_a_page_that_was_made_loses_its_words_and_keeps_its_numbers():
    found = drawn()
    bare = look.without_text(found)
    assert "great" in str(found)
    assert "great" not in str(bare)
    assert bare["matrices"] == found["matrices"]

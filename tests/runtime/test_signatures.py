"""What is kept of a signature says of every value what the code itself says."""

import inspect
import json
import typing

import pytest
from hydra.utils import get_object
from pydantic import ValidationError

from lightning_modules.runtime import hints, schema, signatures, trust

TARGETS = sorted(
    {name for name in trust.names() if name.startswith(("lightning_modules.", "datamodules.", "pytorch_lightning."))}
    | {name for name in schema.PLAIN.values() if isinstance(name, str)}
)
VALUES = (
    None,
    True,
    0,
    1,
    -1,
    10**9,
    0.5,
    1.0,
    "x",
    "cpu",
    "",
    [],
    [1],
    ["a", "b"],
    [[1, 2]],
    {},
    {"a": 1},
    {"days": 2},
)


def verdict(hint, value):
    adapter = hints.adapter(hint)
    if adapter is None:
        return "not checked"
    try:
        adapter.validate_python(value, strict=True)
    except ValidationError as error:
        return [found["msg"] for found in error.errors()]
    return "right"


@pytest.mark.parametrize("target", TARGETS)
def test_every_value_is_judged_as_by_the_code_itself(target):
    function = get_object(target)
    kept = signatures.Signature.from_json(target, json.loads(json.dumps(signatures.read(function).to_json())))
    called = inspect.unwrap(function.__init__ if isinstance(function, type) else function)
    try:
        own = typing.get_type_hints(called, include_extras=True)
    except NameError:  # of what only a type checker imports
        own = signatures.annotations(function)
    for name, parameter in inspect.signature(function).parameters.items():
        # What is handed on has the names of the class below.
        for value in VALUES if name in kept.parameters or parameter.kind is not parameter.VAR_KEYWORD else ():
            assert verdict(kept.hint(name), value) == verdict(own.get(name, typing.Any), value), (name, value)


def test_most_types_are_known_without_the_code():
    found = [p.hint for target in TARGETS for p in signatures.read(get_object(target)).parameters.values()]
    assert sum(hint is not None for hint in found) > 0.9 * len(found) > 100


def test_it_is_kept_and_forgotten_with_the_sources(tmp_path, monkeypatch):
    monkeypatch.setattr(signatures, "KEPT_IN", tmp_path)
    signatures.forget()
    signatures.of("pytorch_lightning.Trainer.__init__")
    (first,) = tmp_path.iterdir()
    monkeypatch.setattr(signatures, "get_object", None)
    signatures.forget()
    assert signatures.of("pytorch_lightning.Trainer.__init__").name == "pytorch_lightning.Trainer"
    first.write_text("{")
    signatures.forget()
    with pytest.raises(TypeError):
        signatures.of("pytorch_lightning.Trainer.__init__")


def test_another_source_is_another_place(tmp_path, monkeypatch):
    places = []
    for text in ("a = 1", "a = 2"):
        (tmp_path / "lightning_modules").mkdir(exist_ok=True)
        (tmp_path / "lightning_modules" / "x.py").write_text(text)
        monkeypatch.setattr(signatures, "PROJECT", tmp_path)
        signatures.forget()
        places.append(signatures.place())
    assert places[0] != places[1]
    signatures.forget()


def test_what_goes_on_to_the_class_below_is_checked_too():
    found = signatures.read(get_object("lightning_modules.skill_neurons.studies.SkillNeurons"))
    assert verdict(found.hint("rank_within"), "layer") == "right"
    assert verdict(found.hint("rank_within"), "global") == ["Input should be 'layer' or 'model'"]
    assert not found.needs("prompts"), "the class above may give it itself"

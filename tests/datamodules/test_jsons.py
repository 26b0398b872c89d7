"""A list is read item by item, as strictly as it would be whole."""

import json

import pytest

from datamodules import jsons


@pytest.mark.parametrize("text", ["[]", " [ ]\n", '[{"a": 1},\n {"a": 2} , 3]'])
def test_items_of_a_list(text):
    assert [value for _, value in jsons.items(text)] == json.loads(text)


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ('[{"a": 1}\n{"a": 2}]', 2, "no comma stands between two items"),
        ("[1,,2]", 1, "Expecting value"),
        ("[1,\n]", 2, "Expecting value"),
        ("[,1]", 1, "Expecting value"),
        ("[1, 2", 1, "the list has no end"),
        ("[1,", 1, "the list has no end"),
        ("[1] 2", 1, "more stands behind the list"),
    ],
)
def test_a_list_that_is_none_ends_in_what_is_wrong(text, line, said):
    *values, (place, error) = jsons.items(text)
    assert (place, isinstance(error, jsons.JSONDecodeError)) == (line, True)
    assert str(error).startswith(said)
    assert not any(isinstance(value, Exception) for _, value in values)

"""Hashes that name what is kept: their values are part of every kept thing's name, so they never change."""

import hashlib

import pytest
import torch

from lightning_modules.common.digests import digest, digest_of_weights, number_of


def test_settings_hash_the_same_in_any_order():
    assert digest({"b": [1, 2.5], "a": "x"}) == digest({"a": "x", "b": [1, 2.5]}) == "0acd2d90f0cd6e85"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_weights_hash_by_name_and_bytes(dtype):
    weights = {"b": torch.arange(6).reshape(2, 3).to(dtype).T, "a": torch.tensor(3).to(dtype)}
    sums = hashlib.sha256()
    for name in ("a", "b"):
        sums.update(name.encode())
        sums.update(bytes(weights[name].contiguous().untyped_storage()))
    assert digest_of_weights(weights) == sums.hexdigest()[:16]
    assert digest_of_weights(weights | {"a": torch.tensor(4).to(dtype)}) != digest_of_weights(weights)


def test_a_text_draws_its_own_number():
    assert number_of("facet") == int(hashlib.sha256(b"facet").hexdigest()[:16], 16)
    assert number_of("facet", size=4) == number_of("facet") >> 32
    assert number_of("\ud800") != number_of("?")

"""Passwords and tokens: taken out where they come in, so that no file, log, tag or message can hold them.

The tracking address of a command has its password masked before Hydra sees it; the whole address stands in the environment
variable `ADDRESS` of this process and of those it starts, and `real` puts the two together where a connection is opened.
"""

import os
import re
from typing import Any
from urllib.parse import unquote

ADDRESS = "FACET_TRACKING_URI"
MASK = "***"
KEY = "logger.tracking_uri"
# `user:password@` of an address, but no `host:port/path@`; of http also a token in the user's place.
PASSWORD = re.compile(r"(\w://[^/\s:@'\"]*:)((?!\d+/)[^\s'\"]+)@")
# One that ends for `PASSWORD` before it ends.
UNREADABLE = re.compile(r"://[^/@]*:[^/@]*['\"\s][^/]*@")
LONE_TOKEN = re.compile(r"(\bhttps?://)([^/\s:@'\"]+)@")
QUERY = re.compile(r"([?&][\w.-]*(?:password|passwd|pwd|token|secret|signature|sig|key)=)([^&\s'\"]+)", re.IGNORECASE)
SECRET_NAME = re.compile(r"(^|_)(TOKEN|PASSWORD|PASSWD|SECRET|ACCESS_KEY|API_KEY)(_|$)")
# A shorter value of such a variable may be a word like any other.
SHORTEST = 6
# Keys as their givers write them: AWS, Hugging Face, GitHub.
GIVEN = re.compile(r"\b(AKIA[0-9A-Z]{16}|hf_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{20,})\b")


def without_passwords(text: str) -> str:
    """`text` with every password and token of an address masked."""
    text = PASSWORD.sub(rf"\1{MASK}@", text)
    text = LONE_TOKEN.sub(lambda m: m[0] if m[2] == MASK else f"{m[1]}{MASK}@", text)
    return QUERY.sub(rf"\1{MASK}", text)


def masked(text: str) -> str:
    """As `without_passwords`, and also what the environment holds as a secret, or what looks like a key of a cloud."""
    for value in secrets():
        text = text.replace(value, MASK)
    return GIVEN.sub(MASK, without_passwords(text))


def secrets() -> list[str]:
    """Secrets of the environment, longest first: one may begin with another."""
    named = {v for name, v in os.environ.items() if SECRET_NAME.search(name.upper()) and len(v) >= SHORTEST}
    # Of addresses too, whatever the variable is called: a library may tell a password alone, and decoded.
    found = {m[2] for v in os.environ.values() if "@" in v for m in [PASSWORD.search(v) or LONE_TOKEN.search(v)] if m}
    parts = {part for password in found for part in (password, unquote(password)) if len(part) >= SHORTEST}
    return sorted(named | parts, key=len, reverse=True)


def keep(address: str) -> str:
    """Remember the whole `address` for this process and those it starts; returns the one to show."""
    shown = without_passwords(address)
    if shown != address:
        os.environ[ADDRESS] = address
    return shown


def real(address: str | None) -> str | None:
    """The address to connect to. ValueError where its password is masked and nobody has told it."""
    if address is None or MASK not in address:
        return address
    told = os.environ.get(ADDRESS)
    if told and without_passwords(told) == address:
        return told
    raise ValueError(
        f"{address}: its password is kept nowhere; set the environment variable {ADDRESS} to the whole address, or give "
        f"{KEY}= with the password once more."
    )


def client(address: str | None) -> Any:
    """MLflow's client of a tracking server; its import takes seconds."""
    from mlflow import MlflowClient

    return MlflowClient(real(address))


def taken(arguments: list[str]) -> list[str]:
    """A command line with the password of its tracking address kept and masked.

    ValueError for one of another key: Hydra would write it to files.
    """
    shown = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key.lstrip("+") == KEY and UNREADABLE.search(value.strip("'\"")):
            raise ValueError(f"{KEY}: its password holds a quote or a blank; expected %27, %22 and %20 in their place.")
        hidden = without_passwords(argument)
        if hidden != argument and key.lstrip("+") != KEY:
            raise ValueError(
                f"{hidden}: holds a password, which would stand in the run's files; give it by the environment: "
                f"'{key}=${{oc.env:NAME}}'."
            )
        shown.append(f"{key}={_quoted(value)}" if hidden != argument else argument)
    return shown


def _quoted(value: str) -> str:
    """The masked value in the quotes that it came in."""
    inner = value.strip("'\"")
    return value.replace(inner, keep(inner))

"""Names on the Hugging Face hub where there is no network: its client would try for half a minute before it says so."""

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from omegaconf import DictConfig

from lightning_modules.common.files import is_path
from lightning_modules.common.say import say
from lightning_modules.runtime import schema

# Parts of a config that may name a model, a tokenizer or a data set, and the keys that do.
PARTS = ("model", "backbone", "source_backbone", "data")
KEYS = ("pretrained", "path", "name", "dataset", "tokenizer")
PROXIES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")


def ask_its_cache_where_it_is_away(cfg: DictConfig) -> None:
    """Of a config that may name something there, when its address is unknown to this machine and no proxy would know it."""
    if "HF_HUB_OFFLINE" in os.environ or any(map(os.environ.get, PROXIES)) or not any(_names(cfg)):
        return
    host = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co")).hostname or ""
    try:
        socket.getaddrinfo(host, 443)
    except OSError:
        say(f"{host} is not reached: what is named there is looked for in its cache alone.")
        os.environ["HF_HUB_OFFLINE"] = "1"
        # It reads the variable when it is imported.
        if constants := sys.modules.get("huggingface_hub.constants"):
            constants.HF_HUB_OFFLINE = True  # type: ignore[attr-defined]


def _names(cfg: DictConfig) -> Iterator[str]:
    for part in PARTS:
        for _, node in schema.nodes(cfg[part]) if isinstance(cfg.get(part), DictConfig) else ():
            for key in KEYS:
                value = node.get(key)
                if isinstance(value, str) and value and not is_path(value) and not Path(value).exists():
                    yield value

"""Without a network a name on the hub is looked for in its cache at once."""

import os
import socket

import pytest
from omegaconf import OmegaConf

from lightning_modules.runtime import hub


@pytest.fixture
def away(monkeypatch):
    """No network, as far as names are asked; the hosts that were."""
    asked = []

    def unknown(host, *_):
        asked.append(host)
        raise socket.gaierror(-2, "Name or service not known")

    for name in ("HF_HUB_OFFLINE", "HF_ENDPOINT", *hub.PROXIES):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(hub.socket, "getaddrinfo", unknown)
    monkeypatch.setitem(hub.sys.modules, "huggingface_hub.constants", type("constants", (), {"HF_HUB_OFFLINE": False}))
    return asked


NAMED = {"model": {"pretrained": "somebody/model"}}


def test_a_name_on_the_hub_is_looked_for_in_its_cache(away, capsys):
    hub.ask_its_cache_where_it_is_away(OmegaConf.create(NAMED))
    assert away == ["huggingface.co"]
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert hub.sys.modules["huggingface_hub.constants"].HF_HUB_OFFLINE
    assert "huggingface.co is not reached" in capsys.readouterr().err


@pytest.mark.parametrize("one", [{}, {"model": None}, {"model": {"pretrained": "/a/folder"}}, {"model": {"layers": 2}}])
def test_nothing_is_asked_for_what_needs_no_hub(away, one):
    hub.ask_its_cache_where_it_is_away(OmegaConf.create(one))
    assert away == []
    assert "HF_HUB_OFFLINE" not in os.environ


def test_a_proxy_or_a_network_is_left_alone(away, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    hub.ask_its_cache_where_it_is_away(OmegaConf.create(NAMED))
    assert away == []
    monkeypatch.delenv("HTTPS_PROXY")
    monkeypatch.setattr(hub.socket, "getaddrinfo", lambda *_: [])
    hub.ask_its_cache_where_it_is_away(OmegaConf.create(NAMED))
    assert "HF_HUB_OFFLINE" not in os.environ

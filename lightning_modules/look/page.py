"""Writes a page: one HTML file that opens offline, holds its data compressed, and asks for nothing outside itself.

Text of a data set reaches the page as data and is put there as text, never as HTML. Charts are Vega-Lite's, whose code
vl-convert brings along.
"""

import base64
import contextlib
import gzip
import hashlib
import html
import json
import math
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning_modules.common.files import write_atomically
from lightning_modules.common.say import say

LOOK = "look.html"
ASSETS = Path(__file__).parent / "assets"
# What the page may do: run what is in it. Vega compiles its expressions, hence unsafe-eval.
POLICY = "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; img-src data:"
TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{title}</title>
<style>
{style}
</style>
</head>
<body>
<main id="page"><p id="waiting">Unpacking…</p></main>
<div id="tip" role="status" aria-live="polite" hidden></div>
<script type="text/plain" id="charts">{charts}</script>
<script type="text/plain" id="data">{data}</script>
<script type="module">
{script}
</script>
</body>
</html>
"""


WANTING = "vl-convert-python is not installed, which draws pages"


def can_be_drawn(*, later: str = "main.py look=RUN makes it") -> bool:
    """Whether this machine has what draws pages; a line says so where one that brings its own packages has not.

    later: the command that makes the page where vl-convert is installed.
    """
    if there := find_spec("vl_convert") is not None:
        return there
    say(f"{LOOK} is not made: {WANTING}. {later} where it is.")
    return False


def insist() -> None:
    """ValueError with the remedy where this machine cannot draw a page that was asked for."""
    if find_spec("vl_convert") is None:
        raise ValueError(
            f"{LOOK} cannot be made here: {WANTING}; `python -m pip install vl-convert-python` installs it "
            "(requirements.lock names the version)."
        )


def write(path: Path, *, kind: str, title: str, data: dict[str, Any], cache: Path | None = None) -> Path:
    """Write `path`; `kind` names the script in assets/ that draws `data`, which holds what JSON can.

    cache: where the charts' code is kept between runs (`charts`).
    """
    script = "\n".join((ASSETS / f"{name}.js").read_text() for name in ("page", kind))
    text = TEMPLATE.format(
        policy=POLICY,
        title=html.escape(title, quote=False),
        style=(ASSETS / "page.css").read_text(),
        charts=charts(cache),
        data=_packed(_text_of({"kind": kind, "title": title, **data})),
        script=f"{script}\nstart({kind});",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text)
    return path


def _text_of(data: dict[str, Any]) -> str:
    """As JSON, a number that is none as null: a browser reads no NaN and no Infinity, and would show nothing at all."""
    compact = (",", ":")
    try:
        return json.dumps(data, separators=compact, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(data), separators=compact)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read(path: Path) -> dict[str, Any]:
    """The data of a page that `write` wrote."""
    text = path.read_text()
    packed = text.partition('<script type="text/plain" id="data">')[2].partition("</script>")[0]
    return json.loads(gzip.decompress(base64.b64decode(packed)))


@cache
def charts(kept_in: Path | None = None) -> str:
    """Vega-Embed with all that it needs, packed; about 400 kB of a page.

    vl-convert takes two to three seconds to put it together, so one file for each of its versions is kept in `kept_in`. A
    file that is damaged is made again, and a folder that takes none costs those seconds and nothing else.
    """
    import vl_convert

    asked = "window.vegaEmbed = vegaEmbed;"
    if kept_in is None:
        return _packed(vl_convert.javascript_bundle(asked))
    path = kept_in / "look" / f"charts-{version('vl-convert-python')}.txt"
    with contextlib.suppress(OSError, UnicodeDecodeError):
        digest, _, packed = path.read_text().partition("\n")
        if digest == _sum(packed):
            return packed
    packed = _packed(vl_convert.javascript_bundle(asked))
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, f"{_sum(packed)}\n{packed}")
    return packed


def _sum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _packed(text: str) -> str:
    # The same data give the same file: gzip would put the time in.
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()

"""What the page of S-VCO shows: every test pair with both pictures, and its six scores before and after training.

Source: Wu et al. 2025, section 3: a pair is answered right where each response is likelier under its own image.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image
from torch import Tensor

from lightning_modules.svco.losses import SCORES

KIND, TITLE = "pairs", "What the model says of each pair"
# Of a page: more pairs are sampled evenly. Longest side of a picture.
MOST, SIDE = 400, 160


def pairs_page(
    *, pairs: Sequence[Any], models: Mapping[str, Mapping[str, Tensor]], pixels: int, name: str, text: bool = True
) -> dict[str, Any]:
    """models: name -> scores [pairs] by name, the base first. text=False leaves out words and pictures.

    Six scores a pair; the four of the chosen picture and of none where pairs have one picture.
    """
    step = max(1, -(-len(pairs) // MOST))
    kept = range(0, len(pairs), step)
    known = [s for s in SCORES if s in next(iter(models.values()))]
    scores = {model: [[round(float(found[s][i]), 3) for s in known] for i in kept] for model, found in models.items()}
    return {
        "name": name,
        "scores": known,
        "models": [{"name": model, "values": values} for model, values in scores.items()],
        "right": {model: [right(dict(zip(known, row, strict=True))) for row in rows] for model, rows in scores.items()},
        "pairs": [shown(pairs[i], pixels) if text else {"category": pairs[i].category} for i in kept],
        "sampled": [len(kept), len(pairs)],
    }


def without_text(found: Mapping[str, Any]) -> dict[str, Any]:
    """A page's part of a run, words and pictures left out; a contrast's name stays."""
    return {**found, "pairs": [{"category": pair["category"]} for pair in found["pairs"]]}


def right(scores: Mapping[str, float]) -> bool:
    """Each response is likelier under its own image than the other one; of one image, the chosen response is."""
    return scores["ww"] > scores["wl"] and ("ll" not in scores or scores["ll"] > scores["lw"])


def shown(pair: Any, pixels: int) -> dict[str, Any]:
    return {
        "category": pair.category,
        "instruction": pair.instruction,
        "responses": [pair.chosen, pair.rejected],
        "images": [picture(image) for image in pair.images(pixels)],
    }


def picture(image: Image.Image) -> str:
    """As a data address, so that the page asks for no file."""
    small = image.convert("RGB")
    small.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    # Rendered scenes are a few flat colours; photographs are smaller as JPEG.
    flat = small.getcolors(256) is not None
    small.save(file, "PNG" if flat else "JPEG", optimize=True, **({} if flat else {"quality": 80}))
    return f"data:image/{'png' if flat else 'jpeg'};base64,{base64.b64encode(file.getvalue()).decode()}"

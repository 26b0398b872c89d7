"""Draws a scene with Pillow: the same bytes in every process, nothing but the scene decides a pixel."""

import math

import numpy as np
from PIL import Image, ImageDraw

from datamodules.scenes.world import Scene
from lightning_modules.common.bounds import Count

# Drawn this many times larger and scaled down, for edges that do not depend on where a shape begins.
OVERSAMPLING = 4
# The ground, and a strip at its bottom that sets places apart beyond their colour.
PLACES = {
    "meadow": ((96, 176, 88), (60, 130, 60)),
    "beach": ((232, 206, 140), (90, 160, 220)),
    "night": ((28, 30, 62), (60, 60, 80)),
    "room": ((168, 128, 104), (110, 76, 60)),
}
COLOURS = {"red": (222, 32, 36), "blue": (44, 92, 232), "white": (250, 250, 250), "purple": (142, 44, 166)}
STRIPE, OTHER = (20, 20, 20), (246, 196, 24)
RADIUS = {"small": 0.09, "large": 0.145}
ROWS = {1: (0.5,), 2: (0.3, 0.7), 3: (0.18, 0.5, 0.82)}


def render(scene: Scene, *, pixels: Count = 48) -> Image.Image:
    """An RGB image of `pixels` x `pixels`."""
    size = pixels * OVERSAMPLING
    draw = np.random.default_rng(scene.seed)
    tint = draw.integers(-10, 11, 3)
    jitter = draw.uniform(-0.03, 0.03, (5, 2))
    ground, strip = PLACES[scene.place]
    canvas = Image.new("RGB", (size, size), tuple(int(c) for c in np.clip(np.add(ground, tint), 0, 255)))
    ImageDraw.Draw(canvas).rectangle((0, int(0.94 * size), size, size), fill=strip)
    here = 0.27 if scene.side == "left" else 0.73
    for index, row in enumerate(ROWS[scene.count]):
        x, y = here + jitter[index, 0], row + jitter[index, 1]
        mask = _mask(scene.shape, x * size, y * size, RADIUS[scene.size] * size, size)
        canvas.paste(COLOURS[scene.colour], mask=mask)
        if scene.material == "striped":
            stripes = np.where(np.arange(size)[:, None] // (size // 24) % 2 == 1, 255, 0).astype(np.uint8)
            canvas.paste(STRIPE, mask=Image.fromarray(np.minimum(np.asarray(mask), stripes)))
    x, y = 1 - here + jitter[3, 0], 0.5 + jitter[3, 1]
    canvas.paste(OTHER, mask=_mask(scene.other, x * size, y * size, 0.11 * size, size))
    return canvas.resize((pixels, pixels), Image.Resampling.BOX)


def _mask(kind: str, x: float, y: float, r: float, size: int) -> Image.Image:
    """255 where the thing of radius r at (x, y) is."""
    mask = Image.new("L", (size, size), 0)
    pen = ImageDraw.Draw(mask)
    if kind == "circle":
        pen.ellipse((x - r, y - r, x + r, y + r), fill=255)
    elif kind == "square":
        pen.rectangle((x - 0.88 * r, y - 0.88 * r, x + 0.88 * r, y + 0.88 * r), fill=255)
    elif kind == "triangle":
        pen.polygon([(x, y - 1.1 * r), (x + 1.1 * r, y + r), (x - 1.1 * r, y + r)], fill=255)
    elif kind == "star":
        turns = [(1.25 * r if i % 2 == 0 else 0.5 * r, math.pi * (i / 5 - 0.5)) for i in range(10)]
        pen.polygon([(x + length * math.cos(a), y + length * math.sin(a)) for length, a in turns], fill=255)
    elif kind == "ring":
        pen.ellipse((x - r, y - r, x + r, y + r), outline=255, width=max(1, int(0.35 * r)))
    elif kind == "cross":
        pen.rectangle((x - r, y - 0.3 * r, x + r, y + 0.3 * r), fill=255)
        pen.rectangle((x - 0.3 * r, y - r, x + 0.3 * r, y + r), fill=255)
    elif kind == "bar":
        pen.rectangle((x - 0.35 * r, y - 1.6 * r, x + 0.35 * r, y + 1.6 * r), fill=255)
    else:  # heart
        for side in (-0.45, 0.45):
            pen.ellipse((x + (side - 0.55) * r, y - r, x + (side + 0.55) * r, y + 0.1 * r), fill=255)
        pen.polygon([(x - 0.95 * r, y - 0.25 * r), (x + 0.95 * r, y - 0.25 * r), (x, y + r)], fill=255)
    return mask

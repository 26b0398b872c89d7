"""A small drawing as SVG that follows the light or dark of where it is shown: boxes, arrows, dots and words."""

from html import escape
from typing import NamedTuple

COLOURS = {
    "ink": ("#1f2328", "#e6e8ee"),
    "soft": ("#59636e", "#a7b0be"),
    "paper": ("#ffffff", "#2b2f3a"),
    "a": ("#0072b2", "#56b4e9"),
    "b": ("#d55e00", "#f0a15c"),
    "c": ("#009e73", "#3ecfa5"),
    "d": ("#cc79a7", "#e3a5c7"),
}
LIGHT, DARK = (";".join(f"--{name}:{pair[i]}" for name, pair in COLOURS.items()) for i in (0, 1))
# The site's own switch wins over the system's: docs/site/extra.css sets the same names.
STYLE = f".drawing{{{LIGHT}}}@media (prefers-color-scheme:dark){{.drawing{{{DARK}}}}}"


class Box(NamedTuple):
    """Of a box that stands: where arrows begin and end."""

    x: float
    y: float
    width: float
    height: float

    @property
    def top(self) -> tuple[float, float]:
        return self.x + self.width / 2, self.y

    @property
    def bottom(self) -> tuple[float, float]:
        return self.x + self.width / 2, self.y + self.height

    @property
    def left(self) -> tuple[float, float]:
        return self.x, self.y + self.height / 2

    @property
    def right(self) -> tuple[float, float]:
        return self.x + self.width, self.y + self.height / 2


class Drawing:
    """Pixels of a phone's width; `title` is what a screen reader says."""

    def __init__(self, *, width: int, height: int, title: str) -> None:
        self.width, self.height, self.title = width, height, title
        self.parts: list[str] = []

    def text(
        self, x: float, y: float, words: str, *, size: int = 14, anchor: str = "middle", colour: str = "ink", bold=False
    ) -> None:
        """`words` may hold line ends; (x, y) is the middle of the first line."""
        weight = ' font-weight="600"' if bold else ""
        for number, line in enumerate(words.split("\n")):
            self.parts.append(
                f'<text x="{x:g}" y="{y + number * size * 1.25:g}" font-size="{size}" text-anchor="{anchor}" '
                f'dominant-baseline="central" fill="var(--{colour})"{weight}>{escape(line, quote=False)}</text>'
            )

    def box(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        words: str = "",
        *,
        colour: str = "soft",
        full: float = 0.0,
        dashed: bool = False,
        size: int = 14,
    ) -> Box:
        """full: how far it is filled with its colour, 0 to 1."""
        stroke = ' stroke-dasharray="5 4"' if dashed else ""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="5" fill="var(--{colour})" '
            f'fill-opacity="{full:g}" stroke="var(--{colour})" stroke-width="1.5"{stroke}/>'
        )
        lines = words.count("\n")
        self.text(x + width / 2, y + height / 2 - lines * size * 0.625, words, size=size)
        return Box(x, y, width, height)

    def arrow(
        self,
        start: tuple[float, float],
        end: tuple[float, float],
        words: str = "",
        *,
        colour: str = "soft",
        dashed: bool = False,
        via: tuple[float, float] | None = None,
        beside: tuple[float, float] = (8, 0),
    ) -> None:
        """Straight, or by the corner `via`; its words stand beside the middle."""
        stroke = ' stroke-dasharray="5 4"' if dashed else ""
        points = [start, *([via] if via else []), end]
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        self.parts.append(
            f'<polyline points="{path}" fill="none" stroke="var(--{colour})" stroke-width="1.5"{stroke} '
            f'marker-end="url(#head-{colour})"/>'
        )
        if words:
            (x1, y1), (x2, y2) = points[-2], points[-1]
            self.text(
                (x1 + x2) / 2 + beside[0], (y1 + y2) / 2 + beside[1], words, size=12, anchor="start", colour="soft"
            )

    def line(self, start: tuple[float, float], end: tuple[float, float], *, colour: str = "soft", dashed=False) -> None:
        stroke = ' stroke-dasharray="5 4"' if dashed else ""
        self.parts.append(
            f'<line x1="{start[0]:g}" y1="{start[1]:g}" x2="{end[0]:g}" y2="{end[1]:g}" stroke="var(--{colour})" '
            f'stroke-width="1.5"{stroke}/>'
        )

    def dot(self, x: float, y: float, *, colour: str = "ink", hollow: bool = False, radius: float = 5) -> None:
        fill = "none" if hollow else f"var(--{colour})"
        self.parts.append(
            f'<circle cx="{x:g}" cy="{y:g}" r="{radius:g}" fill="{fill}" stroke="var(--{colour})" stroke-width="1.8"/>'
        )

    def polygon(self, points: list[tuple[float, float]], *, colour: str) -> None:
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        self.parts.append(f'<polygon points="{path}" fill="var(--{colour})"/>')

    def svg(self) -> str:
        heads = "".join(
            f'<marker id="head-{name}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            f'orient="auto-start-reverse"><path d="M0 0 8 4 0 8z" fill="var(--{name})"/></marker>'
            for name in COLOURS
        )
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="drawing" viewBox="0 0 {self.width} {self.height}" '
            f'width="{self.width}" role="img" aria-label="{escape(self.title)}" font-family="system-ui, sans-serif">\n'
            f"<style>{STYLE}</style><defs>{heads}</defs>\n" + "\n".join(self.parts) + "\n</svg>\n"
        )

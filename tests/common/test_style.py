"""A picture has the size that its figure asks for, and is drawn once."""

from PIL import Image

from lightning_modules.common.style import RC, panels, save


def test_a_picture_has_its_inches_and_is_drawn_once(tmp_path, monkeypatch):
    figure, axes = panels(1, 2, size=(3, 2), title="two")
    axes[0, 0].set_ylabel("a label that takes room")
    drawn, before = [], axes[0, 0].get_position().x0
    draw = type(axes[0, 0]).draw
    monkeypatch.setattr(type(axes[0, 0]), "draw", lambda axis, *args: drawn.append(axis) or draw(axis, *args))
    save(figure, tmp_path / "picture.png", metadata={"Software": None})
    picture = Image.open(tmp_path / "picture.png")
    assert picture.size == (6 * RC["figure.dpi"], 2.5 * RC["figure.dpi"])
    assert "Software" not in picture.info
    assert drawn == [*axes.flat]
    assert axes[0, 0].get_position().x0 != before, "it was laid out"

"""Desks for studies whose numbers are tested."""

from lightning_modules.runtime.study import Desk


class Undrawn(Desk):
    """Figures are made and no PNG of them, nor a page unless it is asked for: drawing takes longer than a toy's study."""

    def __init__(self, *, folder, page=False):
        super().__init__(folder=folder, page=page)

    def figure(self, name, figure):
        assert figure.axes
        return self._place("figures", f"{name}.png")

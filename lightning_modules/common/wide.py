"""Sums that must not lose counts or small terms: in float64, whatever the device."""

from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """`x` in float64: on its device, or on the CPU where the device has none, as Apple's."""
    return x.double() if x.device.type in ("cpu", "cuda") else x.cpu().double()

"""Errors that are of the machine: what it has no room for, or breaks on, says nothing of a model."""

import torch

OF_THE_MACHINE = (torch.OutOfMemoryError, torch.AcceleratorError, MemoryError)

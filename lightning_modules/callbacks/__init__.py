"""Callbacks measure, synchronise or save; none of them holds a loss. One file each, imported by its own path."""

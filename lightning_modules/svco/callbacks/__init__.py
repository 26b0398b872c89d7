"""Callbacks of S-VCO, one file each."""

"""Callbacks of the MoE system, one file each; none of them holds a loss."""

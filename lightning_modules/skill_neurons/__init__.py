"""Skill neurons (Wang et al., EMNLP 2022): which they are, what they do, what is left without them."""

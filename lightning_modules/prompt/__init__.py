"""Frozen language models, what is tuned on them, prompts kept by content: the ground of skill neurons and transfer."""

"""Prompt transfer across tasks and models (Su et al., NAACL 2022)."""

"""One self-contained page on which a person sees what the parts of a network do."""

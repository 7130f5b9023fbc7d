"""Models, loops and engines whose laws are known: what the checks run on."""

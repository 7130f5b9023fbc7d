"""Backends: named operations and sessions over one framework each."""

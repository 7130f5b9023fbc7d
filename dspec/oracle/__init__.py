"""Scalar float64 and Fraction witness, written from the clauses; imports nothing of core."""

"""The array-API reference that every backend runs: pure functions with an explicit `xp`."""

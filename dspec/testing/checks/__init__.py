"""The checks: each tries one promise of the contract and returns a `Report`."""

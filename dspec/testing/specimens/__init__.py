"""Wrong samplers that the checks must fail, and right ones that they must let pass, as data."""

"""The one table of tolerances: eps of the dtype times a stated factor, or a figure with its reason.

A tolerance never depends on the machine or on CI. Raising one needs a decision record in docs/adr/.
"""

# Hidden states and logits against another implementation's float32 run: golden README, section top.
GOLDEN = 2e-5
# Gradients in float64 against a hand gradient: issue 2, "Must show".
GRADIENT_F64 = 1e-6
# Same formula in float64, other order of summation: 2^-52 times about 1e4 terms.
FLOAT64 = 1e-11
# Same formula in float32, other order of summation: 2^-23 times about 50 terms.
FLOAT32 = 6e-6

"""The one table of tolerances: eps of the dtype times a stated factor, or a figure with its reason.

A tolerance never depends on the machine or on CI. Raising one needs a decision record in docs/adr/.
"""

# Hidden states and logits against another implementation's float32 run: golden README, section top.
GOLDEN = 2e-5
# The same on MLX: issue 3, "Must show". Its products on a CPU sum in another order than torch's.
GOLDEN_MLX = 1e-4
# Gradients in float64 against a hand gradient: issue 2, "Must show".
GRADIENT_F64 = 1e-6
# Same formula in float64, other order of summation: 2^-52 times about 1e4 terms.
FLOAT64 = 1e-11
# Same formula in float32, other order of summation: 2^-23 times about 50 terms.
FLOAT32 = 6e-6
# Gold log-probability in float32 against float64 on float32 inputs: notes/performance.md, P1 (measured
# 6e-7 on given logits), plus the rounding of products of width 12 and logits up to 15 (2^-23 * 15 * 3).
FLOAT32_LOG_PROB = 8e-6
# Gradient of bfloat16 products, relative norm: 2^-9 for each of its two roundings, as measured 2-4e-3.
BF16_GRADIENT = 6e-3
# Divergence and gradients in float32 at a temperature of 0.25, which multiplies the rounding of the target's
# logits (FLOAT32_LOG_PROB) by four for the tokens it likes; measured up to 1.2e-5, on MLX.
DIVERGENCE_F32 = 2e-5
# BF16_GRADIENT of the overlap and the divergence, whose derivatives cancel more: twice that.
OVERLAP_BF16 = 2 * BF16_GRADIENT
# One network in float32 run with other shapes (cached, chunked, in blocks): 2^-23 times about 60 terms of
# size 4 in each of 4 layers, on the tiny models of tests/tiny_models.py; measured 2e-6 to 1e-5.
FORWARD_F32 = 1e-4
# One network in float32 by two frameworks, relative to the largest entry: 2^-23 times 200 terms; states of
# size 70 and logits of size 9 of the tiny models, measured up to 6e-6.
TWO_FRAMEWORKS = 2.4e-5
# The same with gated delta layers, which transformers sums in chunks by a triangular solve and mlx-lm token
# by token: 2^-23 times 1,700; measured up to 9e-5. (A session against a fresh pass on MLX: no difference.)
TWO_RECURRENCES = 2e-4
# Gradient of a whole drafter in float32 by two orders of summation, relative to its largest entry:
# 2^-23 times about 200 terms of one sign a weight.
TRAINING_GRADIENT = 3e-5
# Gradient of the gold operation in float32 on MLX without Metal, whose products add term by term: the
# last roundings of 4,001 terms of size up to 4; measured 1.0e-5 where torch's blocked product has 6.6e-6.
MLX_GOLD_GRADIENT = 2e-5
# Rotary frequencies in float32 by another order of operations than transformers': 2^-23 times 4 roundings,
# relative; measured 3.6e-7.
FREQUENCIES_F32 = 5e-7
# Cosine and sine of one float32 angle by two libraries, times a factor up to 2: 2^-23 times 8.
ROTATION_F32 = 1e-6
# AdamW by two programs over 20 steps of size up to 0.2 on weights of size 1: issue 3, owner's bound.
ADAMW = 1e-6
# Torch and MLX in float32 from the same weights: gradients at step 0 (absolute; the largest are 0.03 to
# 0.6) and loss curves over 20 steps (relative): issue 3, "Must show"; measured 2e-7 and 3e-7.
ROOMS_GRADIENT = 1e-5
ROOMS_CURVE = 1e-4
# Acceptance estimates and scores in float64 against another implementation's float32 on recorded logits:
# 2^-23 times about 80 roundings of a sum of up to 8 products.
ROUTING = 1e-5
# Log-probability of an emitted token in float32 against float64 on float32 logits, V = 151,936: the owner's
# bound; measured 2e-6 at most (benchmarks/results/log_probs.json). Numbers of size x round by 2^-23 x beside.
LOG_PROB = 1e-5

"""The numbers of a slot through which an objective's gradient reaches the drafter.

Example:
    >>> SIGNALS
    ('gold', 'overlap', 'divergence')
"""

# log q(gold); sum_v min(p(v), q(v)); KL(p || q): q the drafter's law, p the target's (OB-12).
SIGNALS = ("gold", "overlap", "divergence")

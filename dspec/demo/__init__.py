"""The demo: a tiny target and real text, four objectives side by side, and what they measure."""

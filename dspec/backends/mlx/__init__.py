"""The MLX room: targets of mlx-lm, drafters, training and decoding on Apple silicon."""

import logging


def _worth_saying(record: logging.LogRecord) -> bool:
    """Whether a record is not transformers' remark, at its import, that it works without torch here."""
    return "PyTorch was not found" not in str(record.msg)


# Before mlx-lm imports transformers: for this room that is how it should be.
logging.getLogger("transformers").addFilter(_worth_saying)

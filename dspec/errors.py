"""The errors dspec raises, each named after who must act.

Every message says what was got, what is needed, which argument or file, and the remedy;
`explain` puts those parts in one order so that messages read alike.
"""


class DspecError(Exception):
    """Base of every error that dspec raises on purpose."""


class ConfigError(DspecError, ValueError):
    """A setting is unknown, out of range, or does not fit another: the user changes it."""


class ShapeError(DspecError, ValueError):
    """An array has the wrong shape, dtype or ids: the caller changes it."""


class DataError(DspecError, ValueError):
    """A data file or record cannot be used: the user changes the file."""


class CheckpointError(DspecError, ValueError):
    """A checkpoint is missing, malformed, or does not fit the target."""


class NumericsError(DspecError, ArithmeticError):
    """A model returned NaN, +inf or an empty law: no token is emitted from it."""


class BackendUnavailable(DspecError, RuntimeError):
    """A backend, device or capability that was asked for is not here: the environment changes."""


class SpecViolation(DspecError, AssertionError):
    """dspec broke its own contract: a bug to report."""


def explain(where: str, got: object, needed: str, *, remedy: str = "", clause: str = "") -> str:
    """Return one message: place, what was got, what is needed, remedy, clause.

    Args:
        where: the argument, file or tensor at fault.
        got: what was found there.
        needed: what is allowed.
        remedy: what to do about it.
        clause: id of the spec clause, such as "RS-16".

    Returns:
        The message.

    Example:
        >>> explain("temperature", -1, "a number >= 0", remedy="use 0 for greedy", clause="RS-13")
        'temperature: got -1; needs a number >= 0. use 0 for greedy [RS-13]'
    """
    message = f"{where}: got {got}; needs {needed}."
    if remedy:
        message += f" {remedy}"
    return f"{message} [{clause}]" if clause else message

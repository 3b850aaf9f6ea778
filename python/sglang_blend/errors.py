"""Everything a user can get wrong, as a sentence: the value, what was allowed, what to do next.

Commands catch `BlendError`, print it without a traceback and leave with `exit_code`.
"""


class BlendError(Exception):
    """Base of the errors that speak to the user."""

    exit_code = 2


class InputError(BlendError):
    """The input file as a whole cannot be used (missing, empty, a directory, not text)."""


class ConfigError(BlendError):
    """A flag or a config value is not allowed, or two of them contradict each other."""


class ForkError(BlendError):
    """The installed SGLang is not the fork, or the fork cannot be built from the wheel at hand."""


class EngineError(BlendError):
    """The engine could not start, or died."""


class PlanError(BlendError):
    """The requests cannot be planned as they are (a negative length, an empty prompt, an unknown order)."""

"""Everything a user can get wrong, as a sentence: the value, what was allowed, what to do next.

Commands catch `BlendError`, print it without a traceback and leave with `exit_code`.
"""

EXIT_UNUSABLE = 2
# EX_TEMPFAIL of sysexits.h: nothing is wrong with the job; later, or on another machine, it may run.
EXIT_MAY_PASS = 75


class BlendError(Exception):
    """Base of the errors that speak to the user.

    Attributes:
        may_pass: the same command may succeed later, or on another machine, with nothing mended.
    """

    exit_code = EXIT_UNUSABLE

    def __init__(self, message: str, *, may_pass: bool = False) -> None:
        super().__init__(message)
        self.may_pass = may_pass
        if may_pass:
            self.exit_code = EXIT_MAY_PASS


class InputError(BlendError):
    """The input file as a whole cannot be used (missing, empty, a directory, not text)."""


class ConfigError(BlendError):
    """A flag or a config value is not allowed, or two of them contradict each other."""


class OutputError(BlendError):
    """A result cannot be written any more (a full disk, a storage that went away); what was written stays."""


class ForkError(BlendError):
    """The installed SGLang is not the fork, or the fork cannot be built from the wheel at hand."""


class EngineError(BlendError):
    """The engine could not start, or died."""


class EngineDied(EngineError):
    """The engine died after its start was begun; another one may be started.

    `from_outside`: it was killed, and nothing says that it was its own fault.
    """

    def __init__(self, message: str, *, from_outside: bool = False, may_pass: bool = False) -> None:
        super().__init__(message, may_pass=may_pass)
        self.from_outside = from_outside


class PlanError(BlendError):
    """The requests cannot be planned as they are (a negative length, an empty prompt, an unknown order)."""


def error_of_kind(kind: str, message: str) -> BlendError:
    """An error that another process has met; `kind` is its class's name."""
    kinds = {cls.__name__: cls for cls in (ConfigError, EngineError, ForkError)}
    return kinds.get(kind, EngineError)(message)

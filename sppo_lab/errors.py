"""The exceptions a user of the lab is meant to read."""


class LabError(ValueError):
    """A mistake the user can mend: its text says what was wrong, what was expected and what to do.

    The command line prints it as one message; Jupyter shows it without the stack of library frames.
    """

    def _render_traceback_(self) -> list[str]:
        """IPython calls this instead of printing a traceback."""
        return [f"{type(self).__name__}: {self}"]


def first_line(error: Exception) -> str:
    """What a library's error says first, or its class where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class NonFiniteError(LabError):
    """A number that must be finite is NaN or infinite: training cannot go on from here."""

"""The one error type that reaches a person.

Imported by the bridge helper on every guest start, so this module imports nothing.
"""


class Problem(Exception):
    """Something failed in a way a person should read about.

    code: kebab-case name of the kind of failure, stable for programs ("access-denied").
    message: what failed, on which device or file, and why. One line.
    hint: what to do about it, or "". One line.
    """

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(code, message, hint)
        self.code = code
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        text = f"{self.message}; {self.hint}" if self.hint else self.message
        return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def reason(error: OSError) -> str:
    """The kernel's own words for an errno, as strerror(3) has them."""
    return error.strerror or str(error)

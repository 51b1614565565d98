"""The one error that reaches a caller: a sentence that says what was wrong, what was kept, and what to do."""


class LabError(Exception):
    """A request that the lab refuses or cannot carry out; its text is written for the agent or user who reads it.

    Args:
        message: what was wrong and what to do about it, in full sentences. It must hold no secret.
        code: a stable snake_case word for programs and tests, such as `unknown_commit`.
    """

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code

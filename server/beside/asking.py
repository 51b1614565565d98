"""Where questions about a lab are answered: in threads of this process, or by another one. Who asks doesn't see which."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Concatenate, Generic, ParamSpec, TypeVar

import anyio
import anyio.to_thread

S = TypeVar("S")  # a class whose methods are the questions: each blocks for a moment, and may be asked twice
P = ParamSpec("P")
R = TypeVar("R")


class Helper(ABC, Generic[S]):
    """Answers the questions of a class."""

    @abstractmethod
    async def ask(self, question: Callable[Concatenate[S, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Return the answer of a method of the class.

        Raises:
            LabError: the method's own.
        """

    @abstractmethod
    def close(self) -> None:
        """Answer no more."""


class InThreads(Helper[S]):
    """Answers in threads of this process, where no other agent waits for the interpreter.

    Args:
        answering: whose methods are called.
    """

    def __init__(self, answering: S) -> None:
        self._answering = answering
        # A turn is never spent waiting for a thread: who may have one is limited before
        self._threads = anyio.CapacityLimiter(math.inf)

    async def ask(self, question: Callable[Concatenate[S, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Return the answer of a method of the class."""
        return await anyio.to_thread.run_sync(partial(question, self._answering, *args, **kwargs), limiter=self._threads)

    def close(self) -> None:
        """Do nothing: threads end by themselves."""

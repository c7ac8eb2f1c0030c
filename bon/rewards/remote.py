"""Coroutine functions as rewards (a judge behind an API): several calls at once, tried again, given up after a time."""

from __future__ import annotations

import asyncio
import atexit
import functools
import inspect
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from bon.checks import positive, whole

#: Errors of a program, which another try does not mend.
_LASTING = (TypeError, AttributeError, NameError, ImportError, NotImplementedError)
_loops: dict[int, asyncio.AbstractEventLoop] = {}
_starting = threading.Lock()


class RemoteError(Exception):
    """A call that failed for good.

    Attributes:
        call: its number among all.
        cause: what it raised last.
        tries: how often it was tried.
    """

    def __init__(self, call: int, cause: BaseException, tries: int) -> None:
        super().__init__(call, cause, tries)
        self.call, self.cause, self.tries = call, cause, tries


class RemoteReward:
    """A coroutine function as a reward, with bounds on how it is called.

    A coroutine function that is passed as a reward without this is called with the defaults. It runs in an event loop of its
    own, the same for all calls of a process: a client made once can serve them all, and notebooks, which run a loop of their
    own, need nothing else.

    >>> async def judge(prompts, responses): ...
    >>> reward = RemoteReward(judge, batch_size=1, concurrency=32, retries=4, timeout=20.0)

    Args:
        function: a coroutine function of what a reward may read (`score_candidates`).
        batch_size: responses in one call.
        concurrency: calls under way at the same time.
        retries: how often a call that raises, or takes too long, is tried again; errors of the program are not.
        timeout: seconds for one try.
        wait: seconds before the first further try; twice as many before each next one.

    Raises:
        TypeError: no coroutine function.
        ValueError: a bound that is not positive, or negative retries.
    """

    def __init__(
        self,
        function: Callable[..., Awaitable[Any]],
        *,
        batch_size: int = 8,
        concurrency: int = 8,
        retries: int = 2,
        timeout: float = 60.0,
        wait: float = 1.0,
    ) -> None:
        if not is_coroutine_function(function):
            raise TypeError("RemoteReward needs a coroutine function (async def)")
        functools.update_wrapper(self, function)  # its signature says what it reads
        self.function = function
        self.batch_size = whole("batch_size", batch_size, 1)
        self.concurrency = whole("concurrency", concurrency, 1)
        self.retries = whole("retries", retries, 0)
        self.timeout = positive("timeout", timeout)
        self.wait = positive("wait", wait)

    def __call__(self, *arguments: Any, **named: Any) -> Awaitable[Any]:
        """One call, as the function itself."""
        return self.function(*arguments, **named)

    def returned(self, calls: Sequence[tuple[list[Any], dict[str, Any]]]) -> list[Any]:
        """What the function returns for each of these arguments, in their order.

        Raises:
            RemoteError: a call failed for good; the others are given up.
        """
        return finished(self._all(calls))

    async def _all(self, calls: Sequence[tuple[list[Any], dict[str, Any]]]) -> list[Any]:
        gate = asyncio.Semaphore(self.concurrency)
        tasks = [asyncio.create_task(self._one(gate, number, *call)) for number, call in enumerate(calls)]
        try:
            return await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise

    async def _one(self, gate: asyncio.Semaphore, number: int, arguments: list[Any], named: dict[str, Any]) -> Any:
        async with gate:
            for tries in range(1, self.retries + 2):
                try:
                    async with asyncio.timeout(self.timeout) as clock:
                        return await self.function(*arguments, **named)
                except Exception as error:
                    late = isinstance(error, TimeoutError) and clock.expired()
                    cause = TimeoutError(f"no answer within {self.timeout:g} s") if late else error
                    if tries > self.retries or isinstance(error, _LASTING):
                        raise RemoteError(number, cause, tries) from error
                await asyncio.sleep(self.wait * 2 ** (tries - 1))
            raise AssertionError("unreachable")


def is_coroutine_function(function: Any) -> bool:
    """Whether calling it makes a coroutine: `async def`, a partial of one, or an object with such a `__call__`."""
    return isinstance(function, RemoteReward) or any(
        inspect.iscoroutinefunction(one)
        for one in (function, getattr(function, "__call__", None))  # noqa: B004
    )


def finished(awaitable: Awaitable[Any]) -> Any:
    """Wait for what is awaited in the loop of this process's rewards, also where the caller runs a loop of its own."""

    async def wrapped() -> Any:
        return await awaitable

    work: Coroutine[Any, Any, Any] = awaitable if inspect.iscoroutine(awaitable) else wrapped()
    future = asyncio.run_coroutine_threadsafe(work, _loop())
    try:
        return future.result()
    except BaseException:  # an interrupt gives up what is under way
        future.cancel()
        raise


def _loop() -> asyncio.AbstractEventLoop:
    with _starting:
        loop = _loops.get(os.getpid())  # a forked process has no thread to run the loop
        if loop is None:
            loop = _loops[os.getpid()] = asyncio.new_event_loop()
            thread = threading.Thread(target=_run, args=(loop,), name="bon rewards", daemon=True)
            thread.start()
            atexit.register(_stop, loop, thread, os.getpid())
        return loop


def _run(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
    finally:
        loop.close()


def _stop(loop: asyncio.AbstractEventLoop, thread: threading.Thread, process: int) -> None:
    if os.getpid() == process:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=5)

"""A pass over tensors that never move, recorded in a CUDA graph."""

from __future__ import annotations

import functools
import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

_Made = TypeVar("_Made")


def recorded(forward: Callable[[], _Made], device: torch.device) -> tuple[torch.cuda.CUDAGraph, _Made, _Made]:
    """Run a pass once, so that all is set up, then record it: the graph, what its replays write, and what the first run gave.

    Raises:
        RuntimeError: the pass waits for the GPU, which a graph cannot; it is found before anything is recorded.
        torch.OutOfMemoryError: the GPU is too small.
    """
    stream, current = _capture_stream(device), torch.cuda.current_stream(device)
    stream.wait_stream(current)
    try:
        with torch.cuda.stream(stream), _waiting_is_an_error():
            first = forward()
        stream.synchronize()
        torch.cuda.empty_cache()  # no memory can be handed back while recording
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(stream), _no_collection():
            graph.capture_begin(capture_error_mode="thread_local")
            try:
                result = forward()
            finally:
                graph.capture_end()
    finally:
        current.wait_stream(stream)  # after an error too: memory of this stream was in use there
    return graph, result, first


@functools.cache
def _capture_stream(device: torch.device) -> torch.cuda.Stream:
    """One stream for all captures: cuBLAS keeps a workspace for every stream it has seen."""
    return torch.cuda.Stream(device)


@contextmanager
def _waiting_is_an_error() -> Iterator[None]:
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # setting it warns that it is a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Garbage that holds GPU memory must not be collected while recording."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()

"""Freed memory stays with the process: what an allocator of the C library is told before large tensors come and go."""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt(3), glibc
LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Lets glibc reuse freed blocks of any size instead of giving them back; whether there was a glibc to ask.

    The activations of a step are freed and asked for again at the next. By default glibc returns large blocks to the
    system each time, and the pages of the next ones are cleared and mapped one by one when they are first touched. Peak
    memory is the same; between peaks the process keeps what it had.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or Windows
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, 2**30)) and bool(mallopt(M_TRIM_THRESHOLD, LARGEST))

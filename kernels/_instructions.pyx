# cython: language_level=3
"""Instructions that a call executes within some ranges of addresses, counted one by one."""

from libc.stdint cimport int64_t, uint64_t

cdef extern from "instructions.h" nogil:
    enum: LP_MAX_RANGES
    int lp_count_begin(const uint64_t *first, const uint64_t *last, int ranges)
    int64_t lp_count_end()


def count(call, ranges):
    """The instructions within `ranges`, pairs of addresses, that ``call()`` executes; None where they cannot be counted."""
    cdef uint64_t first[LP_MAX_RANGES]
    cdef uint64_t last[LP_MAX_RANGES]
    cdef int64_t counted
    cdef int k = 0
    if len(ranges) > LP_MAX_RANGES:
        raise ValueError(f"count: at most {LP_MAX_RANGES} ranges; got {len(ranges)}")
    for begin, end in ranges:
        first[k], last[k] = begin, end
        k += 1
    if not lp_count_begin(first, last, k):
        return None
    try:
        call()
    finally:
        counted = lp_count_end()
    return counted

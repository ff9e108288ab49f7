# cython: language_level=3, boundscheck=False, wraparound=False, freethreading_compatible=True
"""Loops that do nothing but move bytes: the roofs of `lowprec model`.

Threads are OpenMP's, those of the training loop: these wait for their next work by spinning for a while, and other threads would
have to compete with them. Callers have their number from ``lowprec.runtime.effective_n_threads``, which remembers, for the sake
of forked children, that there are threads.
"""

from cython.parallel cimport prange
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t

cdef extern from "roofs.h" nogil:
    uint64_t roofs_read(const void *buffer, size_t nbytes, int64_t passes)
    void roofs_update(void *buffer, size_t nbytes, int64_t passes)
    int roofs_ping_pong(int32_t *ball, int64_t rounds)


def sweep(uint8_t[::1] buffer, size_t nbytes, int64_t passes, *, bint write=False, int n_threads=1, bint shared=False):
    """Go over `nbytes` bytes `passes` times, front to back; read them, or add 1 to every 64-bit word.

    Parameters
    ----------
    buffer : array of uint8
        32-byte aligned.
    nbytes : int
        A multiple of 128.
    passes : int
    write : bool
        Write back what was read, changed.
    n_threads : int
    shared : bool
        All threads go over the first `nbytes` bytes; what they write there is then unspecified. Otherwise thread k goes over the
        k-th `nbytes` bytes.

    Raises
    ------
    ValueError
        If the buffer is not aligned, or too short.
    """
    cdef int k
    cdef size_t apart = 0 if shared else nbytes
    cdef uint8_t *start
    if nbytes < 128 or nbytes % 128 or n_threads < 1 or passes < 0:
        raise ValueError("sweep: nbytes must be a multiple of 128, n_threads at least 1 and passes at least 0; "
                         f"got {nbytes}, {n_threads} and {passes}")
    if <size_t>buffer.shape[0] < nbytes + (n_threads - 1) * apart:
        raise ValueError(f"sweep: {n_threads} threads of {nbytes} bytes do not fit into {buffer.shape[0]} bytes")
    start = &buffer[0]
    if <uint64_t>start % 32:
        raise ValueError("sweep: the buffer must be 32-byte aligned")
    for k in prange(n_threads, nogil=True, schedule="static", chunksize=1, num_threads=n_threads):
        if write:
            roofs_update(start + k * apart, nbytes, passes)
        else:
            roofs_read(start + k * apart, nbytes, passes)


def ping_pong(uint8_t[::1] line, int64_t rounds):
    """Two threads send a cache line to and fro, `rounds` times. Return whether there were two.

    Parameters
    ----------
    line : array of uint8
        64 bytes or more, 64-byte aligned; its first four bytes are written.
    rounds : int
    """
    cdef int32_t *ball
    cdef int played
    if line.shape[0] < 64 or <uint64_t>&line[0] % 64:
        raise ValueError("ping_pong: the line must be 64-byte aligned and 64 bytes long")
    ball = <int32_t *>&line[0]
    with nogil:
        played = roofs_ping_pong(ball, rounds)
    return played != 0

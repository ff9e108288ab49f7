# cython: boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True, freethreading_compatible=True
"""The compiled side of sparse arrays: from the column numbers of CSR to the stored index and back. No policy, and no arithmetic
on values. Arguments are validated by lowprec.sparse, here only what would make the loops run astray."""

from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t

ctypedef fused column_t:
    int32_t
    int64_t

ctypedef fused index_t:
    uint8_t
    uint16_t
    uint32_t

# A code as the bytes that it is, to be moved.
ctypedef fused code_t:
    uint8_t
    uint16_t
    uint32_t

RISING, UNSORTED, OUTSIDE = range(3)


cdef int _check_indptr(const int64_t[::1] indptr, int64_t entries) except -1:
    cdef int64_t i
    if indptr.shape[0] < 1 or indptr[0] != 0 or indptr[indptr.shape[0] - 1] != entries:
        raise ValueError(f"indptr: must begin with 0 and end with the number of entries, {entries}")
    for i in range(1, indptr.shape[0]):
        if indptr[i] < indptr[i - 1]:
            raise ValueError(f"indptr: must not fall; got {indptr[i]} after {indptr[i - 1]} in row {i - 1}")
    return 0


def scan(const int64_t[::1] indptr, const column_t[::1] columns, int64_t n):
    """Look through the column numbers of CSR, n columns.

    Returns
    -------
    state : int
        RISING: sorted in every row, without duplicates. UNSORTED: not so, but all within [0, n). OUTSIDE: not within.
    row : int
        The first row for which `state` is not RISING.
    extra : tuple of int
        Filler entries that differences of 8, 16 and 32 bits need (where RISING).
    """
    cdef int64_t i, j, before, at, unsorted = -1, outside = -1, extra8 = 0, extra16 = 0, extra32 = 0, gap
    _check_indptr(indptr, columns.shape[0])
    with nogil:
        for i in range(indptr.shape[0] - 1):
            before = -1
            for j in range(indptr[i], indptr[i + 1]):
                at = columns[j]
                if at < 0 or at >= n:
                    outside = i
                    break
                gap = at - before
                if gap <= 0:
                    if unsorted < 0:
                        unsorted = i
                elif gap > 255:
                    extra8 += (gap - 1) // 255
                    extra16 += (gap - 1) // 65535
                    extra32 += (gap - 1) // <int64_t>0xFFFFFFFF
                before = at
            if outside >= 0:
                break
    if outside >= 0:
        return OUTSIDE, outside, (0, 0, 0)
    if unsorted >= 0:
        return UNSORTED, unsorted, (0, 0, 0)
    return RISING, -1, (extra8, extra16, extra32)


def encode(const int64_t[::1] indptr, const column_t[::1] columns, const code_t[::1] codes, bint differences,
           int64_t[::1] stored, index_t[::1] index, code_t[::1] out):
    """Write the index, and the codes with the fillers among them.

    Parameters
    ----------
    indptr, columns, codes
        CSR, rising in every row; codes of one entry each, as unsigned numbers of their size.
    differences : bool
        Differences, bridged where they do not fit; otherwise the column numbers themselves.
    stored : writable, as long as indptr
        Becomes the indptr of the stored entries.
    index, out : writable
        Of exactly as many entries as `scan` says.
    """
    cdef int64_t i, j, k = 0, before, gap, room = index.shape[0]
    cdef int64_t top = (<int64_t>1 << (8 * sizeof(index_t))) - 1
    cdef bint fits = True
    _check_indptr(indptr, columns.shape[0])
    if codes.shape[0] != columns.shape[0] or out.shape[0] != room or stored.shape[0] != indptr.shape[0]:
        raise ValueError("encode: arrays of unequal lengths")
    with nogil:
        for i in range(indptr.shape[0] - 1):
            stored[i] = k
            before = -1
            for j in range(indptr[i], indptr[i + 1]):
                gap = columns[j]
                if differences:
                    gap = gap - before
                    before += gap
                    while gap > top and k < room:
                        index[k] = <index_t>top
                        out[k] = 0
                        k += 1
                        gap -= top
                if k >= room or gap < 0 or gap > top:
                    fits = False
                    break
                index[k] = <index_t>gap
                out[k] = codes[j]
                k += 1
            if not fits:
                break
        stored[indptr.shape[0] - 1] = k
    if not fits or k != room:
        raise ValueError(f"encode: the entries do not make an index of {room}")


def decode(const int64_t[::1] indptr, const index_t[::1] index, bint differences, column_t[::1] columns):
    """The column number of every stored entry, fillers included."""
    cdef int64_t i, j, at
    _check_indptr(indptr, index.shape[0])
    if columns.shape[0] != index.shape[0]:
        raise ValueError("decode: arrays of unequal lengths")
    with nogil:
        for i in range(indptr.shape[0] - 1):
            at = -1
            for j in range(indptr[i], indptr[i + 1]):
                at = at + index[j] if differences else <int64_t>index[j]
                columns[j] = <column_t>at


def pack4(const int64_t[::1] indptr, const uint8_t[::1] codes, uint8_t[::1] packed):
    """Codes of one byte each to nibbles; row i begins at byte (indptr[i] + i) // 2, an odd tail nibble is zero."""
    cdef int64_t i, j, k
    _check_indptr(indptr, codes.shape[0])
    if packed.shape[0] != (indptr[indptr.shape[0] - 1] + indptr.shape[0] - 1) // 2:
        raise ValueError("pack4: packed has the wrong length")
    with nogil:
        packed[:] = 0
        for i in range(indptr.shape[0] - 1):
            k = 2 * ((indptr[i] + i) // 2) - indptr[i]
            for j in range(indptr[i], indptr[i + 1]):
                packed[(k + j) // 2] |= (codes[j] & 15) << (4 * ((j - indptr[i]) & 1))


def unpack4(const int64_t[::1] indptr, const uint8_t[::1] packed, int8_t[::1] codes):
    """The opposite of `pack4`, for signed codes."""
    cdef int64_t i, j, k
    cdef int nibble
    _check_indptr(indptr, codes.shape[0])
    if packed.shape[0] < (indptr[indptr.shape[0] - 1] + indptr.shape[0] - 1) // 2:
        raise ValueError("unpack4: packed has the wrong length")
    with nogil:
        for i in range(indptr.shape[0] - 1):
            k = 2 * ((indptr[i] + i) // 2) - indptr[i]
            for j in range(indptr[i], indptr[i + 1]):
                nibble = (packed[(k + j) // 2] >> (4 * ((j - indptr[i]) & 1))) & 15
                codes[j] = <int8_t>((nibble ^ 8) - 8)

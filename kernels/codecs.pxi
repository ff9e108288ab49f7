# Part of kernels.pyx: the codecs, one callable a row.

cdef class CodecKernel(Kernel):
    """One function of a codec; has the attribute ``C`` where others have D and M."""
    cdef const lp_codec *codec

    cdef void *array(self, object a, str name, int typenum, str what, bint writable, int64_t *length) except NULL:
        cdef cnp.ndarray array
        if not cnp.PyArray_Check(a):
            _refuse(self.name, name, a, what, writable)
        array = a
        if (cnp.PyArray_NDIM(array) != 1 or cnp.PyArray_TYPE(array) != typenum
                or not cnp.PyArray_ISCARRAY_RO(array) or (writable and not cnp.PyArray_ISWRITEABLE(array))):
            _refuse(self.name, name, a, what, writable)
        length[0] = cnp.PyArray_DIM(array, 0)
        return cnp.PyArray_DATA(array)

    cdef float *numbers(self, object a, str name, bint writable, int64_t *length) except NULL:
        return <float *>self.array(a, name, cnp.NPY_FLOAT32, "float32 numbers", writable, length)

    cdef uint8_t *message(self, object a, str name, bint writable, int64_t n) except NULL:
        """The address of a message of n numbers, which is all of the array."""
        cdef int64_t length, expected = lp_coded_bytes(self.codec, n)
        cdef void *address = self.array(a, name, cnp.NPY_UINT8, "uint8", writable, &length)
        if length != expected:
            raise ValueError(f"{self.name}: {name} must have coded_bytes({self.C!r}, {n}) = {expected} bytes, got {length}")
        return <uint8_t *>address


cdef class EncodeKernel(CodecKernel):
    """``encode_C(v, out, n=None)``, ``encode_C_sr(v, out, n=None, seed=0, stream=0)``: the first n numbers of v, coded, to out.
    ``encode_feedback_C[_sr]`` leaves in v what is not sent. Returns True if all were finite and at most 2^100 in size."""
    cdef lp_encode_feedback_fn fn

    def __call__(self, v, out, *args, **kwargs):
        if self.rounding == "nearest":
            return self._apply_nearest(v, out, *args, **kwargs)
        return self._apply(v, out, *args, **kwargs)

    def _apply_nearest(self, v, out, n=None):
        return self._apply(v, out, n)

    def _apply(self, v, out, n=None, seed=0, stream=0):
        cdef int64_t length, count
        cdef lp_rng rng
        cdef float *pv = self.numbers(v, "v", self.op == "encode_feedback", &length)
        cdef uint8_t *payload
        cdef uint8_t *levels
        cdef int bad
        count = length
        if n is not None:
            count = PyNumber_Index(n)
            if count < 0 or count > length:
                raise ValueError(f"{self.name}: n must lie in [0, {length}], the numbers of v, got {count}")
        payload = self.message(out, "out", True, count)
        self.check_runnable()
        _seed(&rng, seed, stream)
        levels = payload + lp_payload_bytes(self.codec, count)
        with nogil:
            bad = self.fn(pv, count, payload, levels, rng.lane)
        return bad == 0


cdef class DecodeKernel(CodecKernel):
    """``decode_C(coded, out)``: as many numbers as out has; ``decode_add_C(coded, out)`` adds them to it."""
    cdef lp_decode_fn fn

    def __call__(self, coded, out):
        cdef int64_t n
        cdef float *numbers = self.numbers(out, "out", True, &n)
        cdef const uint8_t *payload = self.message(coded, "coded", False, n)
        self.check_runnable()
        with nogil:
            self.fn(payload, payload + lp_payload_bytes(self.codec, n), n, numbers)


cdef tuple _codec_rows(const lp_isa *isa):
    """All rows of the codecs of one instruction set."""
    cdef EncodeKernel encode
    cdef DecodeKernel decode
    cdef CodecKernel kernel
    cdef const lp_codec *codec
    cdef int k, random
    rows = []
    for k in range(LP_N_CODECS):
        codec = &isa.codecs[k]
        for op in ("encode", "encode_feedback"):
            for random in range(1 + (codec.encode[0] != codec.encode[1])):
                encode = EncodeKernel.__new__(EncodeKernel)
                # Without feedback the numbers are only read.
                encode.fn = (codec.encode_feedback[random] if op == "encode_feedback"
                             else <lp_encode_feedback_fn>codec.encode[random])
                _describe_codec(encode, isa, codec, op, _ROUNDINGS[LP_SR if random else LP_NEAREST])
                rows.append(encode)
        for op in ("decode", "decode_add"):
            decode = DecodeKernel.__new__(DecodeKernel)
            decode.fn = codec.decode_add if op == "decode_add" else codec.decode
            _describe_codec(decode, isa, codec, op, _ROUNDINGS[LP_NEAREST])
            rows.append(decode)
    return tuple(rows)


cdef int _describe_codec(CodecKernel kernel, const lp_isa *isa, const lp_codec *codec, str op, str rounding) except -1:
    kernel.codec = codec
    kernel.C = codec.name.decode()
    kernel.op = op
    kernel.rounding = rounding
    kernel.name = f"{op}_{kernel.C}" + ("" if rounding == "nearest" else f"_{rounding}")
    kernel.isa = isa.name.decode()
    kernel.runnable = isa.runnable() != 0
    return 0


def _codecs(isa=None):
    """The rows of the codecs of one instruction set (default: the active one), narrow first."""
    name = _active_isa() if isa is None else isa
    if name not in _codec_tables:
        raise ValueError(f"no ISA {name!r} is built in; choose from {', '.join(_codec_tables)}")
    return _codec_tables[name]


def coded_bytes(C, n):
    """Bytes of a message of n numbers in the codec C: "1", "2", "4", "8", "16", "16f" or "32f"."""
    cdef const lp_codec *codec = lp_find_codec(_active, C.encode()) if isinstance(C, str) else NULL
    cdef int64_t count = PyNumber_Index(n)
    if codec == NULL:
        names = ", ".join([lp_isas[0].codecs[k].name.decode() for k in range(LP_N_CODECS)])
        raise (ValueError if isinstance(C, str) else TypeError)(f"coded_bytes: C must be one of {names}, got {C!r}")
    if count < 0 or count >= <int64_t>1 << 48:
        raise ValueError(f"coded_bytes: n must lie in [0, 2^48), got {count}")
    return lp_coded_bytes(codec, count)

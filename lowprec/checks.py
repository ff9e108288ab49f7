"""Every validation of the package, and every error text.

A text says which argument, the rule, what was got, and what is possible. ``TypeError`` is for the wrong kind
of thing, ``ValueError`` for the wrong shape, range, or content. Functions named ``check_*`` and ``as_*``
return the value in the form that the caller goes on with; functions named after a fault (`wrong_type`,
`no_kernel`) return the exception, to be raised. Nothing here copies an array that is already right.
"""

from __future__ import annotations

import importlib
import math
import numbers
import operator
from collections.abc import Collection, Iterable
from typing import Any, NoReturn

import numpy as np

from . import kernels as _core

__all__ = [
    "as_2d_data",
    "as_array",
    "as_data",
    "bad_file",
    "check_bool",
    "check_callback",
    "check_choice",
    "check_finite_scalar",
    "check_int",
    "check_labels",
    "check_loss",
    "check_model_array",
    "check_n_threads",
    "check_native_real",
    "check_power_of_two",
    "check_same_length",
    "check_sample_weight",
    "check_scale",
    "check_seed",
    "check_step",
    "check_vector",
    "is_sparse",
    "need_extra",
    "no_kernel",
    "not_finite_row",
    "rows_too_large",
    "wrong_type",
    "wrong_value",
]

LOSSES = ("logistic", "hinge", "squared_hinge", "modified_huber", "squared", "huber", "epsilon_insensitive", "quantile")

#: Losses whose labels are any finite numbers.
RESIDUAL_LOSSES = ("squared", "huber", "epsilon_insensitive", "quantile")

#: More threads than any machine has CPUs. The OpenMP runtime ends the process where it cannot start as many as it is told to.
MAX_THREADS = 4096

#: Array types that data may have; others are refused rather than converted behind the caller's back.
DATA_DTYPES = "float16, float32, float64, bool, or an integer type"


# ---- texts -------------------------------------------------------------------------------------------------


def _one_of(options: Iterable[Any]) -> str:
    return "{" + ", ".join(str(option) for option in options) + "}"


def _short(value: Any, limit: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _kind(value: Any) -> str:
    """What a value is, in a few words: its type, and for an array its dtype and shape."""
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype}, shape {value.shape}"
    if value is None or isinstance(value, (bool, int, float, complex, str)):
        return f"{type(value).__name__} {_short(value)}" if value is not None else "None"
    return type(value).__name__


def wrong_type(name: str, expected: str, got: Any) -> TypeError:
    """The exception for an argument of the wrong kind."""
    return TypeError(f"{name}: expected {expected}; got {_kind(got)}")


def wrong_value(name: str, rule: str, got: Any) -> ValueError:
    """The exception for an argument of the right kind that breaks a rule; a string is shown as it is."""
    return ValueError(f"{name}: {rule}; got {got if isinstance(got, str) else _short(got)}")


def not_finite_row(name: str, row: int) -> ValueError:
    """The exception for a row of data found, by its product, to hold NaN or infinity, or to overflow."""
    return ValueError(
        f"{name}: every value must be finite; row {row} holds NaN or inf, or is so large that x.w overflows"
    )


def rows_too_large(name: str, largest: float) -> ValueError:
    """The exception for data that no step size suits."""
    return wrong_value(name, f"every row's sum of squares must be finite; scale {name} down", largest)


def bad_file(path: Any, problem: str, *, line: int | None = None, expected: str | None = None) -> ValueError:
    """The exception for a data file that cannot be understood."""
    where = f"{path}, line {line}" if line is not None else f"{path}"
    return ValueError(f"{where}: {problem}" + (f"; expected {expected}" if expected else ""))


def _rows(isa: str | None = None) -> tuple:
    return _core._table(isa or _core._active_isa())


def _ordered(tokens: Iterable[str]) -> list[str]:
    """Format tokens by width, narrow first."""
    return sorted(set(tokens), key=lambda t: (int(t.rstrip("f")), t))


def no_kernel(op: str, D: Any, M: Any, rounding: str | None = None) -> ValueError:
    """The exception for a kernel that the matrix does not have; the options are read from the table.

    Parameters
    ----------
    op : str
        ``"dot"``, ``"axpy"`` or ``"axpy_dot"``.
    D, M : Format or str
        Formats of data and model.
    rounding : str, optional
        Rounding that was asked for: ``"nearest"``, ``"sr"``, ``"srx"`` or ``"srb"``.
    """
    D, M = str(D), str(M)
    rows = [row for row in _rows() if row.op == op]
    if not rows:
        return ValueError(
            f"{op}: no such operation; choose one of {_one_of(sorted({r.op for r in _rows()}))}"
        )
    asked = f"{op}: no kernel for D={D}, M={M}" + (f", rounding {rounding}" if rounding else "")
    models = _ordered(row.M for row in rows if row.D == D)
    if not models:
        return ValueError(f"{asked}; choose D in {_one_of(_ordered(row.D for row in rows))}")
    if M not in models:
        return ValueError(f"{asked}; with D={D} choose M in {_one_of(models)}")
    roundings = [row.rounding for row in rows if (row.D, row.M) == (D, M)]
    return ValueError(f"{asked}; with D={D}, M={M} choose rounding in {_one_of(dict.fromkeys(roundings))}")


def need_extra(module: str, extra: str | None, what: str | None = None, *, install: str | None = None) -> Any:
    """Import and return an optional module, or say which extra to install.

    Parameters
    ----------
    module : str
        Name to import, dotted names too.
    extra : str or None
        The extra of lowprec that brings it.
    what : str, optional
        What needs it, to begin the sentence with.
    install : str, optional
        What to tell pip to install where no extra brings it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        # An installed module that fails on something of its own must not be reported as missing.
        missing = getattr(error, "name", None)
        if missing is not None and missing.split(".")[0] != module.split(".")[0]:
            raise
        package = {"sklearn": "scikit-learn"}.get(module.split(".")[0], module.split(".")[0])
        install = install or f"'lowprec[{extra}]'"
        raise ImportError(
            f"{what or 'this'} needs {package}, which is not installed: pip install {install}",
            name=missing,
        ) from error


# ---- scalars -----------------------------------------------------------------------------------------------


def check_choice(name: str, value: Any, options: Collection[str]) -> str:
    """`value`, if it is one of the strings in `options`."""
    if not isinstance(value, str):
        raise wrong_type(name, f"one of {_one_of(options)}", value)
    if value not in options:
        raise ValueError(f"{name}: choose one of {_one_of(options)}; got {value!r}")
    return str(value)


def check_loss(loss: Any, name: str = "loss") -> str:
    """`loss`, if it is the name of a loss."""
    return check_choice(name, loss, LOSSES)


def check_bool(name: str, value: Any) -> bool:
    """`value` as a bool; numbers and strings are refused, ``"False"`` would count as true."""
    if not isinstance(value, (bool, np.bool_)):
        raise wrong_type(name, "True or False", value)
    return bool(value)


def check_int(name: str, value: Any, *, minimum: int | None = None, maximum: int | None = None) -> int:
    """`value` as an int within bounds (both inclusive). A bool is not an integer here, nor is 3.0."""
    if isinstance(value, (bool, np.bool_)):
        raise wrong_type(name, "an integer", value)
    try:
        result = operator.index(value)
    except TypeError:
        raise wrong_type(name, "an integer", value) from None
    if minimum is not None and maximum is not None:
        rule = f"must lie in [{minimum}, {maximum}]"
    elif minimum is not None:
        rule = f"must be at least {minimum}"
    else:
        rule = f"must be at most {maximum}"
    if (minimum is not None and result < minimum) or (maximum is not None and result > maximum):
        raise wrong_value(name, rule, result)
    return result


def check_seed(seed: Any, name: str = "seed") -> int:
    """`seed` as an int in [0, 2**64)."""
    result = check_int(name, seed)
    if not 0 <= result < 2**64:
        raise wrong_value(name, "must be an integer in [0, 2**64)", result)
    return result


def check_n_threads(n_threads: Any, name: str = "n_threads") -> int | None:
    """`n_threads` as an int of at least 1, or None for "as many as this process may use"."""
    if n_threads is None:
        return None
    try:
        result = check_int(name, n_threads, minimum=1)
    except TypeError:
        raise wrong_type(
            name, "an integer of at least 1, or None for all this process may use", n_threads
        ) from None
    if result > MAX_THREADS:
        raise wrong_value(name, f"must be at most {MAX_THREADS}", result)
    return result


def check_finite_scalar(name: str, value: Any, *, positive: bool = False, nonnegative: bool = False) -> float:
    """`value` as a finite float, on request positive or not negative."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (numbers.Real, np.floating, np.integer)):
        raise wrong_type(name, "a real number", value)
    try:
        result = float(value)
    except OverflowError:  # an int beyond float64
        result = math.inf
    rule = "must be finite" + (" and positive" if positive else " and not negative" if nonnegative else "")
    if not math.isfinite(result) or (positive and result <= 0) or (nonnegative and result < 0):
        raise wrong_value(name, rule, value)
    return result


def check_step(value: Any, name: str = "step_size") -> float:
    """A step size: finite and positive."""
    return check_finite_scalar(name, value, positive=True)


def check_callback(callback: Any, name: str = "callback") -> Any:
    """A callable, or None."""
    if callback is not None and not callable(callback):
        raise wrong_type(name, "a callable or None", callback)
    return callback


# ---- arrays ------------------------------------------------------------------------------------------------


def is_sparse(value: Any) -> bool:
    """Whether `value` is one of SciPy's sparse arrays or matrices, or something that can be made CSR as they can."""
    return hasattr(value, "tocsr") or hasattr(value, "tocoo")


def as_array(value: Any, name: str) -> np.ndarray:
    """`value` as an ndarray without a copy where it is one; what NumPy would misread is refused."""
    if is_sparse(value):
        raise TypeError(f"{name}: sparse data are not possible here; pass a dense array, for example {name}.toarray()")
    if isinstance(value, np.ma.MaskedArray):
        # asarray would drop the mask and train on what lies under it
        raise TypeError(
            f"{name}: masked arrays are not supported; fill the masked values, for example {name}.filled(0)"
        )
    try:
        return np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name}: expected a rectangular array; {error}") from None


def check_native_real(a: np.ndarray, name: str) -> None:
    """Raise unless the type of `a` is one that data may have."""
    if a.dtype.kind not in "biuf" or a.dtype.itemsize > 8:
        raise TypeError(f"{name}: expected {DATA_DTYPES}; got an array of {a.dtype}, shape {a.shape}")
    if not a.dtype.isnative:
        raise TypeError(
            f"{name}: expected the byte order of this machine; got {a.dtype.str!r}; "
            f"convert with {name}.astype({name}.dtype.newbyteorder('='))"
        )


def as_data(a: Any, name: str = "a", ndims: tuple[int, ...] = (1, 2)) -> np.ndarray:
    """Data to quantize, as a non-empty real ndarray of an allowed number of dimensions.

    Values are not looked at: NaN and infinity are found by whoever reads them.

    Parameters
    ----------
    a : array-like
        float16, float32, float64, bool or integers; not sparse, not masked, of this machine's byte order.
    name : str
        What the argument is called.
    ndims : tuple of int
        Allowed numbers of dimensions.

    Returns
    -------
    ndarray
        `a` itself if it is one: never a copy of an array, of any layout.
    """
    result = as_array(a, name)
    check_native_real(result, name)
    if result.ndim not in ndims:
        words = " or ".join({1: "one", 2: "two"}.get(d, str(d)) for d in ndims)
        hint = ""
        if result.ndim == 1 and ndims == (2,):
            hint = f"; for one example use {name}.reshape(1, -1), for one feature {name}.reshape(-1, 1)"
        raise ValueError(f"{name}: must be {words}-dimensional; got shape {result.shape}{hint}")
    if result.size == 0:
        raise ValueError(f"{name}: must not be empty; got shape {result.shape}")
    return result


def as_2d_data(X: Any, name: str = "X") -> np.ndarray:
    """Examples in rows, features in columns: `as_data` with two dimensions."""
    return as_data(X, name, ndims=(2,))


def check_same_length(name: str, got: int, other: str, expected: int) -> None:
    """Raise unless `got` equals `expected`, the length of the argument called `other`."""
    if got != expected:
        raise ValueError(f"{name}: must have the length of {other}, {expected}; got {got}")


def check_vector(name: str, value: Any, size: int | None = None, *, of: str = "the features") -> np.ndarray:
    """A finite real vector as a new float64 array; `of` says what `size` counts."""
    a = as_data(value, name, ndims=(1,))
    if size is not None and a.shape[0] != size:
        raise ValueError(f"{name}: must have one value for each of {of}, {size}; got shape {a.shape}")
    result = np.array(a, dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(result))
    if bad.size:
        raise ValueError(f"{name}: every value must be finite; got {result[bad[0]]} at index {bad[0]}")
    return result


def check_scale(scale: Any, n_features: int | None = None, name: str = "scale") -> float | np.ndarray:
    """A scale: a positive finite number, or, where `n_features` is given, one for each feature.

    Its inverse must be finite too, since quantizing multiplies by it.

    Returns
    -------
    float or ndarray of float64
    """
    if isinstance(scale, (numbers.Real, np.floating, np.integer)) or np.ndim(scale) == 0:
        if isinstance(scale, np.ndarray):
            scale = scale[()]
        value = check_finite_scalar(name, scale, positive=True)
        if not math.isfinite(1.0 / value):
            raise wrong_value(name, "must not be so small that 1/scale overflows", value)
        return value
    if n_features is None:
        raise wrong_type(name, "one positive number", scale)
    result = check_vector(name, scale, n_features)
    with np.errstate(over="ignore", divide="ignore"):
        bad = np.flatnonzero(~((result > 0) & np.isfinite(1.0 / result)))
    if bad.size:
        raise ValueError(
            f"{name}: every value must be positive, and its inverse finite; "
            f"got {result[bad[0]]} at index {bad[0]}"
        )
    return result


def check_power_of_two(scale: Any, name: str) -> float:
    """A scale that is a power of two."""
    value = check_scale(scale, name=name)
    mantissa, exponent = math.frexp(value)
    if mantissa != 0.5:
        nearest = math.ldexp(0.5, exponent if mantissa < 0.75 else exponent + 1)
        raise wrong_value(name, f"must be a power of two, so that integers are enough; the nearest is {nearest!r}", scale)
    return value


def check_model_array(
    name: str, a: Any, dtype: Any = None, size: int | None = None, *, writable: bool = True
) -> np.ndarray:
    """An array that a kernel writes in place: contiguous, writable, of the right type and length."""
    if not isinstance(a, np.ndarray):
        raise wrong_type(name, "a NumPy array", a)
    if dtype is not None and a.dtype != np.dtype(dtype):
        raise wrong_type(name, f"an array of {np.dtype(dtype)}", a)
    if a.ndim != 1:
        raise ValueError(f"{name}: must be one-dimensional; got shape {a.shape}")
    if size is not None and a.shape[0] != size:
        raise ValueError(f"{name}: must have length {size}; got {a.shape[0]}")
    if not a.flags.c_contiguous:
        raise ValueError(f"{name}: must be contiguous, it is used in place; got strides {a.strides}")
    if writable and not a.flags.writeable:
        raise ValueError(f"{name}: must be writable, it is changed in place; got a read-only array")
    return a


def _bad_labels(y: np.ndarray, loss: str, name: str) -> NoReturn:
    found = np.unique(y)
    shown = ", ".join(str(v) for v in found[:6].tolist()) + (", ..." if found.size > 6 else "")
    count = "1 distinct value" if found.size == 1 else f"{found.size} distinct values"
    raise ValueError(f"{name}: {loss} loss takes labels {{-1, +1}} or {{0, 1}}; got {count}: {shown}")


def check_labels(y: Any, loss: str, n_rows: int | None = None, name: str = "y") -> np.ndarray:
    """Labels as a new float32 vector, as the training loop takes them.

    Parameters
    ----------
    y : array-like
        One label for each row, of any real dtype. For the logistic loss and those of margins {-1, +1} or {0, 1}
        (or bool); for the losses of residuals any finite numbers.
    loss : str
        Name of the loss.
    n_rows : int, optional
        How many labels there must be.
    name : str
        What the argument is called.

    Returns
    -------
    ndarray of float32
        -1 and +1, or the values.
    """
    check_loss(loss)
    a = as_array(y, name)
    if a.dtype.kind not in "biuf":
        raise TypeError(f"{name}: expected real numbers or bool; got an array of {a.dtype}, shape {a.shape}")
    if a.ndim != 1:
        hint = f"; use {name}.ravel()" if a.ndim == 2 and 1 in a.shape else ""
        raise ValueError(f"{name}: must be one-dimensional; got shape {a.shape}{hint}")
    if a.size == 0:
        raise ValueError(f"{name}: must not be empty; got shape {a.shape}")
    if n_rows is not None and a.shape[0] != n_rows:
        raise ValueError(f"{name}: must have one label for each of the {n_rows} rows; got {a.shape[0]}")
    if a.dtype.kind == "f":
        bad = np.flatnonzero(~np.isfinite(a))
        if bad.size:
            raise ValueError(f"{name}: every label must be finite; got {a[bad[0]]} at row {bad[0]}")
    if loss in RESIDUAL_LOSSES:
        with np.errstate(over="ignore"):
            result = a.astype(np.float32)
        bad = np.flatnonzero(~np.isfinite(result))
        if bad.size:
            raise ValueError(
                f"{name}: every label must be within the range of float32; got {a[bad[0]]} at row {bad[0]}"
            )
        return result
    if a.dtype.kind == "b":
        positive = a
    else:
        positive = a == 1
        zero = a == 0
        negative = np.zeros_like(positive) if a.dtype.kind == "u" else a == -1
        if not np.all(positive | zero | negative) or (zero.any() and negative.any()):
            _bad_labels(a, loss, name)
    return np.where(positive, np.float32(1), np.float32(-1))


def check_sample_weight(weight: Any, n_rows: int, name: str = "sample_weight") -> np.ndarray | None:
    """Weights of the rows as a new float32 vector, or None: finite, not negative, not all zero."""
    if weight is None:
        return None
    values = check_vector(name, weight, n_rows, of="the rows")
    with np.errstate(over="ignore"):
        result = values.astype(np.float32)
    bad = np.flatnonzero(~(np.isfinite(result) & (result >= 0)))
    if bad.size:
        raise ValueError(
            f"{name}: every weight must be at least 0 and within the range of float32; "
            f"got {values[bad[0]]} at index {bad[0]}"
        )
    if not result.any():
        zero = "zero in float32" if values.any() else "zero"
        raise ValueError(f"{name}: at least one weight must be positive; all {n_rows} are {zero}")
    return result

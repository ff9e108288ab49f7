"""Model files: what is loaded has the bits of what was saved; what is cut short or no model is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

import lowprec as lp

safetensors = pytest.importorskip("safetensors")
numpy_files = pytest.importorskip("safetensors.numpy")

TOKENS = ("4", "8", "16", "32f")


@pytest.fixture
def problem(rng):
    """200 rows of 7 features (an odd row of 4-bit codes), three classes."""
    X = rng.normal(size=(200, 7)).astype(np.float32)
    return X, (X @ rng.normal(size=(7, 3))).argmax(axis=1)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def trained(problem, M="8", several=False, **how):
    X, y = problem
    labels = np.stack([y == k for k in range(3)], axis=1) if several else y == 0
    return lp.train(X, labels, signature=f"D8M{M}", step_size=0.05, epochs=3, n_threads=1, fit_intercept=True, **how)


def same(a, b):
    """To the bit, zeros with their signs."""
    assert a.dtype == b.dtype
    assert a.tobytes() == b.tobytes()
    assert a.shape == b.shape


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("how", [{}, {"average": True}, {"solver": "svrg"}, {"data_scale": "feature"}], ids=str)
@pytest.mark.parametrize("M", TOKENS)
def test_every_bit_comes_back(M, how, several, problem, path):
    r = trained(problem, M, several, **how)
    lp.save_model(path, r, loss="logistic")
    found = lp.load_model(path)
    same(found.coef, r.coef)
    np.testing.assert_array_equal(found.intercept, r.intercept)
    assert type(found.intercept) is (np.ndarray if several else float)
    models = r.model if several else [r.model]
    assert len(found.models) == len(models)
    for mine, theirs in zip(found.models, models, strict=True):
        same(mine.codes, theirs.codes)
        same(np.asarray(mine.scale), np.asarray(theirs.scale))
        assert (mine.format, mine.shape) == (theirs.format, theirs.shape)
    assert (found.signature, found.loss, found.classes, found.feature_names) == (r.signature, "logistic", None, None)
    again = path.with_name("again")
    lp.save_model(again, found)
    assert again.read_bytes() == path.read_bytes()


def test_codes_are_stored_in_their_few_bits(problem, path):
    """Anything that reads safetensors finds them; the float64 weights are there only where the codes do not give them."""
    for M, dtype, width in (("4", np.uint8, 4), ("8", np.int8, 7), ("16", np.int16, 7), ("32f", np.float32, 7)):
        lp.save_model(path, trained(problem, M))
        tensors = numpy_files.load_file(path)
        assert set(tensors) == {"codes.0", "scale.0", "intercept"}
        assert (tensors["codes.0"].dtype, tensors["codes.0"].shape) == (dtype, (width,))
    lp.save_model(path, trained(problem, average=True))
    assert "coef" in numpy_files.load_file(path)


def test_predictions(problem, path):
    X, _ = problem
    one, several = trained(problem), trained(problem, several=True)
    lp.save_model(path, one, classes=["no", "yes"], feature_names=list("abcdefg"))
    found = lp.load_model(path)
    scores = X.astype(np.float64) @ one.coef + one.intercept
    np.testing.assert_array_equal(found.decision_function(X), scores)
    assert found.predict(X).tolist() == np.where(scores > 0, "yes", "no").tolist()
    assert found.feature_names == list("abcdefg")
    lp.save_model(path, several, classes=[3, 1, 2])
    found = lp.load_model(path)
    scores = X.astype(np.float64) @ several.coef.T + several.intercept
    np.testing.assert_array_equal(found.predict(X), np.array([3, 1, 2])[scores.argmax(axis=1)])
    lp.save_model(path, several)
    np.testing.assert_array_equal(lp.load_model(path).predict(X), scores)
    q = lp.quantize(X, "16")
    np.testing.assert_array_equal(found.decision_function(q), found.decision_function(lp.dequantize(q, np.float64)))


def test_predictions_on_sparse_data(problem, path):
    sparse = pytest.importorskip("scipy.sparse")
    X, _ = problem
    X = np.where(X > 0.5, np.round(X, 1), 0.0)
    lp.save_model(path, trained(problem))
    found = lp.load_model(path)
    expected = X.astype(np.float64) @ found.coef + found.intercept
    bound = 8 * 2.0**-52 * (np.abs(X) @ np.abs(found.coef) + abs(found.intercept))  # seven products, added in another order
    assert (np.abs(found.decision_function(sparse.csr_array(X.astype(np.float64))) - expected) <= bound).all()
    q = lp.quantize(sparse.csr_array(X), "8")
    np.testing.assert_array_equal(found.decision_function(q), found.decision_function(lp.dequantize(q, np.float64)))


@pytest.mark.parametrize("labels", [[5, 9, 7], ["x", "y", "a word"], [0.0, -1.0, 2.0], [1, 0, 1]], ids=str)
@pytest.mark.parametrize("objects", [False, True])
def test_an_estimator(labels, objects, problem, path):
    pytest.importorskip("sklearn")
    from lowprec.linear_model import LowPrecisionSGDClassifier

    X, y = problem
    y = np.array(labels, object if objects and isinstance(labels[0], str) else None)[y]
    model = LowPrecisionSGDClassifier("D8M8", random_state=0).fit(X, y)
    lp.save_model(path, model)
    found = lp.load_model(path)
    same(found.coef, model.coef_)
    same(np.asarray(found.intercept), model.intercept_)
    assert (str(found.signature), found.loss) == ("D8M8", "hinge")
    assert found.classes.dtype == model.classes_.dtype
    assert found.predict(X).tolist() == model.predict(X).tolist()
    # with the trained arrays at hand these are saved
    model.models_ = [lp.quantize(row, "8", scale=0.5, rounding="nearest") for row in model.coef_]
    lp.save_model(path, model)
    found = lp.load_model(path)
    assert [q.codes.tolist() for q in found.models] == [q.codes.tolist() for q in model.models_]
    same(found.coef, model.coef_)


def test_any_cut_is_one_sentence(problem, path):
    lp.save_model(path, trained(problem))
    content = path.read_bytes()
    for size in range(len(content)):
        path.write_bytes(content[:size])
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is compared below
            lp.load_model(path)
        assert str(caught.value).startswith(f"{path}: is cut short, or no model")
        assert "\n" not in str(caught.value)


def test_what_is_no_model_is_refused(problem, path, rng):
    sentence = r"model.safetensors: is cut short, or no model .*; expected a file that save_model wrote"
    for content in (rng.bytes(1000), b"{}", b"PK\x03\x04" * 9, b"\x80\x04\x95"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=sentence):
            lp.load_model(path)
    numpy_files.save_file({"a": np.zeros(3)}, path)
    with pytest.raises(ValueError, match="is safetensors, but holds no model of lowprec"):
        lp.load_model(path)
    with pytest.raises(FileNotFoundError, match="absent: no such file"):
        lp.load_model(path.with_name("absent"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "is a model of version 2; expected version 1; update lowprec"),
        ({"signature": "D8Q8"}, "its parts do not fit each other"),
        ({"models": [{"format": "16", "shape": [7], "one_scale": True}]}, "its parts do not fit each other"),
        ({"models": [{"format": "8", "shape": [9], "one_scale": True}]}, "its parts do not fit each other"),
        ({"classes": 3}, "its parts do not fit each other"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(change, message, problem, path):
    lp.save_model(path, trained(problem))
    with safetensors.safe_open(path, "numpy") as f:
        header = json.loads(f.metadata()["lowprec"])
    numpy_files.save_file(numpy_files.load_file(path), path, {"lowprec": json.dumps(header | change)})
    with pytest.raises(ValueError, match=message):
        lp.load_model(path)


@pytest.mark.parametrize(
    ("arguments", "exception", "message"),
    [
        ({"classes": [1, 2, 3]}, ValueError, "classes: must be 2 numbers or strings; got [1, 2, 3]"),
        ({"feature_names": ["a"]}, ValueError, "feature_names: must have the length of the weights, 7; got 1"),
        ({"loss": "cubic"}, ValueError, "loss: choose one of {logistic"),
        ({"model": 3}, TypeError, "model: expected a TrainResult, a LinearModel or a fitted estimator"),
    ],
)
def test_what_cannot_be_saved(arguments, exception, message, problem, path):
    path.write_bytes(b"old")
    with pytest.raises(exception) as caught:
        lp.save_model(path, **{"model": trained(problem)} | arguments)
    assert message in str(caught.value)
    assert path.read_bytes() == b"old"


def test_another_width_is_refused(problem, path):
    lp.save_model(path, trained(problem))
    with pytest.raises(ValueError, match=r"X: must have 7 columns, one for each weight; got shape \(2, 6\)"):
        lp.load_model(path).decision_function(np.zeros((2, 6)))

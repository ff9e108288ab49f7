"""lowprec.signature and lowprec.prior_work: the DMGC grammar."""

import itertools
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowprec import kernels
from lowprec.formats import Format
from lowprec.prior_work import TABLE, classify
from lowprec.signature import Communication, Index, Signature

bits = st.integers(1, 999_999)
numbers = st.builds(Format, bits, st.booleans())
indexes = st.builds(lambda b, p: Index(b, possibly=p), bits, st.booleans())
communications = st.builds(
    lambda b, f, s: Communication(b, f, synchronous=s), bits, st.booleans(), st.booleans()
)
terms = st.fixed_dictionaries(
    {
        "dataset": st.none() | numbers,
        "index": st.none() | indexes,
        "model": st.none() | numbers,
        "gradient": st.none() | numbers,
        "communication": st.none() | communications,
    }
).filter(lambda t: any(v is not None for v in t.values()))


@given(terms)
def test_round_trip(terms):
    s = Signature.from_formats(**terms)
    again = Signature(str(s))
    assert again == s
    assert hash(again) == hash(s)
    assert str(again) == str(s)
    for name, term in terms.items():
        assert getattr(again, name) == term
        assert type(getattr(again, name)) is type(term)
    assert Signature(s) == s
    assert pickle.loads(pickle.dumps(s)) == s
    assert eval(repr(s)) == s


@given(terms, st.data())
def test_spaces_between_terms_do_not_count(terms, data):
    s = Signature.from_formats(**terms)
    spaced = ""
    for c in str(s):
        starts_a_term = c in "DMGC[" or (c == "i" and not spaced.endswith("["))
        spaced += " " * data.draw(st.integers(0, 2)) * starts_a_term + c
    assert Signature(spaced) == s


@given(terms)
def test_every_term_is_explained(terms):
    s = Signature.from_formats(**terms)
    headline, *lines = s.explain().split("\n  ")
    assert headline.startswith(f"{s}: ")
    assert len(lines) == 4 + (s.index is not None)
    written = [line.split(":")[0] for line in lines if " absent" not in line.split(":")[0]]
    assert "".join(written) == str(s)
    assert ("sparse" in headline) == (s.index is not None)
    assert s.is_sparse == ("sparse" in headline and "dense" not in headline)


@given(st.lists(terms, min_size=2, max_size=5))
def test_order_is_total_and_agrees_with_equality(many):
    signatures = [Signature.from_formats(**t) for t in many]
    ordered = sorted(signatures)
    for a, b in itertools.pairwise(ordered):
        assert a <= b
        assert (a == b) == (str(a) == str(b)) == (not a < b)


def test_order_is_by_width_and_not_by_letters():
    texts = ["D4M4", "D8M8", "D8M16", "D8", "D16M8", "M8", "G1C1s"]
    assert [str(s) for s in sorted(map(Signature, reversed(texts)))] == texts


@given(st.text(alphabet="DiMGC[]fs0189 ", max_size=12))
def test_any_text_is_read_or_refused_with_its_position(text):
    message = ""
    try:
        s = Signature(text)
    except ValueError as error:
        message = str(error)
    if message:
        assert message.startswith(f"signature {text!r}: at position ")
        assert " expected " in message
        assert "; got " in message
    else:
        assert str(s) == text.replace(" ", "")


def test_the_terms():
    s = Signature("D32fi32M16G10C1s")
    assert (str(s.dataset), str(s.index), str(s.model)) == ("32f", "32", "16")
    assert (str(s.gradient), str(s.communication)) == ("10", "1")
    assert s.dataset.is_float
    assert not s.model.is_float
    assert s.is_sparse
    assert not s.index.possibly
    assert s.communication.synchronous
    s = Signature("D8[i8]M8C32f")
    assert s.index.possibly
    assert not s.is_sparse
    assert not s.communication.synchronous
    assert [str(v) for v in s.variants()] == ["D8M8C32f", "D8i8M8C32f"]
    assert Signature("G18").dataset is None
    assert Signature("G18").model is None
    assert Signature("D8M8").variants() == (Signature("D8M8"),)
    assert Signature("D8M8") != "D8M8"


@pytest.mark.parametrize("name", ["dataset", "model", "anything"])
def test_immutable(name):
    s = Signature("D8M8")
    with pytest.raises(AttributeError):
        setattr(s, name, None)
    with pytest.raises(AttributeError):
        delattr(s, name)
    assert str(s) == "D8M8"


# text, position, what was expected, what is said about it
MALFORMED = [
    ("", 0, "at least one of the terms", "the end"),
    ("   ", 3, "at least one of the terms", "the end"),
    ("d8M8", 0, "D, i or [i, M, G or C", "write D"),
    ("D8I8M8", 2, "i or [i, M, G or C", "write i"),
    ("D8F", 2, "i or [i, M, G or C", "'F'"),
    ("M8D8", 2, "G or C", "D cannot follow M"),
    ("D8M8i8", 4, "G or C", "i cannot follow M"),
    ("C1G1", 2, "the end", "G cannot follow C"),
    ("D8D8", 2, "i or [i, M, G or C", "only one dataset term"),
    ("D8i8[i8]", 4, "M, G or C", "only one index term"),
    ("D", 1, "the width of the dataset numbers", "the end"),
    ("D8M", 3, "the width of the model numbers", "the end"),
    ("Df", 1, "the width of the dataset numbers", "'f'"),
    ("D-8", 1, "the width of the dataset numbers", "'-'"),
    ("D 8", 1, "the width of the dataset numbers", "' '"),
    ("D8.5", 2, "i or [i, M, G or C", "'.'"),
    ("D0M8", 1, "the width of the dataset numbers", "from 1 up"),
    ("D08M8", 1, "the width of the dataset numbers", "leading zeros"),
    ("D1234567", 1, "the width of the dataset numbers", "at most 6 digits"),
    ("D\u0668M8", 1, "the width of the dataset numbers", "\u0668"),  # a digit for int(), not for us
    ("D8i8fM8", 4, "the next term", "takes no f"),
    ("D8[i8fM8", 5, "']'", "takes no f"),
    ("D8[i8M8", 5, "']'", "'M'"),
    ("D8[M8]", 3, "'i'", "only the index term"),
    ("D8]M8", 2, "i or [i, M, G or C", "']'"),
    ("D8M8s", 4, "G or C", "'s'"),
    ("C1ss", 3, "the end", "'s'"),
    ("D8M8\n", 4, "G or C", r"'\n'"),
]


@pytest.mark.parametrize(("text", "position", "expected", "said"), MALFORMED)
def test_malformed(text, position, expected, said):
    with pytest.raises(ValueError, match="expected") as caught:
        Signature(text)
    message = str(caught.value)
    assert message.startswith(f"signature {text!r}: at position {position} expected {expected}")
    assert said in message


@pytest.mark.parametrize("value", [None, 8, b"D8M8", ["D8M8"]])
def test_wrong_kind(value):
    with pytest.raises(TypeError, match="expected a string such as 'D8M8'"):
        Signature(value)


def test_from_formats_refuses():
    with pytest.raises(ValueError, match="at least one"):
        Signature.from_formats()
    with pytest.raises(TypeError, match="index: expected Index or None"):
        Signature.from_formats(index=Format(8))
    with pytest.raises(TypeError, match="dataset: expected"):
        Signature.from_formats("8", "8")
    with pytest.raises(ValueError, match="cannot be floating point"):
        Index(8, True)


# ---- what runs ----


def pairs():
    return sorted({(k.D, k.M) for k in kernels._table(kernels._active_isa()) if k.op == "axpy_dot"})


@pytest.mark.parametrize(("D", "M"), pairs())
def test_every_pair_of_the_table_runs(D, M):
    s = Signature(f"D{D}M{M}")
    assert s.runnable()
    assert s.require_runnable() == s
    assert s.obstacles() == ()


@pytest.mark.parametrize(
    ("written", "runs"),
    [("M8", "D32fM8"), ("D8", "D8M32f"), ("D8[i8]M8", "D8M8"), ("D32f[i32]M16", "D32fM16"), ("D8M8", "D8M8")],
)
def test_what_is_left_open_is_filled_in(written, runs):
    assert str(Signature(written).require_runnable()) == runs


@pytest.mark.parametrize(
    ("written", "runs"), [("D8M8G8", "D8M8G8"), ("M16G32f", "D32fM16G32f"), ("G16", "D32fM32fG16"), ("D8[i8]M8G8", "D8M8G8")]
)
def test_gradient_terms_that_run(written, runs):
    assert str(Signature(written).require_runnable()) == runs


@pytest.mark.parametrize("C", ["1", "2", "4", "8", "16", "16f", "32f", "1s", "2s", "4s", "8s", "16s", "16fs", "32fs"])
def test_communication_terms_that_run(C):
    assert str(Signature(f"D8M8C{C}").require_runnable()) == f"D8M8C{C}"
    assert not Signature(f"D8M8C{C}").gradient_is_sent


@pytest.mark.parametrize(("written", "sent"), [("G1C1s", True), ("G4C4", True), ("G8C8s", False), ("G32fC32fs", False)])
def test_a_gradient_that_is_held_as_it_is_sent(written, sent):
    assert Signature(written).require_runnable().gradient_is_sent is sent


@pytest.mark.parametrize(
    ("text", "reasons", "example"),
    [
        ("D8i4M8", ["i4 asks for 4-bit indexes"], "D8i8M8"),
        ("D6i64M8", ["D6 asks for 6-bit fixed point", "i64 asks for 64-bit indexes"], "D8i32M8"),
        ("D8M8G4", ["G4 asks for 4-bit fixed point gradient numbers, and kernels hold them in 8, 16 or 32f"], "D8M8"),
        ("G18", ["G18 asks for 18-bit fixed point gradient numbers"], "D32fM32f"),
        ("D8M16G16fC3", ["G16f asks for", "C3 asks for 3-bit fixed point communication numbers"], "D8M16"),
        ("D8M16G32fC64f", ["C64f asks for 64-bit floating point communication numbers, and workers send 1, 2, 4,"], "D8M16"),
        ("G1C2s", ["G1 asks for 1-bit fixed point gradient numbers, and kernels"], "D32fM32f"),
        ("D6M6", ["D6 asks for 6-bit fixed point", "M6 asks for 6-bit fixed point"], "D8M8"),
        ("D3M12", ["D3 asks for", "M12 asks for"], "D4M16"),
        ("D8M16f", ["M16f asks for 16-bit floating point"], "D8M32f"),
        ("D64fM64f", ["D64f asks for", "M64f asks for"], "D32fM32f"),
        ("D32M8", ["D32 asks for 32-bit fixed point"], "D16M8"),
    ],
)
def test_valid_without_a_kernel(text, reasons, example):
    s = Signature(text)
    assert not s.runnable()
    assert len(s.obstacles()) == len(reasons)
    with pytest.raises(ValueError, match="is valid, but has no kernel") as caught:
        s.require_runnable()
    message = str(caught.value)
    assert message.startswith(f"signature {text} is valid, but has no kernel: ")
    for reason in reasons:
        assert reason in message
    assert message.endswith(f"for example {example}")


def test_sparse_variants_run():
    for width in (8, 16, 32):
        s = Signature(f"D8i{width}M16")
        assert s.runnable()
        assert s.require_runnable() == s == s.require_runnable(sparse=True)
    s = Signature("D8[i16]M8")
    assert str(s.require_runnable(sparse=True)) == "D8i16M8"
    assert str(Signature("i8").require_runnable()) == "D32fi8M32f"
    assert Signature("D8[i4]M8").obstacles() == ()
    assert len(Signature("D8[i4]M8").obstacles(sparse=True)) == 1


def test_the_options_are_read_from_the_table(monkeypatch):
    import lowprec.signature as module

    monkeypatch.setattr(module, "_pairs", lambda: (("8", "8"), ("8", "16"), ("32f", "32f")))
    with pytest.raises(ValueError, match="has no kernel") as caught:
        Signature("D4M8").require_runnable()
    message = "D in {8} with M in {8, 16} or D in {32f} with M in {32f}, sparse data with i in {8, 16, 32}, for example D8M8"
    assert message in str(caught.value)
    with pytest.raises(ValueError, match="no kernel has D32f together with M8"):
        Signature("M8").require_runnable()


# ---- Table 1 ----


def test_table_1():
    assert {row.paper: str(row.signature) for row in TABLE} == {
        "Savich and Moussa": "G18",
        "Seide et al.": "G1C1s",
        "Courbariaux et al.": "G10",
        "Gupta et al.": "D8M16",
        "De Sa et al. 2015": "D8M8",
    }
    for row in TABLE:
        assert row.note
        assert str(row.signature) in row.explain()
        assert classify(row.signature) == (row,)


def test_classify():
    assert classify("D4M4") == ()
    assert [row.paper for row in classify("D8[i8]M8")] == ["De Sa et al. 2015"]
    assert classify("D8i8M8") == ()
    with pytest.raises(ValueError, match="at position"):
        classify("8D")

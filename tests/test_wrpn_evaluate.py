"""`lowprec wrpn export` and `lowprec wrpn evaluate`, and the promise on real images: a trained network against torch."""

from __future__ import annotations

import json
import os
import struct
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("safetensors")
pytest.importorskip("rich")
pytest.importorskip("click")

import torch

from lowprec.cli import main
from lowprec.report.wrpn import networks as report
from lowprec.wrpn import Images, IntegerNetwork, compare, export, load_images, load_network, train_network
from lowprec.wrpn.images import as_floats
from lowprec.wrpn.training import Options, Recipe, predictions

SHAPE = (1, 28, 28)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def blobs(rng, m):
    """Images of two halves, one of them brighter: which is the label, with the brightness."""
    y = rng.integers(0, 4, m)
    x = rng.integers(0, 120, (m, *SHAPE))
    for half in (0, 1):
        x[y % 2 == half, :, :, 14 * half : 14 * half + 14] += 60
    x[y >= 2, :, :14] += 60
    return x.astype(np.uint8), y.astype(np.int64)


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(2017)
    return Images("fashion-mnist", *blobs(rng, 300), *blobs(rng, 200))


@pytest.fixture(scope="module")
def folder(images, tmp_path_factory):
    """The same as files."""
    path = tmp_path_factory.mktemp("data")
    for part, x, y in (("train", images.x, images.y), ("t10k", images.test_x, images.test_y)):
        head = struct.pack(">HBB3I", 0, 8, 3, len(x), 28, 28)
        (path / f"{part}-images-idx3-ubyte").write_bytes(head + x.tobytes())
        (path / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">HBBI", 0, 8, 1, len(y)) + y.astype(np.uint8).tobytes())
    return path


@pytest.fixture(scope="module")
def checkpoint(images, tmp_path_factory):
    path = tmp_path_factory.mktemp("trained") / "checkpoint.safetensors"
    train_network(Recipe("convnet", 4, 4), images, Options(epochs=1), checkpoint=path)
    return path


def run(capsys, *args):
    capsys.readouterr()
    status = main([str(arg) for arg in args])
    out, err = capsys.readouterr()
    return status, out, err


@pytest.fixture
def network_file(checkpoint, tmp_path, capsys):
    path = tmp_path / "network.safetensors"
    status, out, _ = run(capsys, "wrpn", "export", checkpoint, path)
    assert status == 0
    assert f"{path.stat().st_size:,} bytes" in "".join(out.split("\n"))
    assert "Quantized layers take 8,128 bytes with their scales and shifts, 7.37 times less than" in " ".join(out.split())
    return path


def test_what_is_exported_is_what_was_trained(checkpoint, network_file, images):
    model, _ = load_network(checkpoint)
    found = IntegerNetwork.load(network_file)
    assert found == export(model, SHAPE)
    assert found.about == {"recipe": {"architecture": "convnet", "weight_bits": 4, "activation_bits": 4, "widen": 1.0}}
    assert np.sum(found.predict(as_floats(images.test_x)) == predictions(model, images.test_x)) >= 199


def test_evaluate(checkpoint, network_file, folder, tmp_path, images, capsys):
    status, out, _ = run(capsys, "wrpn", "evaluate", network_file, "--folder", folder, "--threads", 1)
    assert status == 0
    accuracy = np.mean(IntegerNetwork.load(network_file).predict(as_floats(images.test_x)) == images.test_y)
    assert f"{100 * accuracy:.2f} %" in out
    out_folder = tmp_path / "out"
    args = ("--folder", folder, "--checkpoint", checkpoint, "--out", out_folder, "--images", 150, "--threads", 1)
    status, out, _ = run(capsys, "wrpn", "evaluate", network_file, *args)
    assert status == 0
    assert {path.name for path in out_folder.iterdir()} == {"wrpn-evaluate.json", "wrpn-evaluate.csv", "wrpn-evaluate.md"}
    results = json.loads((out_folder / "wrpn-evaluate.json").read_text())
    assert results["command"] == "wrpn evaluate"
    assert all(tuple(row) == report.FIELDS for row in results["rows"])
    shares = [(row["network"], row["images"]) for row in results["rows"] if row["table"] != "difference"]
    found = compare(load_network(checkpoint)[0], IntegerNetwork.load(network_file), as_floats(images.test_x[:150]))
    assert shares == [("integer", 150), ("torch", 150), ("classes", found.same_classes), ("codes", found.same_codes)]
    assert f"Both give the same class to {found.same_classes} images" in " ".join(out.split())


def test_differences_are_shown(network_file, images, monkeypatch):
    """With differences that are made up: one at a tie, one not."""
    from lowprec.wrpn import agreement

    def made_up(model, network, x):
        some = [agreement.Difference(3, (1, 2), "conv2", 1, 1e-6, 1e-3), agreement.Difference(7, (2, 0), "conv1", 5, 0.3, 1e-3)]
        return agreement.Comparison(len(x), len(x) - 2, len(x) - 9, images.test_y, some)

    monkeypatch.setattr(agreement, "compare", made_up)
    network = IntegerNetwork.load(network_file)
    results = report.evaluate(network, images, object(), file="file", threads=1)
    first, second = report.evaluation_tables(results)
    assert first.rows[1] == ["torch", "100.00 %"]
    assert "Both give the same class to 198 images, and the same codes in every layer to 191." in first.notes
    assert "Of 2 differing classes 1 begin at a rounding tie." in first.notes
    assert second.rows == [["3", "1", "2", "conv2", "1", "1e-06", "0.001"], ["7", "2", "0", "conv1", "5", "0.3", "0.001"]]


def test_what_does_not_fit_is_a_sentence(checkpoint, network_file, folder, tmp_path, capsys, images):
    for args, sentence in (
        (("export", tmp_path / "none", tmp_path / "out"), "no such file; expected a checkpoint of lowprec wrpn train"),
        (("export", network_file, tmp_path / "out"), "is safetensors, but no checkpoint"),
        (("evaluate", tmp_path / "none"), "no such file; expected one that IntegerNetwork.save wrote"),
        (("evaluate", checkpoint), "is safetensors, but holds no network of lowprec"),
        (("evaluate", network_file, "--folder", folder, "--images", 0), "images: must be at least 1; got 0"),
        (("evaluate", network_file, "--folder", folder, "--threads", 0), "threads: must be at least 1; got 0"),
        (("evaluate", network_file, "--folder", tmp_path), "folder: must have train-images-idx3-ubyte"),
    ):
        status, out, err = run(capsys, "wrpn", *args)
        assert status != 0
        assert out == ""
        assert sentence in " ".join(err.split())
    network = IntegerNetwork.load(network_file)
    wide = replace(images, x=images.x[..., :20], test_x=images.test_x[..., :20])
    with pytest.raises(ValueError, match=r"data: must have images of shape \(1, 28, 28\), which the network takes; got"):
        report.evaluate(network, wide, file="file")


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("LOWPREC_DATA"), reason="LOWPREC_DATA does not name the folder of the data sets")
def test_ten_thousand_images_of_fashion(tmp_path):
    """A network trained on Fashion-MNIST: at least 99.9 % of the classes are torch's, and what differs begins at a tie."""
    images = load_images("fashion-mnist")
    model, _ = train_network(Recipe("convnet", 4, 4), images.first(6000), Options(epochs=1))
    network = export(model, SHAPE)
    x = as_floats(images.test_x)
    found = compare(model, network, x)
    assert found.images == 10_000
    assert found.same_classes >= 9_990
    assert all(d.at_tie and d.bound < 0.25 for d in found.differences)
    # Where classes are the same but codes are not, the same holds.
    codes = compare(model, network, x[:2000], every_code=True)
    assert all(d.at_tie and d.bound < 0.25 for d in codes.differences)
    assert np.mean(network.predict(x) == images.test_y) > 0.6
    quantized = [layer for layer in network.layers if layer.weight_bits is not None]
    assert 7 * sum(layer.nbytes for layer in quantized) <= sum(4 * layer.weights.size for layer in quantized)

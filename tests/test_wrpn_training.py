"""Training networks of few bits: a run learns, goes on from a checkpoint to the bit, and refuses one that does not fit."""

from __future__ import annotations

import gzip
import json
import math
import struct
from dataclasses import asdict, replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'lowprec[wrpn]'")
pytest.importorskip("safetensors", reason="needs safetensors: pip install 'lowprec[wrpn]'")

from safetensors import safe_open  # noqa: E402 - what needs PyTorch comes after its absence
from safetensors.torch import save_file  # noqa: E402

from lowprec import wrpn  # noqa: E402
from lowprec.wrpn import architectures, training  # noqa: E402
from lowprec.wrpn.architecture import Architecture, Node  # noqa: E402
from lowprec.wrpn.images import Images  # noqa: E402
from lowprec.wrpn.training import Options, Recipe  # noqa: E402


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """And as many as before afterwards: our kernels may share the OpenMP runtime."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pictures(rng, m, shape=(1, 28, 28), classes=10):
    """Images whose class is where a bright square lies, on noise."""
    y = rng.permutation(np.arange(m) % classes)
    x = rng.integers(0, 100, (m, *shape)).astype(np.uint8)
    for image, k in zip(x, y, strict=True):
        top, left = divmod(int(k), 4)
        image[:, 7 * top + 1 : 7 * top + 6, 7 * left + 1 : 7 * left + 6] += 150
    return x, y.astype(np.int64)


@pytest.fixture
def images(rng):
    (x, y), (test_x, test_y) = pictures(rng, 320), pictures(rng, 100)
    return Images("mnist", x, y, test_x, test_y)


@pytest.fixture
def tiny(monkeypatch):
    """The name of a network that trains in a moment, with dropout, and a quantized convolution and linear layer."""

    def build():
        nodes = [
            Node("conv0", "conv", "input", channels=4, kernel=3, stride=2), Node("bn0", "batch_norm", "conv0"),
            Node("relu0", "relu", "bn0"), Node("conv1", "conv", "relu0", channels=4, kernel=3, stride=2),
            Node("bn1", "batch_norm", "conv1"), Node("relu1", "relu", "bn1"), Node("flat", "flatten", "relu1"),
            Node("drop", "dropout", "flat", p=0.25), Node("fc0", "linear", "drop", features=16), Node("relu2", "relu", "fc0"),
            Node("fc1", "linear", "relu2", features=10),
        ]  # fmt: skip
        return Architecture("tiny", (1, 28, 28), tuple(nodes))

    monkeypatch.setitem(architectures.ARCHITECTURES, "tiny", build)
    return "tiny"


class Stopped(Exception):
    """What a test stops a run with."""


def stop_in_epoch(epoch, epochs):
    def progress(share):
        if share * epochs > epoch - 0.5:
            raise Stopped

    return progress


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


# ---- learning ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [(32, 32), (4, 4), (2, 2), (1, 1)])
def test_a_short_run_learns(images, bits):
    model, history = wrpn.train_network(Recipe("convnet", *bits), images, Options(epochs=3, batch_size=16))
    assert [one.epoch for one in history] == [1, 2, 3]
    # Who always says that all classes are alike has a loss of log(10), and one image in ten right.
    assert history[-1].loss < 0.5 * math.log(10)
    assert history[-1].accuracy > 0.5
    found = training.predictions(model, images.test_x)
    assert history[-1].accuracy == np.mean(found == images.test_y)
    assert list(history[-1].zeros) == ([] if bits[0] == 32 else ["conv1", "conv2", "conv3"])
    if bits[0] == 1:
        assert set(history[-1].zeros.values()) == {0.0}


def test_a_run_is_a_function_of_its_seed(images, tiny):
    recipe, options = Recipe(tiny, 4, 4), Options(epochs=2)
    first = wrpn.train_network(recipe, images, options)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    second = wrpn.train_network(recipe, images, options)
    assert torch.equal(torch.get_rng_state(), before)  # PyTorch's own generator is left alone
    other = wrpn.train_network(recipe, images, replace(options, seed=1))
    assert same(first[0], second[0])
    assert first[1] == second[1]
    assert not same(first[0], other[0])


def test_the_last_batch_is_left_out_where_it_has_one_image(images, tiny):
    wrpn.train_network(Recipe(tiny), replace(images, x=images.x[:65], y=images.y[:65]), Options(epochs=1))


def test_weights_are_spread_over_the_range():
    networks = {bits: training.make_network(Recipe("convnet", bits, 4), seed=5) for bits in (1, 2, 4, 32)}
    for layer in ("conv1", "conv2", "conv3"):
        weights = {bits: network.get_submodule(layer).weight for bits, network in networks.items()}
        n = weights[2].numel()
        # Uniform in [-1, 1]: half of them, within six standard deviations, is nearer to 0 than to -1 or 1.
        assert abs(wrpn.zero_fraction(weights[2].detach().numpy(), 2) - 0.5) < 6 * math.sqrt(0.25 / n)
        assert torch.equal(weights[1], weights[2])
        assert torch.equal(weights[2], weights[4])
        assert float(weights[32].detach().abs().max()) <= np.float32(1 / math.sqrt(weights[32][0].numel()))
    assert torch.equal(networks[32].conv0.weight, networks[2].conv0.weight)


def test_layers_without_a_normalization_keep_their_weights():
    torch.manual_seed(0)
    model = wrpn.build("lenet")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    wrpn.spread_weights(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_only_layers_in_full_precision_are_decayed(tiny):
    model = training.make_network(Recipe(tiny, 2, 2))
    names = {id(p): name for name, p in model.named_parameters()}
    groups = [
        (sorted(names[id(p)] for p in group["params"]), group["weight_decay"])
        for group in training._optimizer(model, Options(weight_decay=0.5)).param_groups
    ]
    first_and_last = ["bn0.bias", "bn0.weight", "bn1.bias", "bn1.weight", "conv0.weight", "fc0.bias", "fc1.bias", "fc1.weight"]
    assert groups == [(first_and_last, 0.5), (["conv1.weight", "fc0.weight"], 0.0)]


# ---- checkpoints ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_a_run_that_was_stopped_ends_in_the_same_bits(images, tiny, tmp_path, epoch):
    recipe, options, path = Recipe(tiny, 2, 4, 1.5), Options(epochs=4, batch_size=32), tmp_path / "run.safetensors"
    whole, history = wrpn.train_network(recipe, images, options)
    with pytest.raises(Stopped):
        wrpn.train_network(recipe, images, options, checkpoint=path, progress=stop_in_epoch(epoch, 4))
    assert path.exists() == (epoch > 1)
    resumed, again = wrpn.train_network(recipe, images, options, checkpoint=path)
    assert same(resumed, whole)
    assert again == history
    # What is finished is read, and not trained again.
    done, read = wrpn.train_network(recipe, images, options, checkpoint=path, progress=stop_in_epoch(1.6, 1))
    assert same(done, whole)
    assert read == history


def test_a_network_is_loaded_from_its_checkpoint(images, tiny, tmp_path):
    recipe, path = Recipe(tiny, 2, 4, 2.0), tmp_path / "run.safetensors"
    model, _ = wrpn.train_network(recipe, images, Options(epochs=1), checkpoint=path)
    loaded, found = wrpn.load_network(path)
    assert found == recipe
    assert same(loaded, model)
    assert not loaded.training
    assert np.array_equal(training.predictions(loaded, images.test_x), training.predictions(model, images.test_x))


@pytest.fixture
def checkpoint(images, tiny, tmp_path):
    path = tmp_path / "run.safetensors"
    wrpn.train_network(Recipe(tiny, 2, 4), images, Options(epochs=2), checkpoint=path)
    return path


def changed(path, header=None, **tensors):
    """The checkpoint with another header, or other tensors, and a checksum that fits; None takes one out."""
    with safe_open(path, framework="pt") as f:
        kept = {key: f.get_tensor(key) for key in f.keys()}  # noqa: SIM118 - it is no mapping
        text = f.metadata()["lowprec.wrpn"]
    kept = {key: value for key, value in (kept | tensors).items() if value is not None}
    about = json.loads(text) | {"checksum": training._checksum(kept)} | (header or {})
    save_file(kept, path, {"lowprec.wrpn": json.dumps(about)})


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_file_cut_short(checkpoint, images, tiny, share):
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[: int(share * len(content))])
    message = r"run.safetensors: is cut short, or no checkpoint"
    with pytest.raises(ValueError, match=message):
        wrpn.load_network(checkpoint)
    with pytest.raises(ValueError, match=message):
        wrpn.train_network(Recipe(tiny, 2, 4), images, Options(epochs=2), checkpoint=checkpoint)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"header": {"version": 2}}, "is a checkpoint of version 2; expected version 1"),
        ({"header": {"recipe": {"architecture": "nonsense"}}}, "names no network that there is"),
        ({"header": {"recipe": {"architecture": "tiny", "weight_bits": 9}}}, "names no network that there is"),
        ({"header": {"recipe": None}}, "names no network that there is"),
        ({"model.fc1.bias": torch.zeros(11)}, "its weights do not fit the network that it names"),
        ({"model.fc1.bias": torch.zeros(10, dtype=torch.float64)}, "its weights do not fit"),
        ({"model.fc1.bias": None}, "its weights do not fit"),
        ({"model.more": torch.zeros(1)}, "its weights do not fit"),
    ],
)
def test_a_file_that_was_changed(checkpoint, change, message):
    changed(checkpoint, **change)
    with pytest.raises(ValueError, match=rf"run.safetensors: {message}"):
        wrpn.load_network(checkpoint)


@pytest.mark.parametrize("back", [1, 1000])
def test_a_byte_that_was_changed(checkpoint, back):
    content = bytearray(checkpoint.read_bytes())
    content[-back] ^= 1
    checkpoint.write_bytes(content)
    with pytest.raises(ValueError, match=r"run.safetensors: is damaged: its numbers are not those that were written"):
        wrpn.load_network(checkpoint)


@pytest.mark.parametrize("place", [".", "nonsense/run.safetensors"])
def test_a_checkpoint_needs_a_folder(images, tiny, tmp_path, place):
    with pytest.raises(ValueError, match=r"^checkpoint: must be a file in a folder that exists; got "):
        wrpn.train_network(Recipe(tiny), images, checkpoint=tmp_path / place)


def test_files_that_are_no_checkpoints(tmp_path):
    path = tmp_path / "other.safetensors"
    with pytest.raises(FileNotFoundError, match=r"other.safetensors: no such file; expected a checkpoint of lowprec wrpn train"):
        wrpn.load_network(path)
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match=r"is safetensors, but no checkpoint"):
        wrpn.load_network(path)
    save_file({"a": torch.zeros(2)}, path, {"lowprec.wrpn": "[1, 2]"})
    with pytest.raises(ValueError, match=r"is cut short, or no checkpoint"):
        wrpn.load_network(path)
    path.write_bytes(b"PK\x03\x04 a zip file")
    with pytest.raises(ValueError, match=r"is cut short, or no checkpoint"):
        wrpn.load_network(path)


def test_a_checkpoint_of_another_run(checkpoint, images, tiny):
    same_run = {"recipe": Recipe(tiny, 2, 4), "images": images, "options": Options(epochs=2)}
    for change, what in (
        ({"recipe": Recipe(tiny, 4, 4)}, "recipe"),
        ({"options": Options(epochs=3)}, "options"),
        ({"options": Options(epochs=2, seed=1)}, "options"),
        ({"images": replace(images, name="fashion-mnist")}, "data"),
        ({"images": images.first(300)}, "data"),
        ({"images": replace(images, x=255 - images.x)}, "data"),
        ({"images": replace(images, y=images.y[::-1].copy())}, "data"),
    ):
        with pytest.raises(ValueError, match=rf"^checkpoint: .*run.safetensors is of another run; {what} here: "):
            wrpn.train_network(**(same_run | change), checkpoint=checkpoint)


@pytest.mark.parametrize("key", ["optimizer.0.exp_avg", "optimizer.0.exp_avg_sq", "optimizer.0.step"])
@pytest.mark.parametrize("value", [None, torch.zeros(3, 2, 1)])
def test_a_checkpoint_without_a_state_of_the_optimizer(checkpoint, images, tiny, key, value):
    changed(checkpoint, **{key: value})
    with pytest.raises(ValueError, match=r"run.safetensors: holds no state of the optimizer that fits"):
        wrpn.train_network(Recipe(tiny, 2, 4), images, Options(epochs=2), checkpoint=checkpoint)


# ---- arguments -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Recipe("alexnet-9"), ValueError, r"^architecture: choose one of \{alexnet, "),
        (lambda: Recipe("convnet", 0), ValueError, r"^weight_bits: must lie in \[1, 8\], or be 32"),
        (lambda: Recipe("convnet", 4, 9), ValueError, r"^activation_bits: must lie in \[1, 8\], or be 32"),
        (lambda: Recipe("convnet", 4, 4, -1), ValueError, r"^widen: must be finite and positive"),
        (lambda: Options(epochs=0), ValueError, r"^epochs: must be at least 1"),
        (lambda: Options(batch_size=1), ValueError, r"^batch_size: must be at least 2"),
        (lambda: Options(learning_rate=0.0), ValueError, r"^learning_rate: must be finite and positive"),
        (lambda: Options(weight_decay=-1.0), ValueError, r"^weight_decay: must be finite and not negative"),
        (lambda: Options(seed=2**32), ValueError, r"^seed: must lie in"),
        (lambda: Options(seed="0"), TypeError, r"^seed: expected an integer"),
    ],
)
def test_what_is_trained_is_looked_at(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_images_that_do_not_fit(images):
    with pytest.raises(ValueError, match=r"^images: must have the shape that resnet-20 takes, \(3, 32, 32\); got \(1, 28, 28\)$"):
        wrpn.train_network(Recipe("resnet-20"), images)
    with pytest.raises(ValueError, match=r"^images: must be at least 2 to train on; got 1$"):
        wrpn.train_network(Recipe("convnet"), images.first(1))


def test_a_loss_that_is_not_finite(images, tiny):
    with pytest.raises(ValueError, match=r"^learning_rate: the loss must stay finite; in epoch 1 it did not"):
        wrpn.train_network(Recipe(tiny), images, Options(epochs=1, learning_rate=1e38))


# ---- images --------------------------------------------------------------------------------------------------------


def idx(array):
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_idx(folder, rng, m=40, m_test=20, compress=True):
    """MNIST in small; returns what was written."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for part, count in (("train", m), ("t10k", m_test)):
        x, y = pictures(rng, count)
        made += [x, y]
        for name, content in ((f"{part}-images-idx3-ubyte", x[:, 0]), (f"{part}-labels-idx1-ubyte", y.astype(np.uint8))):
            data = idx(content)
            if compress:
                (folder / f"{name}.gz").write_bytes(gzip.compress(data))
            else:
                (folder / name).write_bytes(data)
    return made


@pytest.mark.parametrize(("inside", "compress"), [("mnist", True), ("MNIST/raw", False), (".", True)])
def test_mnist_is_found_in_its_folders(rng, tmp_path, monkeypatch, inside, compress):
    made = write_idx(tmp_path / inside, rng, compress=compress)
    monkeypatch.setenv("LOWPREC_DATA", str(tmp_path))
    for images in (wrpn.load_images("mnist"), wrpn.load_images("mnist", tmp_path)):
        assert all(np.array_equal(a, b) for a, b in zip((images.x, images.y, images.test_x, images.test_y), made, strict=True))
        assert images.x.dtype == np.uint8
        assert images.y.dtype == np.int64
        assert (images.shape, images.classes, images.name) == ((1, 28, 28), 10, "mnist")
        assert len(images.first(7).x) == len(images.first(7).y) == 7


def test_cifar(rng, tmp_path):
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    parts = []
    for name in [f"data_batch_{k}.bin" for k in range(1, 6)] + ["test_batch.bin"]:
        x, y = rng.integers(0, 256, (6, 3, 32, 32), np.uint8), rng.integers(0, 10, 6, np.uint8)
        (folder / name).write_bytes(b"".join(bytes([label]) + image.tobytes() for image, label in zip(x, y, strict=True)))
        parts.append((x, y))
    images = wrpn.load_images("cifar-10", tmp_path)
    assert np.array_equal(images.x, np.concatenate([x for x, _ in parts[:5]]))
    assert np.array_equal(images.y, np.concatenate([y for _, y in parts[:5]]))
    assert np.array_equal(images.test_x, parts[5][0])
    content = (folder / "test_batch.bin").read_bytes()
    (folder / "test_batch.bin").write_bytes(content[:-1])
    with pytest.raises(ValueError, match=r"test_batch.bin: 18437 bytes; expected a multiple of 3073"):
        wrpn.load_images("cifar-10", tmp_path)
    (folder / "test_batch.bin").write_bytes(b"\x0a" + content[1:])
    with pytest.raises(ValueError, match=r"test_batch.bin: label 10 at index 0; expected 0 to 9"):
        wrpn.load_images("cifar-10", tmp_path)
    (folder / "data_batch_4.bin").unlink()
    with pytest.raises(ValueError, match=r"^folder: must have data_batch_4.bin of CIFAR-10's binary version"):
        wrpn.load_images("cifar-10", tmp_path)


def test_images_that_are_not_there(rng, tmp_path, monkeypatch):
    monkeypatch.delenv("LOWPREC_DATA", raising=False)
    with pytest.raises(ValueError, match=r"^LOWPREC_DATA: must name the folder of the data sets, or folder .*; got nothing$"):
        wrpn.load_images("mnist")
    with pytest.raises(ValueError, match=r"^folder: must have train-images-idx3-ubyte of mnist, in itself or in mnist; got "):
        wrpn.load_images("mnist", tmp_path)
    with pytest.raises(ValueError, match=r"^data: choose one of \{mnist, fashion-mnist, cifar-10\}; got 'imagenet'$"):
        wrpn.load_images("imagenet", tmp_path)
    write_idx(tmp_path, rng)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(ValueError, match=r"^folder: must have t10k-labels-idx1-ubyte, plain or as .gz"):
        wrpn.load_images("mnist", tmp_path)


def test_images_that_are_damaged(rng, tmp_path):
    write_idx(tmp_path, rng, compress=False)
    labels, pixels = tmp_path / "train-labels-idx1-ubyte", tmp_path / "train-images-idx3-ubyte"
    good = labels.read_bytes()
    for content, message in (
        (idx(np.zeros(39, np.uint8)), r"images-idx3-ubyte: labels of shape \(39,\) for 40 examples"),
        (idx(np.full(40, 10, np.uint8)), "labels-idx1-ubyte: label 10 at index 0; expected 0 to 9"),
        (good[:-3], "labels-idx1-ubyte: truncated: 37 bytes of data"),
    ):
        labels.write_bytes(content)
        with pytest.raises(ValueError, match=f"train-{message}"):
            wrpn.load_images("mnist", tmp_path)
    labels.write_bytes(good)
    pixels.write_bytes(idx(np.zeros((40, 5, 5), np.uint8)))
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte: rows of 25 numbers of uint8; expected images of"):
        wrpn.load_images("mnist", tmp_path)


# ---- the commands --------------------------------------------------------------------------------------------------


@pytest.fixture
def command(capsys):
    pytest.importorskip("click")
    pytest.importorskip("rich")
    pytest.importorskip("matplotlib")
    from lowprec.cli import main

    def run(*args):
        capsys.readouterr()
        status = main(list(args))
        return status, *capsys.readouterr()

    return run


def test_the_command(command, rng, tmp_path, tiny, monkeypatch):
    write_idx(tmp_path / "mnist", rng)
    out, path = tmp_path / "out", tmp_path / "net.safetensors"
    args = [
        "wrpn", "train", "--data", "mnist", "--folder", str(tmp_path), "--architecture", tiny, "--weight-bits", "2",
        "--activation-bits", "4", "--epochs", "3", "--batch-size", "8", "--checkpoint", str(path), "--threads", "1",
        "--out", str(out),
    ]  # fmt: skip
    real = training._epoch

    def interrupted(model, optimizer, images, options, epoch, progress):
        if epoch == 1:
            raise KeyboardInterrupt
        return real(model, optimizer, images, options, epoch, progress)

    monkeypatch.setattr(training, "_epoch", interrupted)
    assert command(*args)[0] == 130
    monkeypatch.setattr(training, "_epoch", real)
    status, shown, _ = command(*args)
    assert status == 0
    assert "tiny, 1x wide, 2-bit weights, 4-bit activations: 40 images of mnist" in shown
    assert "Weights that round to zero" in shown
    results = json.loads((out / "wrpn-train.json").read_text())
    assert results["command"] == "wrpn train"
    assert [row["epoch"] for row in results["rows"] if row["table"] == "epoch"] == [1, 2, 3]
    assert {row["layer"] for row in results["rows"] if row["table"] == "zeros"} == {"conv1", "fc0"}
    assert sorted(file.name for file in out.iterdir()) == [f"wrpn-train.{ending}" for ending in ("csv", "json", "md", "png")]
    images = wrpn.load_images("mnist", tmp_path)
    whole, history = wrpn.train_network(Recipe(tiny, 2, 4), images, Options(epochs=3, batch_size=8))
    assert same(wrpn.load_network(path)[0], whole)
    assert [row["accuracy"] for row in results["rows"] if row["table"] == "epoch"] == [one.accuracy for one in history]
    status, _, err = command(*args, "--seed", "1")
    assert (status, err.count("\n")) == (2, 2)
    assert "is of another run" in err


def test_nearly_all_zero_is_warned_of(images):
    from lowprec.report.wrpn import training as report

    # Two bits, and no normalization that would let the weights begin large: the second convolution sees and gives nothing.
    results = report.train(Recipe("lenet", 2, 2), images, Options(epochs=1, learning_rate=1e-4), threads=1)
    zeros = report.tables(results)[1]
    assert zeros.rows[0] == ["conv2", "100.0 %", "100.0 %"]
    assert "nearly all" in zeros.notes[0]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--architecture", "nonsense"), "architecture: choose one of {"),
        (("--weight-bits", "9"), "weight_bits: must lie in [1, 8], or be 32"),
        (("--widen", "0"), "widen: must be finite and positive"),
        (("--epochs", "0"), "epochs: must be at least 1"),
        (("--threads", "0"), "threads: must be at least 1"),
        (("--folder", "/nonsense"), "folder: must have train-images-idx3-ubyte"),
    ],
)
def test_bad_options_are_one_sentence(command, args, message):
    status, out, err = command("wrpn", "train", *args)
    assert (status, out) == (2, "")
    assert message in err.splitlines()[-1]


def test_the_experiment(rng, tmp_path, tiny, monkeypatch):
    pytest.importorskip("matplotlib")
    from lowprec.report.experiments import wrpn as experiment
    from lowprec.report.tables import to_markdown

    write_idx(tmp_path / "fashion-mnist", rng)
    monkeypatch.setenv("LOWPREC_DATA", str(tmp_path))
    options = replace(
        experiment.QUICK, architecture=tiny, m=None, epochs=2, seeds=2, other_bits=((4, 32), (1, 1)), left_out=((2.0, 32, 32),)
    )  # fmt: skip
    seen = []
    results = experiment.measure(options, lambda *told: seen.append(told), tmp_path / "runs")
    assert [share for _, _, share in seen] == sorted(share for _, _, share in seen)
    assert all(tuple(row) == experiment.FIELDS for row in results["rows"])
    assert json.loads(json.dumps(results["options"])) == results["options"]
    cells = {(row["widen"], row["weight_bits"], row["activation_bits"]): row for row in results["rows"] if row["table"] == "cell"}
    assert list(cells) == [
        (1.0, 32, 32), (1.0, 2, 2), (2.0, 2, 2), (1.0, 4, 32), (2.0, 4, 32), (1.0, 1, 1), (2.0, 1, 1),
    ]  # fmt: skip
    assert [row["seeds"] for row in cells.values()] == [2, 2, 2, 1, 1, 1, 1]
    float_mean = cells[1.0, 32, 32]["accuracy"]
    for cell, row in cells.items():
        last = [
            r["accuracy"] for r in results["rows"]
            if r["table"] == "epoch" and r["epoch"] == 2 and (r["widen"], r["weight_bits"], r["activation_bits"]) == cell
        ]  # fmt: skip
        assert row["accuracy"] == np.mean(last)
        assert (row["accuracy_low"], row["accuracy_high"]) == (min(last), max(last))
        assert row["to_float"] == row["accuracy"] - float_mean
    assert cells[2.0, 2, 2]["cost"] == wrpn.compute_cost(tiny, 2, 2, widen=2)
    # Nothing is trained twice.
    monkeypatch.setattr(training, "_epoch", None)
    again = experiment.measure(options, folder=tmp_path / "runs")
    assert again["rows"] == results["rows"]
    text = "\n".join(to_markdown(table) for table in experiment.tables(results))
    assert "Test accuracy, percent, 2x wide: tiny, 40 images of fashion-mnist, 2 epochs" in text
    assert all(figure.axes for figure in experiment.figures(results).values())


def test_a_recipe_is_plain_data():
    assert json.loads(json.dumps(asdict(Recipe("convnet", 2, 4, 1)))) == {
        "architecture": "convnet", "weight_bits": 2, "activation_bits": 4, "widen": 1.0,
    }  # fmt: skip

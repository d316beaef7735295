"""Checkpoint files: against the safetensors library, and what is said of broken ones."""

import json
import re

import checkpoints
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from regionjax.weights import files
from regionjax.weights.table import WeightsError


def arrays():
    rng = np.random.default_rng(0)
    return {
        "a.weight": rng.normal(size=(3, 5)).astype(np.float32),
        "a.half": rng.normal(size=(4,)).astype(np.float16),
        "b.brain": rng.normal(size=(2, 2, 2)).astype(jnp.bfloat16),
        "b.ids": np.arange(6),
        "scalar": np.array(0.5, np.float64),
        "empty": np.zeros((0, 3), np.float32),
        "mask": np.array([True, False]),
    }


def test_reads_what_safetensors_writes(tmp_path):
    safetensors.numpy.save_file(arrays(), tmp_path / files.SINGLE)
    found = files.open_tensors(tmp_path)
    assert set(found.headers) == set(arrays())
    for name, array in arrays().items():
        assert found.headers[name] == (array.shape, array.dtype)
        assert found.read(name).tobytes() == array.tobytes()


@pytest.mark.parametrize("shard_bytes, count", [(10**6, 1), (70, 3), (1, 7)])
def test_writes_what_safetensors_reads(tmp_path, shard_bytes, count):
    found = {name: (array.shape, array.dtype) for name, array in arrays().items()}
    folder = tmp_path / "out"
    files.write_directory(folder, {"a": 1}, found, arrays().__getitem__, shard_bytes)
    written = sorted(folder.glob("*.safetensors"))
    assert len(written) == count
    read = {}
    for file in written:
        read |= safetensors.numpy.load_file(file)
    for name, array in arrays().items():
        assert read[name].dtype == array.dtype and read[name].tobytes() == array.tobytes()
    again = files.open_tensors(folder)
    assert all(again.read(name).tobytes() == array.tobytes() for name, array in arrays().items())
    assert json.loads((folder / "config.json").read_text()) == {"a": 1}


def broken(folder, how):
    """A directory of two shards, of which something is not as it should be."""
    checkpoints.write(folder, shard_bytes=30_000)
    first, *_ = sorted(folder.glob("*.safetensors"))
    index = folder / files.INDEX
    if how == "truncated":
        first.write_bytes(first.read_bytes()[:-100])
    if how == "cut in the header":
        first.write_bytes(first.read_bytes()[:100])
    if how == "longer":
        first.write_bytes(first.read_bytes() + b"x")
    if how == "no shard":
        first.unlink()
    if how == "no header":
        first.write_bytes((4).to_bytes(8, "little") + b"nojs" + bytes(100))
    if how == "no such tensor":
        said = json.loads(index.read_text())
        said["weight_map"]["other.weight"] = first.name
        index.write_text(json.dumps(said))
    if how == "no index":
        index.unlink()
    if how == "index no JSON":
        index.write_text("{")


@pytest.mark.parametrize(
    "how, message",
    [
        ("truncated", r"model-00001-of-0000\d.safetensors is truncated inside tensor \w+.*weight"),
        ("cut in the header", "safetensors is truncated or no safetensors file: 100 bytes"),
        ("longer", r"model-00001.* its header tells of"),
        ("no shard", r"model-00001.*safetensors is missing; .*index.json lists \d files"),
        ("no header", "its header cannot be read"),
        ("no such tensor", "has no tensor other.weight, which .* says it has"),
        ("no index", "has neither model.safetensors nor model.safetensors.index.json"),
        ("index no JSON", "index.json is no JSON"),
    ],
)
def test_broken_files_are_named(tmp_path, how, message):
    broken(tmp_path / "theirs", how)
    with pytest.raises(WeightsError, match=message):
        files.open_tensors(tmp_path / "theirs")


def test_a_folder_that_was_not_finished_is_not_there(tmp_path):
    def produce(name):
        raise OSError(28, "no space")

    with pytest.raises(WeightsError, match=r"out could not be written \(no space\)"):
        files.write_directory(tmp_path / "out", {}, {"a": ((1,), np.float32)}, produce, 100)
    assert not list(tmp_path.iterdir())
    (tmp_path / "out").mkdir()
    with pytest.raises(WeightsError, match="out exists; name a new one"):
        files.write_directory(tmp_path / "out", {}, {}, produce, 100)


@pytest.mark.torch
def test_torch_files(tmp_path):
    torch = pytest.importorskip("torch")
    tensors = {"a": torch.randn(3, 2).T, "b": torch.randn(4).bfloat16(), "c": torch.tensor(3)}
    for zipped in (True, False):
        torch.save(
            {"model": tensors, "epoch": 3},
            tmp_path / "all.pth",
            _use_new_zipfile_serialization=zipped,
        )
        found = files.open_tensors(tmp_path / "all.pth")
        assert found.headers["a"] == ((2, 3), np.float32)
        np.testing.assert_array_equal(found.read("a"), tensors["a"].numpy())
        assert found.read("b").dtype == jnp.bfloat16
        np.testing.assert_array_equal(found.read("b").astype(np.float32), tensors["b"].float())
        assert found.read("c") == 3


@pytest.mark.torch
def test_a_pickle_that_runs_something_is_refused(tmp_path):
    torch = pytest.importorskip("torch")

    class Harmful:
        def __reduce__(self):
            return (tmp_path.joinpath("owned").touch, ())

    for what, message in (
        ({"model": Harmful()}, "is no file of weights only, or it is damaged"),
        ({"model": {"a": 3}}, "holds no mapping of names to tensors"),
    ):
        torch.save(what, tmp_path / "x.pth")
        with pytest.raises(WeightsError, match=re.escape(str(tmp_path)) + r"/x.pth.*" + message):
            files.open_tensors(tmp_path / "x.pth")
    assert not (tmp_path / "owned").exists()
    (tmp_path / "y.pth").write_bytes(b"nothing of the kind")
    with pytest.raises(WeightsError, match="y.pth is no file of weights only"):
        files.open_tensors(tmp_path / "y.pth")

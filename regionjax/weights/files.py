"""Checkpoint files: safetensors directories and torch's .pth, read one tensor at a time.

Nothing is mapped into memory: what is resident is what was asked for. A writer lays its shards out
first and then asks for one tensor after the other.
"""

import contextlib
import json
import math
import os
import pathlib
import shutil
import zipfile

import jax.numpy as jnp
import numpy as np

from regionjax.config import nearest
from regionjax.weights.table import WeightsError

# safetensors' names of types.
DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": jnp.bfloat16,
    "F8_E4M3": jnp.float8_e4m3fn,
    "F8_E5M2": jnp.float8_e5m2,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
DTYPES = {name: np.dtype(dtype) for name, dtype in DTYPES.items()}
NAMES = {dtype: name for name, dtype in DTYPES.items()}

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PARTIAL = ".partial"  # end of the name of what is still being written


class Safetensors:
    """The tensors of some safetensors files.

    Attributes:
      headers: {name: (shape, numpy dtype)}.
    """

    def __init__(self, files):
        self.headers, self._places = {}, {}
        for file in files:
            for name, (shape, dtype, offset) in _read_header(file).items():
                if name in self.headers:
                    other = self._places[name][0]
                    raise WeightsError(f"{file}: tensor {name} is in {other.name} as well")
                self.headers[name] = shape, dtype
                self._places[name] = file, offset

    def read(self, name):
        """The tensor as a numpy array of its own."""
        shape, dtype = self.headers[name]
        file, offset = self._places[name]
        array = np.empty(shape, dtype)
        with open(file, "rb", buffering=0) as stream:
            stream.seek(offset)
            buffer = memoryview(array.reshape(-1).view(np.uint8))
            while len(buffer):
                count = stream.readinto(buffer)
                if not count:
                    raise WeightsError(f"{file} ended inside tensor {name}")
                buffer = buffer[count:]
        return array


class Torch:
    """The tensors of a .pth file that holds weights and nothing that runs. Needs torch."""

    def __init__(self, file):
        try:
            import torch
        except ImportError as error:
            raise WeightsError(f"{file}: reading .pth needs torch (pip install torch)") from error
        try:
            found = torch.load(
                file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file)
            )
        except Exception as error:  # torch, pickle and zipfile each raise their own
            raise WeightsError(
                f"{file} is no file of weights only, or it is damaged: {str(error).splitlines()[0]}"
            ) from error
        # ALBEF keeps its weights beside the state of the optimiser.
        found = found.get("model", found) if isinstance(found, dict) else {}
        if not found or not all(isinstance(value, torch.Tensor) for value in found.values()):
            raise WeightsError(f"{file} holds no mapping of names to tensors, nor one as `model`")
        self._torch, self._tensors = torch, found
        self.headers = {
            name: (tuple(tensor.shape), DTYPES[_torch_dtype(tensor, name, file)])
            for name, tensor in found.items()
        }

    def read(self, name):
        """The tensor as a numpy array."""
        tensor, dtype = self._tensors[name].contiguous(), self.headers[name][1]
        flat = tensor.reshape(-1).view(self._torch.uint8).numpy()  # numpy has no bfloat16
        return flat.view(dtype).reshape(tensor.shape)


def open_tensors(path):
    """The tensors of a Hugging Face directory or of a .pth file.

    Raises:
      WeightsError: nothing to read there, or a file that is truncated or damaged.
    """
    path = pathlib.Path(path)
    if path.is_file():
        return Safetensors([path]) if path.suffix == ".safetensors" else Torch(path)
    if (path / INDEX).is_file():
        return _open_shards(path)
    if (path / SINGLE).is_file():
        return Safetensors([path / SINGLE])
    there = sorted(file.name for file in path.iterdir()) if path.is_dir() else []
    hint = ""
    if any(name.endswith(".bin") for name in there):
        hint = "; of torch's .bin files, let transformers make safetensors (save_pretrained)"
    raise WeightsError(f"{path} has neither {SINGLE} nor {INDEX}{hint}")


def _open_shards(folder):
    index = read_json(folder / INDEX).get("weight_map")
    if not isinstance(index, dict) or not all(isinstance(name, str) for name in index.values()):
        raise WeightsError(f"{folder / INDEX} has no weight_map from tensors to files")
    names = sorted(set(index.values()))
    for name in names:
        if not (folder / name).is_file():
            raise WeightsError(f"{folder / name} is missing; {INDEX} lists {len(names)} files")
    tensors = Safetensors([folder / name for name in names])
    for tensor, file in index.items():
        if tensor not in tensors.headers:
            raise WeightsError(f"{folder / file} has no tensor {tensor}, which {INDEX} says it has")
    return tensors


def _read_header(file):
    """{name: (shape, dtype, offset in the file)}, checked against the file's size."""
    size = file.stat().st_size
    with open(file, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 + length:
            raise WeightsError(f"{file} is truncated or no safetensors file: {size} bytes")
        try:
            entries = json.loads(stream.read(length))
            entries.pop("__metadata__", None)
            found = {name: _entry(file, name, entry) for name, entry in entries.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, WeightsError):
                raise
            raise WeightsError(f"{file}: its header cannot be read ({error})") from error
    end, begin = 8 + length, 8 + length
    for name, (shape, dtype, offset) in sorted(found.items(), key=lambda item: item[1][2]):
        if begin + offset != end:
            raise WeightsError(f"{file}: tensor {name} does not begin where the one before ends")
        end += math.prod(shape) * dtype.itemsize
        if end > size:
            raise WeightsError(
                f"{file} is truncated inside tensor {name}: it has {size} bytes, at least {end} "
                "are needed; download it again"
            )
    if end != size:
        raise WeightsError(f"{file} has {size} bytes, its header tells of {end}")
    return {name: (shape, dtype, begin + offset) for name, (shape, dtype, offset) in found.items()}


def _entry(file, name, entry):
    if entry["dtype"] not in DTYPES:
        raise WeightsError(f"{file}: {name} is {entry['dtype']}{nearest(entry['dtype'], DTYPES)}")
    shape, dtype = tuple(entry["shape"]), DTYPES[entry["dtype"]]
    begin, end = entry["data_offsets"]
    if end - begin != math.prod(shape) * dtype.itemsize:
        raise WeightsError(f"{file}: {name} is {dtype}{list(shape)} in {end - begin} bytes")
    return shape, dtype, begin


def _torch_dtype(tensor, name, file):
    theirs = str(tensor.dtype).removeprefix("torch.")
    for ours, dtype in DTYPES.items():
        if dtype.name == theirs:
            return ours
    raise WeightsError(f"{file}: {name} is {tensor.dtype}, which is not read")


def read_json(file):
    """The dictionary in a JSON file.

    Raises:
      WeightsError: no such file, or no dictionary in it.
    """
    try:
        found = json.loads(pathlib.Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise WeightsError(f"{file}: {error.strerror}") from error
    except ValueError as error:
        raise WeightsError(f"{file} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise WeightsError(f"{file} holds no dictionary")
    return found


def write_directory(folder, config, headers, produce, shard_bytes):
    """Writes a directory that transformers loads; it appears when it is whole.

    Args:
      folder: to be made; must not exist.
      config: contents of config.json.
      headers: {name: (shape, numpy dtype)} of the tensors.
      produce: (name) → numpy array of that shape; converted to that dtype on the way out.
      shard_bytes: a new file is begun rather than going beyond this.
    """
    with new_directory(folder) as partial:
        write_json(partial / "config.json", config)
        shards = _split(headers, shard_bytes)
        files = [SINGLE]
        if len(shards) > 1:
            count = len(shards)
            files = [f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]
        for file, names in zip(files, shards, strict=True):
            write_safetensors(partial / file, {name: headers[name] for name in names}, produce)
        if len(shards) > 1:
            weight_map = {
                name: file for file, names in zip(files, shards, strict=True) for name in names
            }
            total = sum(_size(*header) for header in headers.values())
            index = {"metadata": {"total_size": total}, "weight_map": weight_map}
            write_json(partial / INDEX, index)


@contextlib.contextmanager
def new_directory(folder):
    """A folder under another name, which gets its own when all went well."""
    folder = pathlib.Path(folder)
    must_be_new(folder)
    partial = folder.with_name(folder.name + PARTIAL)
    shutil.rmtree(partial, ignore_errors=True)  # of one that was killed
    try:
        partial.mkdir(parents=True)
        yield partial
        os.replace(partial, folder)
    except OSError as error:
        raise _unwritten(folder, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def must_be_new(path):
    """Raises WeightsError when there is something already."""
    if pathlib.Path(path).exists():
        raise WeightsError(f"{path} exists; name a new one")


def _unwritten(path, error):
    reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
    return WeightsError(f"{path} could not be written ({reason}); nothing of it was kept")


def write_safetensors(file, headers, produce):
    """One safetensors file; arguments as in `write_directory`."""
    entries, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, (shape, dtype) in headers.items():
        end = offset + _size(shape, dtype)
        entries[name] = {
            "dtype": NAMES[np.dtype(dtype)],
            "shape": list(shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(file, "wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for name, (shape, dtype) in headers.items():
            array = np.asarray(produce(name), dtype, order="C")
            if array.shape != tuple(shape):
                raise WeightsError(f"{file}: {name} is {list(array.shape)}, expected {list(shape)}")
            stream.write(memoryview(array.reshape(-1).view(np.uint8)))


def write_torch(file, headers, produce):
    """A .pth as ALBEF's code reads it; arguments as in `write_directory`. Needs torch."""
    import torch

    file = pathlib.Path(file)
    must_be_new(file)
    if file.suffix != ".pth":
        raise WeightsError(f"{file}: name a file that ends in .pth")
    partial = file.with_name(file.name + PARTIAL)
    tensors = {
        name: torch.from_numpy(np.array(produce(name), dtype))
        for name, (_, dtype) in headers.items()
    }
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"model": tensors}, partial)
        os.replace(partial, file)
    except (OSError, RuntimeError) as error:  # torch's own writer raises the latter
        raise _unwritten(file, error) from error
    finally:
        partial.unlink(missing_ok=True)


def write_json(file, contents):
    """As transformers writes it: sorted and indented."""
    text = json.dumps(contents, indent=2, sort_keys=True, ensure_ascii=False)
    pathlib.Path(file).write_text(text + "\n", encoding="utf-8")


def _size(shape, dtype):
    return math.prod(shape) * np.dtype(dtype).itemsize


def _split(headers, shard_bytes):
    """Names of tensors in their order, cut where a file would become too large."""
    shards, room = [], 0
    for name, header in headers.items():
        size = _size(*header)
        if not shards or size > room:
            shards.append([])
            room = shard_bytes
        shards[-1].append(name)
        room -= size
    return shards

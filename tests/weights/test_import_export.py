"""There and back through our checkpoints: bits, meshes, memory, interruptions, bad input."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import checkpoints
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from regionjax import checkpoint, sharding, tables
from regionjax.mesh import MeshConfig, make_mesh
from regionjax.weights import exporting, files, importing, table
from regionjax.weights.table import WeightsError

MESHES = ((1, 1, 1), (1, 4, 2), (2, 2, 2))


def mesh_of(*sizes):
    return make_mesh(MeshConfig(*sizes), jax.devices()[: np.prod(sizes)])


def expected(tensors):
    """Our parameters of {name: array}, by the in-memory way."""
    architecture, config = checkpoints.known(checkpoints.T5)
    shapes = architecture.shapes(config, "float32")
    return table.to_ours(tensors, architecture.rows(config), shapes)


def load(folder, mesh, dtype="float32"):
    """As a run loads its parameters."""
    architecture, config = checkpoints.known(checkpoints.T5)
    shapes, rules = architecture.shapes(config, dtype), architecture.sharding_rules(config)
    places, _ = sharding.state_shardings({"params": shapes}, rules, mesh)
    placed = sharding.placed(shapes, places["params"])
    return checkpoint.load_params(folder / "checkpoints", 0, placed)


@pytest.mark.parametrize("sizes", MESHES, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float16, jnp.bfloat16])
def test_import_and_export_give_the_same_bits(tmp_path, sizes, dtype):
    tensors = checkpoints.write(tmp_path / "theirs", dtype=dtype, shard_bytes=9000)
    importing.import_weights(tmp_path / "theirs", tmp_path / "ours", mesh_of(*sizes))
    exporting.export_weights(tmp_path / "ours", tmp_path / "back", shard_bytes=7000)
    back = files.open_tensors(tmp_path / "back")
    assert set(back.headers) == set(tensors)
    for name, tensor in tensors.items():
        read = back.read(name)
        assert read.dtype == tensor.dtype and read.tobytes() == tensor.tobytes(), name
    assert files.read_json(tmp_path / "back/config.json") == checkpoints.T5


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_checkpoint_is_one_that_runs_load_on_any_mesh(tmp_path, dtype):
    tensors = checkpoints.write(tmp_path / "theirs")
    importing.import_weights(tmp_path / "theirs", tmp_path / "ours", mesh_of(1, 4, 2), dtype=dtype)
    wanted = tables.flatten(expected(tensors))
    for sizes in MESHES:
        found = tables.flatten(load(tmp_path / "ours", mesh_of(*sizes), dtype))
        for path, array in wanted.items():
            np.testing.assert_array_equal(found[path], array.astype(dtype), err_msg=path)


def test_tensors_of_several_dtypes_get_them_back(tmp_path):
    def mix(tensors):
        for i, name in enumerate(tensors):
            tensors[name] = tensors[name].astype((np.float32, jnp.bfloat16, np.float16)[i % 3])
        tensors["encoder.embed_tokens.weight"] = tensors["shared.weight"]

    tensors = checkpoints.write(tmp_path / "theirs", change=mix)
    importing.import_weights(tmp_path / "theirs", tmp_path / "ours", mesh_of(1, 1, 1))
    exporting.export_weights(tmp_path / "ours", tmp_path / "back")
    back = files.open_tensors(tmp_path / "back")
    assert set(back.headers) == set(tensors) - {"encoder.embed_tokens.weight"}
    for name in back.headers:
        assert back.read(name).tobytes() == tensors[name].tobytes(), name


def test_part_of_a_run_is_exported_like_its_import(tmp_path):
    tensors = checkpoints.write(tmp_path / "theirs")
    importing.import_weights(tmp_path / "theirs", tmp_path / "ours", mesh_of(1, 1, 1))
    params = {"language": {"t5": expected(tensors)}, "head": {"kernel": jnp.ones(3)}}
    params["language"]["t5"]["embedding"] = params["language"]["t5"]["embedding"] + 1
    run = checkpoint.Checkpoints(tmp_path / "run/checkpoints")
    run.save(7, {"params": params}, None, {"step": 7})
    run.close()
    with pytest.raises(WeightsError, match="run is a run of our own; --like names"):
        exporting.export_weights(tmp_path / "run", tmp_path / "back")
    with pytest.raises(WeightsError, match="has no part languge; did you mean `language`"):
        exporting.export_weights(
            tmp_path / "run", tmp_path / "back", part="languge", like=tmp_path / "ours"
        )
    with pytest.raises(WeightsError, match="extra: t5/embedding"):
        exporting.export_weights(
            tmp_path / "run", tmp_path / "back", part="language", like=tmp_path / "ours"
        )
    exporting.export_weights(
        tmp_path / "run", tmp_path / "back", part="language/t5", like=tmp_path / "ours"
    )
    back = files.open_tensors(tmp_path / "back")
    np.testing.assert_array_equal(back.read("shared.weight"), tensors["shared.weight"] + 1)
    np.testing.assert_array_equal(back.read("lm_head.weight"), tensors["lm_head.weight"])


def test_a_longer_vocabulary_is_exported_with_its_size(tmp_path):
    tensors = checkpoints.write(tmp_path / "theirs")
    importing.import_weights(tmp_path / "theirs", tmp_path / "ours", mesh_of(1, 1, 1))
    params = expected(tensors)
    for name in ("embedding", "output_embedding"):
        params[name] = np.concatenate([params[name], np.full((3, 16), 0.5, np.float32)])
    run = checkpoint.Checkpoints(tmp_path / "run/checkpoints")
    run.save(7, {"params": {"t5": params}}, None, {"step": 7})
    run.close()
    exporting.export_weights(tmp_path / "run", tmp_path / "back", part="t5", like=tmp_path / "ours")
    back = files.open_tensors(tmp_path / "back")
    assert files.read_json(tmp_path / "back/config.json") == {**checkpoints.T5, "vocab_size": 53}
    for name in ("shared.weight", "lm_head.weight"):
        np.testing.assert_array_equal(back.read(name)[:50], tensors[name])
        assert (back.read(name)[50:] == 0.5).all()


def test_bad_input_leaves_nothing(tmp_path):
    def rename(tensors):
        tensors["encoder.final_layernorm.weight"] = tensors.pop("encoder.final_layer_norm.weight")
        tensors["shared.weight"] = tensors["shared.weight"][:, :8]

    checkpoints.write(tmp_path / "theirs", change=rename)
    with pytest.raises(WeightsError) as caught:
        importing.import_weights(tmp_path / "theirs", tmp_path / "ours", mesh_of(1, 1, 1))
    text = str(caught.value)
    assert text.startswith(f"{tmp_path / 'theirs'} does not fit the model:")
    missing = "missing: encoder.final_layer_norm.weight; did you mean `encoder.final_layernorm.wei"
    assert missing in text
    assert "shape: shared.weight is [50, 8], the config needs [50, 16]" in text
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize(
    "change, message",
    [
        (None, r"config.json: No such file"),
        ({"architectures": ["T5ForConditionalGenration"]}, "did you mean `T5ForConditionalGener"),
        ({"architectures": ["MambaForCausalLM"]}, "MambaForCausalLM is not known; known: CLIPV"),
        ({"architectures": None}, r"architecture \(none\) is not known"),
        ({"d_model": None}, "config.json of a T5ForConditionalGeneration has no 'd_model'"),
        ({"feed_forward_proj": "gated-tanhh"}, "dense_act_fn 'tanhh'"),
    ],
)
def test_bad_configs(tmp_path, change, message):
    checkpoints.write(tmp_path / "theirs")
    file = tmp_path / "theirs/config.json"
    if change is None:
        file.unlink()
    else:
        config = {**checkpoints.T5, **change}
        file.write_text(json.dumps({key: v for key, v in config.items() if v is not None}))
    with pytest.raises(WeightsError, match=message):
        importing.import_weights(tmp_path / "theirs", tmp_path / "ours", mesh_of(1, 1, 1))
    assert not (tmp_path / "ours").exists()


def child(*arguments):
    """A process that imports on its own; see memory.py."""
    script = pathlib.Path(__file__).with_name("memory.py")
    command = [sys.executable, str(script), *map(str, arguments)]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def test_killed_import_looks_like_none_and_can_be_repeated(tmp_path):
    config = {**checkpoints.T5, "d_model": 512, "d_ff": 2048, "vocab_size": 2000}
    checkpoints.write(tmp_path / "theirs", config)
    process = child(tmp_path / "theirs", tmp_path / "ours")
    folder = tmp_path / "ours/checkpoints"
    while not list(folder.glob("0*/state*/*")) and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert checkpoint.latest_step(folder) is None
    importing.import_weights(tmp_path / "theirs", tmp_path / "ours", mesh_of(1, 1, 1))
    assert sorted(path.name for path in folder.iterdir()) == ["0"]
    with pytest.raises(WeightsError, match="holds a checkpoint; name a new folder"):
        importing.import_weights(tmp_path / "theirs", tmp_path / "ours", mesh_of(1, 1, 1))


@pytest.mark.slow
def test_memory_of_an_import_is_the_parameters_and_one_shard(tmp_path):
    """1 GB of float32 parameters from 0.5 GB of bfloat16 in shards of 100 MB."""
    config = {**checkpoints.T5, "d_model": 1024, "d_kv": 64, "num_heads": 16, "d_ff": 4096}
    config |= {"num_layers": 6, "num_decoder_layers": 6, "vocab_size": 16_064}
    headers = checkpoints.headers(config, jnp.bfloat16)
    target = 2 * checkpoints.write_zeros(tmp_path / "theirs", config, headers, 10**8)
    assert target > 1e9
    shard = max(file.stat().st_size for file in (tmp_path / "theirs").glob("*.safetensors"))
    process = child(tmp_path / "theirs", tmp_path / "ours")
    peak = int(process.communicate()[0])
    shutil.rmtree(tmp_path)  # pytest would keep it
    assert process.returncode == 0
    print(f"\nMB: peak {peak / 1e6:.0f}, parameters {target / 1e6:.0f}, shard {shard / 1e6:.0f}")
    assert target <= peak <= target + shard

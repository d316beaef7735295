"""Plans by the real TPU compiler: small programs for slices that are not there."""

import dataclasses
import importlib.util
import os
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_commands
import toy
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from regionjax import chips, hlo, optim, parameters
from regionjax.config import ConfigError
from regionjax.flops import Part, Work
from regionjax.plan import Program, make_program, plan

LARGE = pathlib.Path(__file__).parents[2] / "configs/regionlm_2b.py"
needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"
)


def compiler_test(function):
    return pytest.mark.tpu_compiler(needs_libtpu(function))


def toy_config(**changes):
    made = toy.config(**{"mesh": {"data": 1, "fsdp": -1, "tensor": 1}, "train.batch_size": 32})
    made.update_from_flattened_dict(changes)
    return made


@compiler_test
def test_a_small_program_fits(capsys):
    small = toy_config(**{"batch.image_size": 256})
    assert plan(small, "v5e:2x2", build_system=toy.build_system) == 0
    said = capsys.readouterr().out
    value = lambda name: float(re.search(rf"{name} +(-?[\d,.]+)", said)[1].replace(",", ""))  # noqa: E731
    assert "toy on v5e:2x2: 4 chips, mesh data=1 fsdp=4 tensor=1" in said
    # A tower over 4·4 pixels and 3 colours with a bias, words, a box.
    count = (19 + 1 + toy.VOCABULARY + 4) * toy.WIDTH
    assert f"{count:,} parameters in all" in said
    assert value("images") == 32
    assert re.search(r"regions +96 +24.0", said)
    assert re.search(r"tokens +320 +80.0", said)
    # 500 an image, three times for forward and backward.
    assert re.search(r"words +4.800e\+04 +1.200e\+04   3.00 × forward", said)
    # 8 images a chip, of 256×256×3 bytes and what belongs to them.
    assert value("  batch") == pytest.approx(8 * 256 * 256 * 3 / 2**20, abs=0.1)
    assert value("arguments") >= value("  parameters") + value("  optimiser slots")
    total = sum(map(value, ("arguments", "outputs", "aliased", "temporaries", "program")))
    assert value("sum") == pytest.approx(total, abs=0.5)
    assert re.search(r"all-gather +\d", said)
    assert said.endswith("\nfits on v5e:2x2\n")


def test_without_a_slice_shapes_are_counted(capsys):
    def frozen_words(section, spec):
        work = Work(
            {"toy": 10}, (Part("words", ("params/words/",), (), 60 + 20 * spec.regions, 0),)
        )
        return dataclasses.replace(toy.build_system(section, spec), flops=lambda: work)

    frozen = (("^params/words", True), (".*", False))
    small = toy_config(**{"optim.frozen": frozen})
    pod = toy_config(**{"optim.frozen": frozen, "mesh.fsdp": 128})  # whatever it is meant for
    assert plan(pod, build_system=frozen_words) == 0
    said = capsys.readouterr().out
    program = make_program(small, jax.devices()[:1], frozen_words)
    table = [line.split() for line in said.split("\n\n")[1].splitlines()[1:-1]]
    for part in ("words", "tower", "box"):
        sizes = jax.tree.leaves(program.state.params[part])
        rows = [row for row in table if row[0] == part]
        assert sum(int(row[1].replace(",", "")) for row in rows) == sum(x.size for x in sizes)
    # Of one image 60, of each region 20; nothing of it is trained, so forward is all.
    shared = said.partition("FLOPs of a region")[2].splitlines()[1:]
    assert [line.split()[0] for line in shared] == ["1", "3", "8"]
    assert [float(line.split()[2]) for line in shared] == [80.0, 40.0, 27.5]


def test_slots_in_the_table_are_those_of_the_optimiser():
    square = jax.ShapeDtypeStruct((1024, 1024), jnp.float32)
    params = {"vit": {"kernel": square}, "qformer": {"kernel": square, "table": square}}
    settings = optim.OptimConfig(
        learning_rate=1.0,
        frozen=(("^params/vit", True), (".*", False)),
        muon=(("kernel", "io"), (".*", "")),
    )
    optimizer = optim.make_optimizer(settings, 10, params)
    place = NamedSharding(Mesh(jax.devices()[:1], "x"), P())
    places = jax.tree.map(lambda _: place, params)
    rows = [line.split() for line in parameters.summarize(params, places, optimizer, {})[1:]]
    kept = sum(
        x.size * x.dtype.itemsize for x in jax.tree.leaves(jax.eval_shape(optimizer.init, params))
    )
    slots = [("qformer", "4.00"), ("qformer", "8.00"), ("vit", "0.00")]
    assert sorted((row[0], row[3]) for row in rows) == slots
    assert sum(float(row[3]) for row in rows) == pytest.approx(kept / 2**20, abs=0.01)


@compiler_test
def test_what_does_not_fit_comes_with_hints(capsys):
    # 16,000 photographs of 12 megabytes on four chips of 16 gigabytes.
    large = toy_config(**{"batch.image_size": 2048, "train.batch_size": 16_000, "mesh.data": 2})
    with large.unlocked():
        large.model.update({"remat": "none", "vocabulary_chunks": 4})
    assert plan(large, "v5e:2x2", build_system=toy.build_system) == 1
    said = capsys.readouterr().out
    assert "does NOT fit on v5e:2x2" in said
    assert "15.75G" in said  # the compiler's own words
    hints = said.partition("most first:\n")[2]
    for hint in (
        "--config.model.remat=full",
        "--config.train.microbatches=2",
        "--config.model.vocabulary_chunks=8",
        "--config.mesh.data=1 --config.mesh.fsdp=-1",
        "--config.train.batch_size=8000",
    ):
        assert hint in hints


@compiler_test
def test_gradients_are_summed_between_slices(capsys):
    two = toy_config(**{"mesh.data": -1, "mesh.fsdp": 4})
    assert plan(two, "v5e:2x2", num_slices=2, build_system=toy.build_system) == 0
    said = capsys.readouterr().out
    assert "toy on 2 × v5e:2x2: 8 chips, mesh data=2 fsdp=4 tensor=1" in said
    assert re.search(r"between slices: all-reduce +\d", said)
    with pytest.raises(ConfigError, match="2 slices lie along the data axis"):
        plan(toy_config(), "v5e:2x2", num_slices=2, build_system=toy.build_system)


@compiler_test
@pytest.mark.parametrize(
    ("topology", "devices"),
    [("v4:2x2x1", 4), ("v5e:1x1", 1), ("v5p:2x2x1", 4), ("v6e:2x4", 8), ("tpu7x:2x2x1", 8)],
)
def test_the_memory_of_a_chip_is_what_the_compiler_allows(topology, devices):
    chip, found = chips.open_slice(topology)
    assert len(found) == devices
    place = NamedSharding(Mesh(np.array(found[:1]), ("x",)), P())
    huge = jax.ShapeDtypeStruct((2**36,), jnp.float32, sharding=place)
    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED") as error:
        jax.jit(lambda x: x + 1).lower(huge).compile()
    allowed = re.search(r"available HBM \(([\d.]+)G\)", str(error.value))[1]
    assert chip.memory / 2**30 == pytest.approx(float(allowed), abs=0.01)


@compiler_test
@pytest.mark.parametrize("topology", ["v5e:3x2", "v9:2x2", "v5e", "v5e:2", "v5litepod-16"])
def test_an_unknown_slice_names_the_known_ones(topology):
    with pytest.raises(ConfigError, match=rf"no TPU slice is called '{topology}'.*v5e:4x4"):
        chips.open_slice(topology)


def test_without_the_compiler_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'pip install "jax\[tpu\]=='):
        chips.open_slice("v5e:4x4")


SMALL = {
    "batch.image_size": 32,
    "batch.mask_size": 8,
    "batch.regions": 3,
    "batch.points": 2,
    "model.vit.image_size": 32,
    "model.vit.patch_size": 8,
    "model.vit.width": 96,
    "model.vit.depth": 3,
    "model.vit.heads": 3,  # tensor=2 does not divide it, nor the one KV head
    "model.vit.mlp_width": 128,
    "model.region.cells": 2,
    "model.decoder.vocabulary": 1024,
    "model.decoder.width": 64,
    "model.decoder.depth": 5,
    "model.decoder.heads": 4,
    "model.decoder.head_width": 32,
    "model.decoder.mlp_width": 128,
    "train.batch_size": 16,
    "mesh.data": 1,
    "mesh.fsdp": 2,
    "mesh.tensor": 2,
}


@compiler_test
@pytest.mark.slow
def test_the_readmes_plan_keeps_tables_and_activations_in_parts(monkeypatch):
    """The README's command, for a slice and a model that compile in seconds."""
    compiled = []
    compiles = Program.compile

    def kept(program):
        compiled.append((program, compiles(program)))
        return compiled[-1][1]

    monkeypatch.setattr(Program, "compile", kept)
    commands = test_commands.readme_commands()
    [command] = [c for c in commands if test_commands.flag(c, "--mode") == "plan"]
    command[command.index("--topology") + 1] = "v5e:2x2"
    assert test_commands.run(command, **SMALL).endswith("\nfits on v5e:2x2\n")
    [(program, step)] = compiled
    assert "params/vit/layers/query/kernel" in program.dropped
    assert "params/decoder/layers/key/kernel" in program.dropped
    text = step.as_text()
    found = hlo.collectives(text)
    assert {"all-gather", "all-reduce"} <= found.keys()
    assert not sum(sums.once for sums in found.values())
    # Gathered or summed whole: never the table of 1024 tokens, never the sequences of all chips.
    for shape in re.findall(r"= (\S+) (?:all-gather|all-reduce)(?:-start)?\(", text):
        assert "[1024,64]" not in shape
        assert not re.search(r"\[16,\d\d+,64\]", shape)


@compiler_test
def test_the_command_names_the_known_slices():
    """In a process of its own, where nothing says that JAX is to stay on the CPU."""
    command = [sys.executable, "-m", "regionjax.main", "--mode=plan", f"--config={LARGE}"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("JAX", "XLA"))}
    command.append("--topology=v5e:5x5")
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert run.returncode == 2, run.stderr
    assert "known: v5e:1x1" in run.stderr

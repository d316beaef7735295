"""What one training step needs of a TPU slice, without having the slice.

The real step of a config is compiled by the real TPU compiler, which runs on any Linux machine.
What is printed is what that program asks for: memory, FLOPs by our own count, collectives. How
long a step takes is not among it, as nothing here runs. Without a slice nothing is compiled: the
parameters, their slots and the FLOPs are those of the shapes.
"""

import dataclasses
import time

import jax
from flax import traverse_util
from jax.sharding import Mesh
from ml_collections import ConfigDict

from regionjax import chips, hlo, parameters, sharding
from regionjax.config import build
from regionjax.mesh import MeshConfig, batch_shards, check_batch_size, make_mesh
from regionjax.optim import Optimizer, make_optimizer
from regionjax.settings import Settings
from regionjax.step import (
    TrainState,
    check_loss_weights,
    init_model,
    init_state,
    lower_train_step,
    make_train_step,
)
from regionjax.systems import system as systems
from regionjax.systems.system import System

MIB = 2**20


@dataclasses.dataclass(frozen=True)
class Program:
    """A training step, ready to be compiled.

    `state` and `batch` are ShapeDtypeStructs that carry their shardings; `dropped` is that of
    sharding.state_shardings.
    """

    settings: Settings
    mesh: Mesh
    system: System
    optimizer: Optimizer
    state: TrainState
    batch: dict
    dropped: dict

    def compile(self):
        """The compiled step; its devices need not exist."""
        step = make_train_step(
            self.system,
            self.optimizer,
            self.settings.losses,
            seed=self.settings.seed,
            microbatches=self.settings.train.microbatches,
            shardings=jax.tree.map(lambda array: array.sharding, self.state),
        )
        with jax.set_mesh(self.mesh):
            return lower_train_step(step, self.state, self.batch).compile()


def plan(config, topology=None, *, num_slices=1, build_system=systems.build):
    """Compiles the training step of a config for TPU slices, and prints what it needs.

    Args:
      config: ConfigDict.
      topology: such as "v5e:4x4"; None: counts for one device, and nothing is compiled.
      num_slices: how many of them; they lie along the mesh's data axis.
      build_system: (config, BatchSpec) → System.

    Returns:
      0 if the program fits into the memory of the chips, or there are none, else 1.

    Raises:
      ConfigError: a setting that cannot be used, no such slice, no TPU compiler.
    """
    if topology is None:
        config = ConfigDict(config.to_dict() | {"mesh": dataclasses.asdict(MeshConfig(1, 1, 1))})
        program = make_program(config, jax.devices()[:1], build_system)
        print(f"{config.system} on one device, by its shapes\n")
        _print_parameters(program)
        _print_work(program, "device")
        _print_sharing(config, program, build_system)
        return 0
    chip, devices = chips.open_slice(topology, num_slices)
    program = make_program(config, devices, build_system)
    where = f"{num_slices} × {topology}" if num_slices > 1 else topology
    one = "chip" if chip.devices == 1 else "device"  # what the figures below are of
    count = f"{len(devices) // chip.devices} chips"
    if chip.devices > 1:
        count += f" ({len(devices)} devices)"
    axes = " ".join(f"{axis}={size}" for axis, size in program.mesh.shape.items())
    print(f"{config.system} on {where}: {count}, mesh {axes}\n")
    _print_parameters(program)
    _print_work(program, one)
    _print_sharing(config, program, build_system)

    begin = time.monotonic()
    try:
        compiled = program.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        fits = False
        print(f"\nthe compiler gave up after {time.monotonic() - begin:.0f} s: {_reason(error)}")
    else:
        print(f"\ncompiled in {time.monotonic() - begin:.0f} s\n")
        fits = _print_memory(compiled.memory_analysis(), program, chip, one)
        _print_collectives(compiled.as_text(), one)
    if fits:
        print(f"\nfits on {where}")
        return 0
    print(f"\ndoes NOT fit on {where}; what helps, most first:")
    for hint in _hints(config, program, chip, num_slices):
        print(f"  {hint}")
    return 1


def make_program(config, devices, build_system=systems.build):
    """The training step of a config on `devices`, put together as train.py does.

    Raises:
      ConfigError: a setting that cannot be used.
    """
    settings = build(Settings, config, "config")
    run, spec, seed = settings.train, settings.batch, settings.seed
    mesh = make_mesh(settings.mesh, devices)
    check_batch_size(run.batch_size, run.microbatches, mesh)
    system = build_system(config, spec)
    check_loss_weights(settings.losses, system)
    model = jax.eval_shape(lambda: init_model(system, seed, spec))
    optimizer = make_optimizer(settings.optim, run.steps, model["params"])
    shapes = jax.eval_shape(lambda: init_state(system, optimizer, seed, spec))
    places, dropped = sharding.state_shardings(shapes, system.sharding_rules, mesh)
    batch = spec.abstract(run.batch_size)
    return Program(
        settings=settings,
        mesh=mesh,
        system=system,
        optimizer=optimizer,
        state=sharding.placed(shapes, places),
        batch=sharding.placed(batch, dict.fromkeys(batch, sharding.batch_sharding(mesh))),
        dropped=dropped,
    )


def _print_parameters(program):
    params = program.state.params
    places = jax.tree.map(lambda array: array.sharding, params)
    for line in parameters.summarize(params, places, program.optimizer, program.dropped):
        print(line)
    print(f"{sum(array.size for array in jax.tree.leaves(params)):,} parameters in all")


def _print_work(program, one):
    settings, work = program.settings, program.system.flops()
    images, devices = settings.train.batch_size, program.mesh.size
    each = work.training(program.state.params, program.optimizer.frozen)

    def row(name, amount, style=",.1f", note=""):
        whole = f"{amount:{style}}".removesuffix(".0")
        print(f"  {name:<28}{whole:>18}{amount / devices:>18{style}}   {note}".rstrip())

    print(f"\n{'one step':<30}{'all':>18}{'a ' + one:>18}")
    row("images", images)
    row("regions", images * settings.batch.regions)
    row("tokens", images * sum(work.tokens.values()))
    for kind, tokens in work.tokens.items():
        row(f"  {kind}", images * tokens)
    row("FLOPs of matrix products", images * sum(each.values()), ".3e")
    for part in work.parts:
        flops = each[part.name]
        row(f"  {part.name}", images * flops, ".3e", f"{flops / part.forward:.2f} × forward")


def _print_sharing(config, program, build_system):
    """What a region costs when so many share an image."""
    print("\nFLOPs of a region, by regions an image")
    spec, params, frozen = (
        program.settings.batch,
        program.state.params,
        program.optimizer.frozen,
    )
    for regions in sorted({1, 8, spec.regions}):
        work = build_system(config, dataclasses.replace(spec, regions=regions)).flops()
        forward = sum(part.forward for part in work.parts) / regions
        training = sum(work.training(params, frozen).values()) / regions
        print(f"  {regions:<28}{training:>18.3e}   {forward:.3e} forward")


def _print_memory(memory, program, chip, one):
    """Prints the table; returns whether the chip has that much."""

    def row(name, amount, note=""):
        print(f"  {name:<28}{amount / MIB:>18,.1f}   {note}".rstrip())

    used = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.generated_code_size_in_bytes
    )
    print(f"{'memory of a ' + one:<30}{'MiB':>18}")
    row("arguments", memory.argument_size_in_bytes)
    row("  parameters", _bytes(program.state.params), "without padding")
    row("  optimiser slots", _bytes(program.state.opt_state), "without padding")
    row("  batch", _bytes(program.batch), "without padding")
    row("outputs", memory.output_size_in_bytes)
    row("aliased", -memory.alias_size_in_bytes, "outputs in the place of arguments")
    row("temporaries", memory.temp_size_in_bytes)
    row("program", memory.generated_code_size_in_bytes)
    row("sum", used, f"{used / chip.memory:.0%} of {chip.memory / MIB:,.0f}")
    row("peak", memory.peak_memory_in_bytes, "alive at once, by the compiler's own account")
    return used <= chip.memory


def _print_collectives(text, one):
    found = hlo.collectives(text)
    print(f"\n{'collectives of a ' + one + ', one step':<40}{'times':>8}{'MiB':>18}")
    for kind, sums in found.items():
        print(f"  {kind:<38}{sums.count:>8,}{sums.bytes / MIB:>18,.1f}")
    if not found:
        print("  none")
    print("  (MiB of whole arrays: gathered, not yet scattered; in a loop, times its turns)")
    if once := sum(sums.once for sums in found.values()):
        print(f"  ({once} are in loops whose turns cannot be read and are counted once)")


def _bytes(arrays):
    """Bytes of a tree of placed ShapeDtypeStructs on one device."""
    return sum(parameters.shard_bytes(array, array.sharding) for array in jax.tree.leaves(arrays))


def _reason(error):
    """The sentence of the compiler that says how much is missing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if "exceed" in line.lower()), lines[0])


def _hints(config, program, chip, num_slices):
    """Settings that would take less memory, as flags; only those that can still be turned."""
    run, mesh = program.settings.train, program.mesh
    model = traverse_util.flatten_dict(config.model.to_dict(), sep=".")
    hints = [
        f"--config.model.{name}=full: the backward pass computes layers again"
        for name, value in model.items()
        if name.endswith("remat") and value != "full"
    ]
    images = run.batch_size // batch_shards(mesh) // run.microbatches  # a device, at a time
    if images > 1:
        parts = run.microbatches * (2 if images % 2 == 0 else images)
        hints.append(f"--config.train.microbatches={parts}: fewer images at a time, same result")
    for name, chunks in model.items():
        if name.endswith("vocabulary_chunks") and program.system.vocabulary % (2 * chunks) == 0:
            hints.append(f"--config.model.{name}={2 * chunks}: fewer logits at a time")
    if mesh.shape["data"] > num_slices:
        axes = f"--config.mesh.data={num_slices} --config.mesh.fsdp=-1"
        hint = f"{axes}: more devices share each parameter and its slots"
        # First when parameters fill the memory, otherwise last of what keeps the batch.
        heavy = _bytes(program.state) > chip.memory / 2
        hints.insert(0 if heavy else len(hints), hint)
    if images > 1:
        smaller = run.batch_size // images * (images // 2)
        hints.append(f"--config.train.batch_size={smaller}: a smaller batch")
    return [*hints, "a larger slice, split along fsdp or tensor"]

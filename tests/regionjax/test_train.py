"""The step: the same on every mesh and in every number of parts, frozen, not finite; the loop."""

import functools
import json
import math
import threading

import jax
import numpy as np
import pytest
import toy

from input_pipeline.errors import DataError
from regionjax import metrics, sharding, step, train
from regionjax.batch import BatchSpec
from regionjax.config import ConfigError, build
from regionjax.mesh import MeshConfig, make_mesh
from regionjax.optim import make_optimizer
from regionjax.settings import Settings
from regionjax.tables import flatten


@functools.cache
def built(changes=(), mesh=(1, 1, 1)):
    """(() → initial state, compiled step, sharding of a batch) of the toy, without noise."""
    config = toy.config(**{"model.noise": 0.0, **dict(changes)})
    settings = build(Settings, config, "config")
    system = toy.build_system(config, settings.batch)
    mesh = make_mesh(MeshConfig(*mesh), jax.devices()[: math.prod(mesh)])
    model = jax.eval_shape(lambda: step.init_model(system, 7, settings.batch))
    optimizer = make_optimizer(settings.optim, 10, model["params"])
    init = lambda: step.init_state(system, optimizer, 7, settings.batch)  # noqa: E731
    shapes = jax.eval_shape(init)
    place = sharding.batch_sharding(mesh)
    with jax.set_mesh(mesh):
        places, _ = sharding.state_shardings(shapes, system.sharding_rules, mesh)
        train_step = step.make_train_step(
            system,
            optimizer,
            settings.losses,
            seed=7,
            microbatches=settings.train.microbatches,
            shardings=places,
        )
        lowered = step.lower_train_step(
            train_step,
            sharding.placed(shapes, places),
            {
                name: jax.ShapeDtypeStruct(field.shape, field.dtype, sharding=place)
                for name, field in settings.batch.abstract(32).items()
            },
        )
        return jax.jit(init, out_shardings=places), lowered.compile(), place


def images(count=32):
    return next(toy.Input(build(BatchSpec, toy.config().batch, "config.batch"), 7, count))


def one_step(batch=None, changes=(), mesh=(1, 1, 1)):
    """State before, state after and metrics of one step of the toy."""
    init, compiled, place = built(changes, mesh)
    state = init()
    before = jax.device_get(state)
    after, numbers = jax.device_get(compiled(state, jax.device_put(batch or images(), place)))
    return before, after, numbers


def assert_same_step(changes=(), mesh=(1, 1, 1)):
    """As the whole batch on one device.

    Adam divides a gradient by its own size, so gradients are compared through their moments.
    """
    (_, after, numbers), (_, expected, wanted) = one_step(None, changes, mesh), one_step()
    for name in wanted:
        np.testing.assert_allclose(numbers[name], wanted[name], rtol=1e-5, err_msg=name)
    slots, right = flatten(after.opt_state), flatten(expected.opt_state)
    for path in right:
        np.testing.assert_allclose(slots[path], right[path], rtol=1e-4, atol=1e-8, err_msg=path)


@pytest.mark.parametrize("mesh", [(8, 1, 1), (1, 8, 1), (1, 4, 2)], ids=str)
def test_every_mesh_takes_the_same_step(mesh):
    assert_same_step(mesh=mesh)


PARTS = (("train.microbatches", 4),)


@pytest.mark.parametrize("mesh", [(1, 1, 1), (2, 2, 2)], ids=str)
def test_four_parts_with_unequal_token_counts_are_one_big_batch(mesh):
    tokens = images()["target_weight"].sum((1, 2)).reshape(8, 4).sum(0)
    assert len(set(tokens)) == 4  # part i holds the rows i, i + 4, …
    assert_same_step(PARTS, mesh)


def test_adding_up_the_weights_costs_no_forward_pass():
    # A scan's body is counted once: a quarter of the batch, forward and backward.
    flops = {name: built(name)[1].cost_analysis()["flops"] for name in ((), PARTS)}
    assert flops[PARTS] < 0.5 * flops[()]


def test_loss_is_a_mean_over_the_tokens_of_the_whole_batch():
    """Against plain numpy on the initial parameters."""
    batch = images()
    before, _, numbers = one_step(batch)
    params = before.params
    mask = batch["region_mask"].reshape(32, -1, toy.config().batch.mask_size ** 2) / 255
    image = np.repeat((batch["image"] / 255).mean((1, 2))[:, None], mask.shape[1], 1)
    seen = np.concatenate([image, mask], -1)
    hidden = np.tanh(seen @ params["tower"]["kernel"] + params["tower"]["bias"])
    logits = hidden @ params["words"]["kernel"]
    logits -= np.log(np.exp(logits).sum(-1, keepdims=True))
    nll = -np.take_along_axis(logits, batch["target"], -1)
    caption = (nll * batch["target_weight"]).sum() / batch["target_weight"].sum()
    boxed = batch["target_box"].any(-1)
    miss = ((hidden @ params["box"]["kernel"] - batch["target_box"]) ** 2).sum(-1)
    grounding = miss[boxed].mean()
    assert numbers["loss/caption"] == pytest.approx(caption, rel=1e-5)
    assert numbers["loss/grounding"] == pytest.approx(grounding, rel=1e-5)
    assert numbers["loss"] == pytest.approx(caption + 0.5 * grounding, rel=1e-5)
    assert numbers["regions"] == (batch["target_weight"].sum(-1) > 0).sum()
    assert (numbers["first_example"], numbers["last_example"]) == (0, 31)


def test_frozen_parameters_stay_bit_for_bit_and_cost_no_gradient():
    changes = (("optim.frozen", (("^params/tower/", True), (".*", False))),)
    before, after, _ = one_step(changes=changes)
    for name in ("kernel", "bias"):
        assert (after.params["tower"][name] == before.params["tower"][name]).all()
    assert (after.params["words"]["kernel"] != before.params["words"]["kernel"]).any()
    assert not [path for path in flatten(after.opt_state) if "tower" in path]
    flops = {name: built(name)[1].cost_analysis()["flops"] for name in ((), changes)}
    assert flops[changes] < 0.9 * flops[()]


def test_update_that_is_not_finite_is_left_out():
    batch = images()
    batch["target_box"][3] = np.nan
    before, after, numbers = one_step(batch)
    assert not np.isfinite(numbers["loss"])
    assert (numbers["skipped"], numbers["skipped_in_row"], after.step) == (1, 1, 1)
    for part in ("params", "state", "opt_state"):
        old, new = flatten(getattr(before, part)), flatten(getattr(after, part))
        assert all((old[path] == new[path]).all() for path in old)


def test_batch_without_any_location_target_is_finite():
    batch = images()
    batch["target_box"][:] = 0
    _, _, numbers = one_step(batch)
    assert numbers["loss/grounding"] == 0
    assert np.isfinite(numbers["gradient_norm"])


def test_run_leaves_its_numbers_behind(tmp_path):
    toy.run(tmp_path / "run", **{"train.log_every": 2, "train.steps": 5, "losses.grounding": 0.0})
    entries = metrics.read(tmp_path / "run")
    assert [entry["step"] for entry in entries] == [2, 4, 5]
    assert entries[0]["loss"] == entries[0]["loss/caption"]
    assert entries[-1]["regions_per_second"] > 0
    assert "mfu" not in entries[-1]  # what this processor could do is not known
    assert list((tmp_path / "run" / "tensorboard").iterdir())
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "params/words/kernel" in log
    assert json.loads((tmp_path / "run" / "config.json").read_text())["seed"] == 7


class Slow:
    """In place of a lowered step: compiles when the input is being prepared, or not at all."""

    preparing, compiled = threading.Event(), threading.Event()

    def __init__(self, lowered):
        self.lowered = lowered

    def compile(self):
        assert self.preparing.wait(60)
        self.compiled.set()
        return self.lowered.compile()


def test_the_step_is_compiled_while_the_input_is_prepared(tmp_path, monkeypatch):
    lower = train.lower_train_step
    monkeypatch.setattr(train, "lower_train_step", lambda *given: Slow(lower(*given)))

    def open_input(*given, **named):
        Slow.preparing.set()
        assert Slow.compiled.wait(60)  # in this order, or never
        return toy.open_input(*given, **named)

    config = toy.config(**{"train.steps": 1})
    train.train(config, tmp_path / "run", build_system=toy.build_system, open_input=open_input)
    assert [entry["step"] for entry in metrics.read(tmp_path / "run")] == [1]


def test_whoever_fails_first_is_heard(tmp_path, monkeypatch):
    """An error of the input does not wait for the compiler, and one of the compiler is raised."""
    compiling, opened = threading.Event(), []

    class Failing:
        def compile(self):
            compiling.wait(60)
            raise MemoryError("no room for this program")

    monkeypatch.setattr(train, "lower_train_step", lambda *given: Failing())

    def no_input(*given, **named):
        raise DataError("no such folder")

    class Closing(toy.Input):
        def close(self):
            opened.remove(self)

    def open_input(data, spec, directory, *, seed, batch_size, vocabulary):
        opened.append(Closing(spec, seed, batch_size))
        compiling.set()
        return opened[-1]

    run = functools.partial(train.train, toy.config(), build_system=toy.build_system)
    with pytest.raises(DataError, match="no such folder"):
        run(tmp_path / "first", open_input=no_input)
    assert not compiling.is_set()
    with pytest.raises(MemoryError, match="no room for this program"):
        run(tmp_path / "second", open_input=open_input)
    assert not opened


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"train.batch_size": 18}, r"batch_size = 18 is not divisible by 4 .* use 16 or 20"),
        ({"mesh.data": 3}, "needs 12 devices, there are 8"),
        ({"losses": {"captoin": 1.0}}, "config.losses.captoin is no loss; did you mean `caption`"),
        ({"losses": {"caption": 1.0}}, "config.losses.grounding is missing"),
        ({"optim.learning_rate": -1.0}, "config.optim: learning_rate = -1.0, expected a positive"),
        ({"train.steps": 0}, "config.train: steps = 0, expected at least 1"),
    ],
)
def test_config_that_cannot_run_claims_no_folder(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        toy.run(tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()

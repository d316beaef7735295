"""A run that starts from other checkpoints: what is taken, what is not, and what must be said."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from regionjax import checkpoint, sharding, starting, step
from regionjax.batch import BatchSpec
from regionjax.config import ConfigError, build
from regionjax.mesh import MeshConfig, make_mesh
from regionjax.optim import OptimConfig, make_optimizer
from regionjax.tables import flatten

SPEC = build(BatchSpec, toy.config().batch, "config.batch")
SEEN = SPEC.mask_size**2 + 3  # inputs of the toy's tower


def array(*shape, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(1).normal(size=shape), dtype)


def save(folder, params, at=0):
    writer = checkpoint.Checkpoints(folder / "checkpoints")
    writer.save(at, {"params": params}, 0, {"step": at})
    writer.close()
    return params


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder of checkpoints and what is in them."""
    folder = tmp_path_factory.mktemp("saved")
    tower = {"kernel": array(SEEN, toy.WIDTH), "bias": array(toy.WIDTH)}
    shapes = {
        "tower": tower,
        "rounded": {"kernel": tower["kernel"].astype(jnp.bfloat16), "bias": tower["bias"]},
        "headed": {**tower, "head": {"kernel": array(3)}},
        "system": {"left": {"tower": tower}, "words": {"kernel": array(toy.WIDTH, 5)}},
        "fewer": {"kernel": array(100, toy.VOCABULARY)},
        "other": {"kernel": array(SEEN, 64), "bais": array(toy.WIDTH)},
    }
    return folder, {name: save(folder / name, params) for name, params in shapes.items()}


def began(sections, mesh=(1, 2, 2)):
    """{path: array} of a state that was begun so, and of one begun at random."""
    system = toy.build_system(toy.config(), SPEC)
    mesh = make_mesh(MeshConfig(*mesh), jax.devices()[: np.prod(mesh)])
    model = jax.eval_shape(lambda: step.init_model(system, 7, SPEC))
    optimizer = make_optimizer(OptimConfig(0.1), 10, model["params"])
    init = lambda: step.init_state(system, optimizer, 7, SPEC)  # noqa: E731
    shapes = jax.eval_shape(init)
    places, _ = sharding.state_shardings(shapes, system.sharding_rules, mesh)
    state = starting.begin(init, shapes, places, starting.plan(sections, shapes.params))
    assert jax.tree.structure(state) == jax.tree.structure(shapes)
    for path, leaf in flatten(state).items():
        assert leaf.sharding == flatten(places)[path], path
        assert (leaf.shape, leaf.dtype) == (
            flatten(shapes)[path].shape,
            flatten(shapes)[path].dtype,
        )
    return flatten(state), flatten(init())


def assert_changed(got, random, expected):
    """`expected` {path: array} is there; all else is as in a new run."""
    for path, leaf in random.items():
        np.testing.assert_array_equal(got[path], expected.get(path, leaf), err_msg=path)


@pytest.mark.parametrize("mesh", [(1, 1, 1), (1, 2, 2), (2, 2, 2)], ids=str)
def test_a_scope_comes_from_a_checkpoint_and_the_rest_is_new(saved, mesh):
    folder, params = saved
    got, random = began({"tower": {"path": str(folder / "tower")}}, mesh)
    assert_changed(got, random, {f"params/tower/{k}": v for k, v in params["tower"].items()})
    assert not np.array_equal(got["params/tower/kernel"], random["params/tower/kernel"])


def test_no_scope_is_a_new_run():
    got, random = began({})
    assert_changed(got, random, {})


def test_parts_patterns_and_dtypes(saved):
    folder, params = saved
    tower = {f"params/tower/{k}": v for k, v in params["tower"].items()}
    for section in (
        {"path": str(folder / "system"), "part": "left/tower"},
        {"path": str(folder / "headed"), "leave": ("^params/head/",)},
    ):
        assert_changed(*began({"tower": section}), tower)
    got, random = began({"tower": {"path": str(folder / "rounded")}})
    rounded = params["rounded"]["kernel"].astype(jnp.float32)
    assert_changed(got, random, tower | {"params/tower/kernel": rounded})
    got, random = began(
        {"tower": {"path": str(folder / "tower"), "fresh": ("bias$",), "leave": ("bias$",)}}
    )
    assert_changed(got, random, {"params/tower/kernel": tower["params/tower/kernel"]})


def test_a_longer_table_keeps_its_new_rows(saved):
    folder, params = saved
    old = np.asarray(params["fewer"]["kernel"])
    section = {"path": str(folder / "fewer"), "extend": ("words/kernel",)}
    got, random = began({"words": section})
    expected = np.concatenate([old, random["params/words/kernel"][100:]])
    assert_changed(got, random, {"params/words/kernel": expected})
    got, random = began({"words": {**section, "swap": (0, 99)}})
    expected[[0, 99]] = expected[[99, 0]]
    assert_changed(got, random, {"params/words/kernel": expected})


@pytest.mark.parametrize(
    "key, section, message",
    [
        ("towr", {"path": "tower"}, r"init_from.towr: this system has no .*mean `tower`"),
        ("tower", {"path": "nothing"}, "there is no checkpoint in .*nothing/checkpoints"),
        ("tower", {"path": "tower", "step": 3}, "there is no checkpoint 3 in"),
        ("tower", {"pth": "tower"}, "init_from.tower.pth is not a setting; did you mean `path`"),
        ("tower", {"path": "system", "part": "rigth"}, "has no parameters rigth/"),
        ("tower", {"path": "headed"}, r"not here: head/kernel.* \(or name it in `leave`\)"),
        ("tower", {"path": "tower", "leave": ("heads",)}, "leave: pattern 'heads' matches nothing"),
        ("tower", {"path": "tower", "fresh": ("bias",)}, r"not here: bias \(or .*`leave`"),
        ("tower", {"path": "tower", "leave": ("bias",)}, r"not there: bias \(or .*`fresh`"),
        ("tower", {"path": "tower", "fresh": ("(",)}, "fresh: '\\(' is no regular expression"),
        ("words", {"path": "fewer"}, r"kernel is \[100, 16\], here \[128, 16\] \(see `extend`"),
        ("words", {"path": "fewer", "swap": (0, 1)}, "swap needs extend"),
        ("words", {"path": "fewer", "extend": (".",), "swap": (0, 100)}, "kernel has 100 rows"),
    ],
)
def test_mistakes_are_named(saved, key, section, message):
    if "path" in section:
        section = {**section, "path": str(saved[0] / section["path"])}
    with pytest.raises(ConfigError, match=message):
        began({key: section})


def test_all_differences_are_told_at_once(saved):
    with pytest.raises(ConfigError) as caught:
        began({"tower": {"path": str(saved[0] / "other")}})
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("config.init_from.tower: ") and lines[0].endswith("does not fit")
    assert f"  shape: kernel is [{SEEN}, 64], here [{SEEN}, {toy.WIDTH}]" in lines
    assert "  not there: bias; did you mean `bais`? (or name it in `fresh`)" in lines
    assert "  not here: bais; did you mean `bias`? (or name it in `leave`)" in lines


def test_two_scopes_may_not_claim_one_parameter(saved):
    sections = {
        "tower": {"path": str(saved[0] / "tower")},
        "all": {"path": str(saved[0] / "tower"), "fresh": ("words", "box"), "leave": (".",)},
    }
    with pytest.raises(ConfigError, match="init_from.all"):
        began(sections)


def test_the_second_stage_starts_from_the_first_and_needs_it_no_more(tmp_path):
    first = tmp_path / "first"
    toy.run(first, **{"train.steps": 3})
    frozen = (("^params/tower/", True), (".*", False))
    second = {
        "init_from": {"all": {"path": str(first)}},
        "optim.frozen": frozen,
        "train.steps": 3,
    }
    toy.run(tmp_path / "second", **second)
    params = [
        checkpoint.params_in(tmp_path / name / "checkpoints", 3) for name in ("first", "second")
    ]
    assert params[0].keys() == params[1].keys()
    wanted = {"tower": {"kernel": checkpoint.OnHost((SEEN, toy.WIDTH), np.dtype(np.float32))}}
    towers = [
        checkpoint.load_some_params(tmp_path / name / "checkpoints", 3, wanted)["tower"]["kernel"]
        for name in ("first", "second")
    ]
    np.testing.assert_array_equal(*towers)  # frozen in the second
    log = (tmp_path / "second/log.txt").read_text()
    assert f"parameters in 4 arrays from {first}, step 3" in log
    shutil.rmtree(first)
    toy.run(tmp_path / "second", **second | {"train.steps": 6})
    assert checkpoint.latest_step(tmp_path / "second/checkpoints") == 6

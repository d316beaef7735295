"""regionvlm: what is trained, what regions share, what they must not see of each other."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from regionjax import lora, tables
from regionjax.batch import BatchSpec
from regionjax.config import ConfigError
from regionjax.decode import GenerationConfig
from regionjax.mesh import MeshConfig, make_mesh
from regionjax.models.trajectory import COMPACT
from regionjax.optim import OptimConfig, make_optimizer
from regionjax.sharding import state_shardings
from regionjax.step import init_state, make_train_step
from regionjax.systems import regionvlm, system

SPEC = BatchSpec(
    image_size=16,
    mask_size=4,
    regions=8,
    points=3,
    prompt_length=4,
    target_length=6,
    text_length=9,
)
VOCABULARY, EOS = 24, 1
MODEL = {
    "vit": {
        "image_size": 16,
        "patch_size": 4,
        "width": 16,
        "depth": 2,
        "heads": 2,
        "mlp_width": 32,
        "class_token": True,
    },
    "qformer": {
        "width": 24,
        "depth": 4,
        "heads": 3,
        "mlp_width": 40,
        "vocabulary": COMPACT,
        "positions": 20,
        "queries": 3,
        "cross_every": 2,
        "encoder_width": 16,
        "dropout": 0.0,
    },
    "t5": {
        "vocabulary": VOCABULARY,
        "width": 20,
        "depth": 2,
        "decoder_depth": 2,
        "heads": 2,
        "head_width": 8,
        "mlp_width": 30,
    },
}


def build(spec=SPEC, lora=None, **changes):
    model = ConfigDict(MODEL)
    model.update(changes)
    config = {"system": "regionvlm", "model": model} | ({"lora": lora} if lora else {})
    return system.build(ConfigDict(config), spec)


def make_batch(spec=SPEC, batch_size=2, seed=0):
    """Ragged prompts and targets, random points; slot 1 of each image is the whole image."""
    rng = np.random.default_rng(seed)
    batch = spec.zeros(batch_size)
    batch["image"][:] = rng.integers(0, 256, batch["image"].shape)
    batch["region_mask"][:] = rng.integers(0, 255, batch["region_mask"].shape)
    batch["region_points"][:] = rng.random(batch["region_points"].shape)
    batch["region_box"][:] = (0.1, 0.2, 0.7, 0.8)
    for b in range(batch_size):
        for r in range(spec.regions):
            prompt, target = (3 * b + r) % (spec.prompt_length + 1), rng.integers(2, 6)
            batch["prompt"][b, r, :prompt] = rng.integers(3, VOCABULARY, prompt)
            batch["target"][b, r, :target] = [*rng.integers(3, VOCABULARY, target - 1), EOS]
            batch["target_weight"][b, r, :target] = 1
    batch["region_box"][:, 1], batch["region_mask"][:, 1] = (0, 0, 1, 1), 255
    return batch


def one_by_one(batch):
    """The same questions, one region an image: [B·R, 1, …]."""
    per_region = [n for n in batch if n.startswith(("region_", "prompt", "target"))]
    regions = batch["prompt"].shape[1]
    out = {n: np.repeat(v, regions, axis=0) for n, v in batch.items() if n not in per_region}
    return out | {n: batch[n].reshape(-1, 1, *batch[n].shape[2:]) for n in per_region}


def parameters(built, seed=0):
    """Random ones, in which no bias is 0 and no norm 1; to initialise takes seconds to compile."""
    shapes, state = jax.eval_shape(built.init, jax.random.key(0), SPEC.zeros(1))
    assert state == {}
    rng = np.random.default_rng(seed)

    def value(path, x):
        normal = rng.normal(size=x.shape)
        if path[-1].key == "scale":
            return np.float32(1 + 0.1 * normal)
        return np.float32(0.1 * normal)

    return jax.tree_util.tree_map_with_path(value, shapes)


@pytest.fixture(scope="module")
def model():
    """System and parameters."""
    built = build()
    return built, parameters(built)


def gradient_of(built, spec=SPEC):
    def loss(params, batch):
        [(total, weight)] = built.losses(params, {}, batch, jax.random.key(0), True)[0].values()
        return total / weight

    return jax.jit(jax.value_and_grad(loss))


def close(a, b, relative=1e-4):
    """Each array relative to its largest value; below 1e-7 of the largest of all it is rounding.

    So is the gradient of a key's bias, which no softmax feels.
    """
    noise = 1e-7 * max(np.abs(y).max() for y in jax.tree.leaves(b))

    def same(x, y):
        np.testing.assert_allclose(x, y, rtol=0, atol=relative * np.abs(y).max() + noise)

    jax.tree.map(same, a, b)


def test_eight_regions_of_an_image_equal_eight_runs(model):
    built, params = model
    batch, alone = make_batch(), build(dataclasses.replace(SPEC, regions=1))
    apart = one_by_one(batch)
    nll = jax.jit(built.predict["caption_nll"])(params, batch)
    separate = jax.jit(alone.predict["caption_nll"])(params, apart)
    assert nll.shape == (2, 8) and np.ptp(nll) > 0.01
    close(np.asarray(nll).reshape(-1, 1), np.asarray(separate))
    (loss, gradients), (again, summed) = (
        gradient_of(one)(params, of) for one, of in ((built, batch), (alone, apart))
    )
    np.testing.assert_allclose(loss, again, rtol=1e-6)
    close(gradients, summed, 2e-5)
    vectors = jax.jit(built.predict["embed"])(params, batch)
    assert vectors.shape == (2, 8, 20)
    close(vectors.reshape(16, 1, 20), jax.jit(alone.predict["embed"])(params, apart))


def test_the_image_is_encoded_once_and_its_keys_made_once(model):
    """By the compiler's count of a training step: R regions cost R times the rest and no more."""
    unrolled = {
        "vit": {"depth": 1},
        "qformer": {"depth": 2, "encoder_width": 16},
        "t5": {"depth": 1, "decoder_depth": 1},
    }
    # Many patches, so that keys made for each region would stand out.
    spec = dataclasses.replace(SPEC, image_size=64)
    unrolled["vit"] |= {"image_size": 64, "mlp_width": 16}

    def counted(regions):
        of = dataclasses.replace(spec, regions=regions)
        built = build(of, **unrolled)
        params, _ = jax.eval_shape(built.init, jax.random.key(0), of.zeros(1))
        optimizer = make_optimizer(OptimConfig(1e-3, frozen=regionvlm.FROZEN), 10, params)
        trained, frozen = optimizer.split(params)

        def loss(trained, frozen, batch):
            all_ = optimizer.merge(trained, frozen)
            return built.losses(all_, {}, batch, jax.random.key(0), True)[0]["caption"][0]

        cost = jax.jit(jax.grad(loss)).lower(trained, frozen, of.zeros(1)).cost_analysis()
        ours = sum(built.flops().training(params, optimizer.frozen).values())
        return cost["flops"], ours

    found = {regions: counted(regions) for regions in (1, 4)}
    for theirs, ours in found.values():  # norms, softmax and the like are not products
        assert 0.98 * ours < theirs < 1.25 * ours
    more, by_count = (found[4][i] - found[1][i] for i in (0, 1))
    assert more < 1.25 * by_count


def test_a_region_sees_nothing_of_the_others(model):
    built, params = model
    batch, other = make_batch(), make_batch(seed=7)
    changed = {n: v.copy() for n, v in batch.items()}
    for name in ("prompt", "target", "region_mask", "region_box", "region_points"):
        changed[name][:, 1:] = other[name][:, 1:]
    nll = jax.jit(built.predict["caption_nll"])
    np.testing.assert_array_equal(nll(params, batch)[:, 0], nll(params, changed)[:, 0])


def test_points_are_all_that_is_seen_of_a_region(model):
    built, params = model
    batch = make_batch()
    nll = jax.jit(built.predict["caption_nll"])
    before = np.asarray(nll(params, batch))
    moved = dict(batch, region_points=np.float32(1 - batch["region_points"]))
    after = np.asarray(nll(params, moved))
    whole = np.arange(8) == 1
    assert (before != after)[:, ~whole].all()
    np.testing.assert_array_equal(before[:, whole], after[:, whole])
    painted = dict(batch, region_mask=batch["region_mask"] // 2)
    painted["region_mask"][:, 1] = 255
    np.testing.assert_array_equal(before, nll(params, painted))


def test_only_the_whole_image_is_the_whole_image():
    batch = make_batch()
    np.testing.assert_array_equal(regionvlm.is_whole(batch), np.arange(8)[None].repeat(2, 0) == 1)
    batch["region_box"][:, 2] = (0, 0, 1, 1)  # a frame, or a trace through all corners
    assert not regionvlm.is_whole(batch)[:, 2].any()


def test_prompts_end_with_eos():
    prompt = np.array([[[5, 6, 7], [5, 0, 0], [0, 0, 0]]], np.int32)
    expected = [[[5, 6, 7, 1], [5, 1, 0, 0], [1, 0, 0, 0]]]
    np.testing.assert_array_equal(regionvlm.ended(prompt, 1), expected)


def test_prompt_padding_changes_nothing(model):
    built, params = model
    batch = make_batch()
    wide = dict(batch, prompt=np.pad(batch["prompt"], [(0, 0), (0, 0), (0, 5)]))
    nll = jax.jit(built.predict["caption_nll"])
    close(nll(params, batch), nll(params, wide))


def test_generation_says_what_scoring_finds_likeliest(model):
    built, params = model
    batch = make_batch()
    config = GenerationConfig(max_new_tokens=4)
    generate = jax.jit(built.predict["generate"], static_argnames=("eos_id", "config"))
    said = np.asarray(generate(params, batch, jax.random.key(0), eos_id=EOS, config=config))
    nll = jax.jit(built.predict["caption_nll"])
    for step in range(4):
        running = ~(said[..., :step] == EOS).any(-1)
        trial = dict(batch, target=np.zeros_like(batch["target"]))
        trial["target"][..., :step] = said[..., :step]
        trial["target_weight"] = np.zeros_like(batch["target_weight"])
        trial["target_weight"][..., step] = 1
        scores = []
        for token in range(VOCABULARY):
            trial["target"][..., step] = token
            scores.append(np.asarray(nll(params, trial)))
        np.testing.assert_array_equal(np.argmin(scores, 0)[running], said[..., step][running])
        assert (said[..., step][~running] == 0).all()


@pytest.mark.parametrize("microbatches", [1, 2])
def test_frozen_towers_stay_as_they_are_and_have_no_slots(microbatches):
    built = build(qformer={"dropout": 0.1})
    mesh = make_mesh(MeshConfig(data=1, fsdp=1, tensor=1), jax.devices()[:1])
    shapes, _ = jax.eval_shape(built.init, jax.random.key(0), SPEC.zeros(1))
    optimizer = make_optimizer(OptimConfig(1e-2, frozen=regionvlm.FROZEN), 4, shapes)
    state = jax.jit(lambda: init_state(built, optimizer, 0, SPEC))()
    places, _ = state_shardings(jax.eval_shape(lambda: state), built.sharding_rules, mesh)
    step = jax.jit(
        make_train_step(
            built,
            optimizer,
            {"caption": 1.0},
            seed=0,
            microbatches=microbatches,
            shardings=places,
        )
    )
    before = tables.flatten(jax.tree.map(np.array, state.params), "params")
    with jax.set_mesh(mesh):
        for seed in range(3):
            state, metrics = step(state, make_batch(seed=seed))
            assert np.isfinite(metrics["loss"]) and metrics["skipped"] == 0
    after = tables.flatten(state.params, "params")
    moved = {path for path in before if not np.array_equal(before[path], after[path])}
    expected = {
        path
        for path in before
        if path.startswith(("params/qformer/", "params/projection/", "params/vit/norm/"))
    }
    assert "params/qformer/query_tokens" in expected and moved <= expected
    # Of what is trained nothing stays, but for the text's MLP after the last look at the image …
    still = expected - moved
    assert all("/mlp" in path or "bias" in path for path in still), still
    count = lambda tree: sum(x.size for x in jax.tree.leaves(tree))  # noqa: E731
    trained = sum(before[path].size for path in expected)
    slots = optax.tree.get(state.opt_state, "mu"), optax.tree.get(state.opt_state, "nu")
    assert [count(tree) for tree in slots] == [trained, trained]


def test_dropout_is_for_training_alone(model):
    _, params = model
    built, batch = build(qformer={"dropout": 0.3}), make_batch()
    loss = jax.jit(built.losses, static_argnums=4)
    value = lambda seed, train: float(  # noqa: E731
        loss(params, {}, batch, jax.random.key(seed), train)[0]["caption"][0]
    )
    assert value(0, True) != value(1, True)
    assert value(0, True) == value(0, True)
    assert value(0, False) == value(1, False)


def test_adapters_instead_of_a_frozen_t5():
    ranks = (("t5/.*/(query|value)/", 2), (".*", 0))
    built = build(lora={"ranks": ranks, "alpha": 4.0})
    params = parameters(built)
    frozen = (("^params/lora/", False), *regionvlm.FROZEN)
    optimizer = make_optimizer(OptimConfig(1e-3, frozen=frozen), 4, params)
    trained = tables.flatten(optimizer.split(params)[0])
    assert any(path.startswith("lora/t5/decoder/") for path in trained)
    assert not any(path.startswith(("t5/", "vit/layers")) for path in trained)
    _, gradients = gradient_of(built)(params, make_batch())
    assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(gradients["lora"]))


def test_adapters_of_the_q_former_count_in_all_its_layers():
    """Merged into the kernels they say the same, and both layers have their share of it."""
    built = build(lora={"ranks": (("qformer/.*/(query|value)/", 2), (".*", 0)), "alpha": 4.0})
    params, batch = parameters(built), make_batch()
    got = jax.jit(built.predict["caption_nll"])(params, batch)
    score = jax.jit(build().predict["caption_nll"])
    close(got, score(lora.merge(params, 4.0), batch))
    adapters = jax.tree.map(jnp.array, params["lora"])
    for silenced in (slice(0, 1), slice(1, 2)):
        fewer = jax.tree.map(lambda x, which=silenced: x.at[which].set(0), adapters)
        other = score(lora.merge(params | {"lora": fewer}, 4.0), batch)
        assert np.abs(other - got).max() > 1e-4


def test_bfloat16_and_slices_of_the_vocabulary_stay_near(model):
    built, params = model
    batch = make_batch()
    full = jax.jit(built.predict["caption_nll"])(params, batch)
    sliced = jax.jit(build(vocabulary_chunks=3).predict["caption_nll"])(params, batch)
    close(sliced, full)
    near = jax.jit(build(dtype="bfloat16").predict["caption_nll"])(params, batch)
    assert near.dtype == jnp.float32
    np.testing.assert_allclose(near, full, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vit": {"image_size": 32}}, "image_size = 32.*image_size = 16"),
        ({"qformer": {"vocabulary": 0}}, "has id 105, but config.model.qformer.vocabulary = 0"),
        ({"qformer": {"positions": 13}}, "points = 3 make 14 word pieces.*positions = 13"),
        ({"max_point_tokens": 5}, "max_point_tokens = 5 has no room for a point"),
        ({"max_point_tokens": 21}, "make 21 word pieces"),
        ({"eos_id": 24}, "eos_id = 24 is no word"),
        ({"words": {"begin": 200}}, "has id 200"),
        ({"t5": {"dephth": 1}}, "did you mean `depth`"),
    ],
)
def test_model_and_batch_that_disagree_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        build(**changes)


def test_several_texts_of_a_region_are_scored_as_each_alone(model):
    """Three texts a slot, of which one is empty in half of them, and room for 5 tokens of 6."""
    built, params = model
    batches = [make_batch(seed=seed) for seed in range(3)]
    batches[2]["target"][:, ::2] = batches[2]["target_weight"][:, ::2] = 0
    texts = {n: np.stack([b[n] for b in batches], axis=2) for n in ("target", "target_weight")}
    assert not texts["target"][..., 5:].any()
    shown = {n: v for n, v in batches[0].items() if n not in texts}
    nll = jax.jit(built.predict["caption_nll"])
    found = nll(params, shown | {n: value[..., :5] for n, value in texts.items()})
    alone = [nll(params, shown | {n: b[n] for n in texts}) for b in batches]
    close(found, np.stack(alone, axis=2))
    assert found.shape == (2, 8, 3) and not found[:, ::2, 2].any() and np.ptp(found[0, 1]) > 1e-3


def test_room_behind_prompts_changes_nothing(model):
    built, params = model
    batch = make_batch()
    roomy = batch | {"prompt": np.pad(batch["prompt"], ((0, 0), (0, 0), (0, 5)))}
    nll = jax.jit(built.predict["caption_nll"])
    close(nll(params, roomy), nll(params, batch))
    beams = GenerationConfig(method="beam", beams=2, max_new_tokens=4)
    generate = jax.jit(built.predict["generate"], static_argnames=("eos_id", "config"))
    said = [
        generate(params, one, jax.random.key(0), eos_id=EOS, config=beams) for one in (roomy, batch)
    ]
    np.testing.assert_array_equal(*said)


def test_truncation_to_fewer_pieces_is_a_setting(model):
    built, params = model
    batch = make_batch()
    short = build(max_point_tokens=10)  # two points of three
    nll = jax.jit(short.predict["caption_nll"])
    moved = dict(batch, region_points=batch["region_points"].copy())
    moved["region_points"][:, :, 2] = 0.5
    np.testing.assert_array_equal(nll(params, batch), nll(params, moved))
    whole = jax.jit(built.predict["caption_nll"])
    assert (np.asarray(whole(params, batch)) != np.asarray(whole(params, moved))).any()

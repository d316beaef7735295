"""regionlm: packing, caching, weighting, and what must not leak."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from regionjax.batch import BatchSpec
from regionjax.config import ConfigError
from regionjax.decode import GenerationConfig
from regionjax.systems import system

SPEC = BatchSpec(
    image_size=16,
    mask_size=16,
    regions=3,
    points=4,
    prompt_length=4,
    target_length=6,
    text_length=9,
)
EOS = 2
MODEL = {
    "vit": {
        "image_size": 16,
        "patch_size": 4,
        "width": 16,
        "depth": 2,
        "heads": 2,
        "mlp_width": 32,
    },
    "region": {"cells": 2, "prompt_tokens": 2, "silhouette": 4},
    "decoder": {
        "vocabulary": 24,
        "width": 16,
        "depth": 2,
        "heads": 4,
        "kv_heads": 2,
        "head_width": 4,
        "mlp_width": 32,
    },
}


def build(spec=SPEC, **changes):
    model = ConfigDict(MODEL)
    model.update(changes)
    built = system.build(ConfigDict({"system": "regionlm", "model": model}), spec)
    predict = {name: jax.jit(f) for name, f in built.predict.items()}
    predict["generate"] = jax.jit(built.predict["generate"], static_argnames=("eos_id", "config"))
    return dataclasses.replace(
        built, predict=predict, losses=jax.jit(built.losses, static_argnames="train")
    )


def make_batch(spec=SPEC, batch_size=2, seed=0):
    """Ragged prompts and targets, random regions; slot 1 of each image is a grounding slot."""
    rng = np.random.default_rng(seed)
    batch = spec.zeros(batch_size)
    batch["image"][:] = rng.integers(0, 256, batch["image"].shape)
    batch["region_mask"][:] = rng.integers(0, 256, batch["region_mask"].shape)
    corners = np.sort(rng.random((batch_size, spec.regions, 2, 2), np.float32), axis=2)
    batch["region_box"][:] = corners.reshape(batch_size, spec.regions, 4)
    batch["region_points"][:] = rng.random(batch["region_points"].shape)
    for b in range(batch_size):
        for r in range(spec.regions):
            prompt, target = (3 * b + 2 * r) % (spec.prompt_length + 1), rng.integers(2, 6)
            batch["prompt"][b, r, :prompt] = rng.integers(3, 24, prompt)
            batch["target"][b, r, :target] = [*rng.integers(3, 24, target - 1), EOS]
            batch["target_weight"][b, r, :target] = 1
    batch["target_box"][:, 1] = [0.1, 0.2, 0.6, 0.9]
    return batch


@pytest.fixture(scope="module")
def trained():
    """The system and parameters moved off their small initial values."""
    regionlm = build()
    params, _ = jax.jit(regionlm.init)(jax.random.key(0), SPEC.zeros(1))
    rng = np.random.default_rng(0)
    return regionlm, jax.tree.map(lambda x: np.float32(x + 0.2 * rng.normal(size=x.shape)), params)


def split_regions(batch):
    """The same questions, one region an image: [B·R, 1, …]."""
    names = [n for n in batch if n.startswith(("region_", "prompt", "target"))]
    regions = batch["prompt"].shape[1]
    out = {n: np.repeat(v, regions, axis=0) for n, v in batch.items() if n not in names}
    for n in names:
        out[n] = batch[n].reshape(-1, 1, *batch[n].shape[2:])
    return out


def test_packed_regions_equal_separate_runs(trained):
    regionlm, params = trained
    batch = make_batch()
    alone = build(dataclasses.replace(SPEC, regions=1))
    nll = regionlm.predict["caption_nll"](params, batch)
    separate = alone.predict["caption_nll"](params, split_regions(batch))
    np.testing.assert_allclose(nll.reshape(-1, 1), separate, atol=1e-5)
    # Evaluation may put more or fewer regions into a row than training did.
    fewer = regionlm.predict["caption_nll"](params, split_regions(batch))
    np.testing.assert_array_equal(fewer, separate)
    heat = regionlm.predict["heatmap"](params, batch)
    one = alone.predict["heatmap"](params, split_regions(batch))
    np.testing.assert_allclose(heat.reshape(one.shape), one, atol=1e-6)


def test_several_texts_of_a_region_are_scored_as_each_alone(trained):
    """Two texts a slot, and no more room than they need."""
    regionlm, params = trained
    shown, other = make_batch(), make_batch(seed=7)
    texts = {n: np.stack([shown[n], other[n]], axis=2) for n in ("target", "target_weight")}
    needed = 1 + np.flatnonzero(texts["target"].any((0, 1, 2))).max()
    assert needed < SPEC.target_length
    found = regionlm.predict["caption_nll"](
        params, shown | {n: value[..., :needed] for n, value in texts.items()}
    )
    first = regionlm.predict["caption_nll"](params, shown)
    second = regionlm.predict["caption_nll"](params, shown | {n: other[n] for n in texts})
    np.testing.assert_allclose(found, np.stack([first, second], axis=2), atol=1e-5)
    assert np.abs(first - second).max() > 1e-2


def test_room_behind_prompts_changes_nothing(trained):
    """Nor does the lack of it: these need one token less than there may be."""
    regionlm, params = trained
    batch = make_batch()
    batch["prompt"][:, :, -1:] = 0
    less = batch | {"prompt": batch["prompt"][:, :, :-1], "target": batch["target"][:, :, :-1]}
    less["target_weight"] = batch["target_weight"][:, :, :-1]
    assert not batch["target"][:, :, -1].any()
    for name in ("caption_nll", "heatmap"):
        found = [np.asarray(regionlm.predict[name](params, one)) for one in (less, batch)]
        np.testing.assert_allclose(*found, rtol=1e-4, atol=1e-6)
    config = GenerationConfig(max_new_tokens=3)
    said = [
        regionlm.predict["generate"](params, one, jax.random.key(0), eos_id=EOS, config=config)
        for one in (less, batch)
    ]
    np.testing.assert_array_equal(*said)


def test_a_region_sees_nothing_of_the_others(trained):
    regionlm, params = trained
    batch, other = make_batch(), make_batch(seed=7)
    changed = {n: v.copy() for n, v in batch.items()}
    for name in ("prompt", "target", "region_mask", "region_box", "region_points"):
        changed[name][:, 1:] = other[name][:, 1:]
    before = regionlm.predict["caption_nll"](params, batch)[:, 0]
    after = regionlm.predict["caption_nll"](params, changed)[:, 0]
    np.testing.assert_array_equal(before, after)


def next_token_nll(regionlm, params, batch, prefix):
    """Scores every token of the vocabulary after `prefix` by the uncached pass: [V, B, R]."""
    length, scores = prefix.shape[-1], []
    for token in range(24):
        trial = {n: v.copy() for n, v in batch.items()}
        trial["target"][:] = 0
        trial["target"][..., :length] = prefix
        trial["target"][..., length] = token
        trial["target_weight"][:] = 0
        trial["target_weight"][..., length] = 1
        scores.append(np.asarray(regionlm.predict["caption_nll"](params, trial)))
    return np.stack(scores)


def test_cached_greedy_decoding_equals_the_full_forward_pass(trained):
    regionlm, params = trained
    batch = make_batch()  # ragged prompts, one of them empty
    assert {0, 4} <= set((batch["prompt"] > 0).sum(-1).ravel().tolist())
    config = GenerationConfig(max_new_tokens=5)
    tokens = np.asarray(
        regionlm.predict["generate"](params, batch, jax.random.key(0), eos_id=EOS, config=config)
    )
    for step in range(5):
        nll = next_token_nll(regionlm, params, batch, tokens[..., :step])
        running = ~(tokens[..., :step] == EOS).any(-1)
        np.testing.assert_array_equal(nll.argmin(0)[running], tokens[..., step][running])
        assert (tokens[..., step][~running] == 0).all()


def test_prompt_padding_changes_nothing(trained):
    regionlm, params = trained
    batch = make_batch()
    wide_spec = dataclasses.replace(SPEC, prompt_length=9, text_length=15)
    wide = {n: v.copy() for n, v in batch.items()}
    wide["prompt"] = np.pad(batch["prompt"], [(0, 0), (0, 0), (0, 5)])
    np.testing.assert_allclose(
        regionlm.predict["caption_nll"](params, batch),
        build(wide_spec).predict["caption_nll"](params, wide),
        atol=1e-5,
    )


def test_losses_split_by_target_box_and_weigh_as_counted(trained):
    regionlm, params = trained
    batch = make_batch()
    terms, state, _ = regionlm.losses(params, {}, batch, jax.random.key(0), False)
    assert set(terms) == set(regionlm.loss_names)
    assert state == {}
    weight = batch["target_weight"]
    assert terms["grounding"][1] == weight[:, 1].sum()
    assert terms["caption"][1] == weight.sum() - weight[:, 1].sum()
    assert terms["pointing"][1] == 2
    nll = regionlm.predict["caption_nll"](params, batch)
    np.testing.assert_allclose(terms["grounding"][0], (nll * weight.sum(-1))[:, 1].sum(), rtol=1e-5)


def test_unused_slots_have_no_gradient_and_no_nan(trained):
    regionlm, params = trained
    batch = make_batch()
    for name in ("prompt", "target", "target_weight", "region_mask", "region_box", "target_box"):
        batch[name][:, 2] = 0

    def total(params, batch):
        terms, _, _ = regionlm.losses(params, {}, batch, jax.random.key(0), True)
        return sum(s for s, _ in terms.values())

    gradient = jax.jit(jax.grad(total))
    grads = gradient(params, batch)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
    batch["region_points"][:, 2] = 0.7
    again = gradient(params, batch)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), grads, again)


def test_vocabulary_chunks_and_remat_change_nothing(trained):
    regionlm, params = trained
    batch = make_batch()
    decoder = dict(MODEL["decoder"], remat="full", unroll=2)
    other = build(decoder=decoder, vocabulary_chunks=3)

    def total(system):
        return lambda p: system.losses(p, {}, batch, jax.random.key(0), True)[0]["caption"][0]

    a, b = (jax.jit(jax.value_and_grad(total(s)))(params) for s in (regionlm, other))
    np.testing.assert_allclose(a[0], b[0], rtol=1e-6)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-4), a[1], b[1])


def test_bfloat16_stays_near_float32(trained):
    regionlm, params = trained
    batch = make_batch()
    half = build(dtype="bfloat16")
    full = regionlm.predict["caption_nll"](params, batch)
    near = half.predict["caption_nll"](params, batch)
    assert near.dtype == jnp.float32
    np.testing.assert_allclose(full, near, rtol=0.1, atol=0.1)


def test_a_public_tower_reads_images_of_another_size():
    """Its class token is no patch, its positions follow the image; only patches become tokens."""
    tower = dict(MODEL["vit"], image_size=8, class_token=True, interpolation="bicubic")
    regionlm = build(vit=tower)
    params, _ = jax.jit(regionlm.init)(jax.random.key(0), SPEC.zeros(1))
    assert params["vit"]["position_embedding"].shape == (1 + 2 * 2, 16)
    batch = make_batch()
    assert regionlm.predict["heatmap"](params, batch).shape == (2, 3, 8, 8)
    terms, _, _ = regionlm.losses(params, {}, batch, jax.random.key(0), True)
    assert all(np.isfinite(total) for total, _ in terms.values())
    assert regionlm.flops().tokens["image"] == 16


def test_model_and_batch_that_disagree_are_refused():
    with pytest.raises(ConfigError, match="image_size = 18 is not a multiple of .*patch_size = 4"):
        build(
            dataclasses.replace(SPEC, image_size=18),
            vit=dict(MODEL["vit"], interpolation="bicubic"),
        )
    with pytest.raises(ConfigError, match="image_size = 16.*image_size = 32"):
        build(dataclasses.replace(SPEC, image_size=32))
    with pytest.raises(ConfigError, match="did you mean `depth`"):
        build(vit=dict(MODEL["vit"], dephth=3))
    with pytest.raises(ConfigError, match="kv_heads 3 does not divide heads 4"):
        build(decoder=dict(MODEL["decoder"], kv_heads=3))

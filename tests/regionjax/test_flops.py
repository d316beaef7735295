"""Our FLOPs against the compiler's count of an unrolled forward pass, and against sums by hand."""

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from regionjax import flops, tables
from regionjax.batch import BatchSpec
from regionjax.flops import Part, Work
from regionjax.optim import OptimConfig, make_optimizer
from regionjax.systems import regionvlm, system

SPEC = BatchSpec(
    image_size=32,
    mask_size=8,
    regions=3,
    points=2,
    prompt_length=4,
    target_length=8,
    text_length=12,
)
# Wide for its length, so that products outweigh everything that is not one.
MODEL = {
    "vit": {
        "image_size": 32,
        "patch_size": 8,
        "width": 256,
        "depth": 2,
        "heads": 4,
        "mlp_width": 512,
        "unroll": 2,
        "stem_width": 16,
        "patch_border": 1,
    },
    "region": {"cells": 2, "prompt_tokens": 2, "silhouette": 4},
    "decoder": {
        "vocabulary": 1000,
        "width": 256,
        "depth": 3,
        "heads": 4,
        "kv_heads": 2,
        "head_width": 64,
        "mlp_width": 512,
        "unroll": 3,
    },
}
VLM = {
    "vit": {
        "image_size": 32,
        "patch_size": 8,
        "width": 64,
        "depth": 1,
        "heads": 2,
        "mlp_width": 96,
        "class_token": True,
    },
    "qformer": {
        "width": 48,
        "depth": 2,
        "heads": 3,
        "mlp_width": 80,
        "vocabulary": 106,
        "positions": 10,
        "queries": 4,
        "cross_every": 2,
        "encoder_width": 64,
    },
    "t5": {
        "vocabulary": 300,
        "width": 40,
        "depth": 1,
        "decoder_depth": 1,
        "heads": 4,
        "head_width": 8,
        "mlp_width": 72,
    },
}


def test_the_compiler_counts_the_same_forward_pass():
    regionlm = system.build(ConfigDict({"system": "regionlm", "model": MODEL}), SPEC)
    images = 2
    batch = SPEC.zeros(images)
    params, _ = jax.eval_shape(regionlm.init, jax.random.key(0), batch)

    def forward(params, batch):
        terms, _, _ = regionlm.losses(params, {}, batch, jax.random.key(0), False)
        return sum(total for total, _ in terms.values())

    counted = jax.jit(forward).lower(params, batch).cost_analysis()["flops"]
    ours = images * sum(part.forward for part in regionlm.flops().parts)
    # The compiler adds what is not a product: norms, softmax, rotations, the picking of positions.
    assert ours < counted < 1.02 * ours


def test_one_layer_by_hand():
    # 10 tokens of width 6; 4 query and 2 key-value heads of width 5; gated MLP of width 7.
    query, key, value, out = 10 * 6 * 20, 10 * 6 * 10, 10 * 6 * 10, 10 * 20 * 6
    mlp = 3 * 10 * 6 * 7
    assert flops.layer(10, 6, 4, 2, 5, 7, 3) == 2 * (query + key + value + out + mlp)
    assert flops.attention(10 * 10, 4, 5) == 2 * (4 * 10 * 10 * 5) * 2


def test_regionlm_by_hand():
    config = ConfigDict({"system": "regionlm", "model": MODEL})
    work = system.build(config, SPEC).flops()
    parts = {part.name: part for part in work.parts}
    assert work.tokens == {"image": 16, "region": 3 * 7, "text": 3 * 11}
    assert parts["vocabulary"].forward == 2 * (3 * 8) * 256 * 1000
    # A region's token asks about 16 image tokens and its own 18; each image token about the 16.
    assert parts["decoder"].scores == 3 * 4 * (16 * 16 + 3 * 18 * (16 + 18)) * 4 * 64
    assert parts["vit"].scores == 2 * 4 * 16 * 16 * 4 * 64
    vit = 2 * flops.layer(16, 256, 4, 4, 64, 512, 2)
    assert parts["vit"].products == vit + 2 * (256 * 48 * 8 + 64 * 128 * 16 + 16 * 16 * 16 * 256)
    assert parts["pointer"].scores == 2 * 3 * 64 * 256


@pytest.mark.parametrize(
    ("frozen", "tower", "reader"),
    [
        ((), 3 * 10 + 3 * 1, 3 * 20 + 3 * 2),
        (("params/tower/",), 10 + 1, 3 * 20 + 3 * 2),  # nothing flows back into the tower
        (("params/reader/",), 3 * 10 + 3 * 1, 2 * 20 + 3 * 2),  # its activations are still needed
        (("params/tower/", "params/reader/"), 10 + 1, 20 + 2),
        (("params/reader/b",), 3 * 10 + 3 * 1, 2.75 * 20 + 3 * 2),  # a quarter of its parameters
    ],
)
def test_frozen_towers_save_their_gradients(frozen, tower, reader):
    work = Work(
        tokens={},
        parts=(
            Part("tower", ("params/tower/",), (), products=10, scores=1),
            Part("reader", ("params/reader/",), ("params/tower/",), products=20, scores=2),
        ),
    )
    params = {"tower": {"a": np.zeros((2, 3))}, "reader": {"a": np.zeros(6), "b": np.zeros(2)}}
    paths = ("params/tower/a", "params/reader/a", "params/reader/b")
    flags = {path: path.startswith(frozen) if frozen else False for path in paths}
    assert work.training(params, flags) == {"tower": tower, "reader": reader}


def test_regionvlm_by_hand():
    work = system.build(ConfigDict({"system": "regionvlm", "model": VLM}), SPEC).flops()
    parts = {part.name: part for part in work.parts}
    # 16 patches and a class token; 3 regions of 4 queries and 2·4 + 2 words; 4 queries, 4 words of
    # a question and its end; 8 words of an answer.
    assert work.tokens == {"image": 16, "region": 3 * 14, "text": 3 * (5 + 8)}
    assert parts["vit"].products == 2 * 16 * 192 * 64 + flops.layer(17, 64, 2, 2, 32, 96, 2)
    # Projections and MLP: of the 14 tokens in one layer; in the last one of the 4 queries, and keys
    # and values of the 10 words.
    reads = 2 * 3 * 48 * (14 * (4 * 48 + 2 * 80) + 4 * (4 * 48 + 2 * 80) + 10 * 2 * 48)
    looks = 2 * 2 * (3 * 4) * 48 * 48 + 2 * 2 * 17 * 64 * 48  # keys and values: not three times
    assert parts["qformer"].products == reads + looks
    assert parts["qformer"].scores == 2 * 2 * 48 * (3 * 14 * 14 + 3 * 4 * 14 + 3 * 4 * 17)
    assert parts["projection"].products == 2 * 3 * 4 * 48 * 40
    wide = 2 * 40 * (4 * 32 + 3 * 72)  # one T5 layer a token
    crossing = 2 * 2 * 40 * 32 * (3 * 8 + 3 * 9)
    assert parts["encoder"].products == 3 * 9 * wide
    assert parts["decoder"].products == 3 * 8 * wide + crossing
    assert parts["vocabulary"].products == 2 * 3 * 8 * 40 * 300


def test_what_regionvlm_freezes_costs_no_more_than_it_must():
    vlm = system.build(ConfigDict({"system": "regionvlm", "model": VLM}), SPEC)
    params, _ = jax.eval_shape(vlm.init, jax.random.key(0), SPEC.zeros(1))
    optimizer = make_optimizer(OptimConfig(1e-3, frozen=regionvlm.FROZEN), 10, params)
    work = vlm.flops()
    found = work.training(params, optimizer.frozen)
    times = {part.name: found[part.name] / part.forward for part in work.parts}
    # Nothing goes back through the tower, though the norm behind it is trained; T5 hands on.
    assert times.pop("vit") == 1
    assert times.pop("vocabulary") == 2
    assert times["qformer"] == times["projection"] == 3
    scores = {part.name: part.scores / part.forward for part in work.parts}
    for name in ("encoder", "decoder"):
        assert times[name] == pytest.approx(2 + scores[name])  # of scores both factors


@pytest.mark.parametrize(("name", "model"), [("regionlm", MODEL), ("regionvlm", VLM)])
def test_every_part_owns_parameters_and_every_kernel_has_a_part(name, model):
    built = system.build(ConfigDict({"system": name, "model": model}), SPEC)
    params, _ = jax.eval_shape(built.init, jax.random.key(0), SPEC.zeros(1))
    parts = built.flops().parts
    for path in tables.flatten(params, "params"):
        owners = [part.name for part in parts if path.startswith(part.parameters)]
        none = path.startswith("params/vit/norm/") or path in (
            "params/decoder/norm/scale",
            "params/t5/embedding",  # looked up
        )
        assert len(owners) == (0 if none else 1), (path, owners)
    for part in parts:
        assert part.products > 0

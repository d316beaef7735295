"""The two ends of the vocabulary table: the loss against optax, and the table never whole."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from regionjax import hlo
from regionjax.losses import caption
from regionjax.mesh import MeshConfig, make_mesh
from regionjax.models.decoder import Decoder
from regionjax.models.decoder_config import DecoderConfig
from regionjax.sharding import BATCH, constrain

IMAGES, REGIONS, LENGTH, WIDTH, VOCABULARY = 8, 2, 3, 32, 96


def arrays(dtype=np.float32):
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(IMAGES, REGIONS, LENGTH, WIDTH)).astype(dtype)
    table = rng.normal(size=(VOCABULARY, WIDTH)).astype(np.float32)
    return hidden, table, rng.integers(0, VOCABULARY, (IMAGES, REGIONS, LENGTH)).astype(np.int32)


@pytest.mark.parametrize("chunks", [1, 3, 32])
def test_the_loss_is_that_of_optax(chunks):
    hidden, table, target = arrays()

    def expected(hidden, table):
        return optax.softmax_cross_entropy_with_integer_labels(hidden @ table.T, target)

    def ours(hidden, table):
        return caption.token_nll(hidden, table, target, chunks)

    np.testing.assert_allclose(ours(hidden, table), expected(hidden, table), rtol=1e-5)
    gradients = [
        jax.grad(lambda h, t, f=f: f(h, t).sum(), argnums=(0, 1))(hidden, table)
        for f in (ours, expected)
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), *gradients)


def test_chunks_must_divide_the_vocabulary():
    hidden, table, target = arrays()
    with pytest.raises(ValueError, match="vocabulary_chunks=5 does not divide the vocabulary 96"):
        caption.token_nll(hidden, table, target, 5)


def compiled(function, *arguments, specs, axes):
    """HLO of a gradient on eight devices; the first argument's lies where that argument does."""
    mesh = make_mesh(MeshConfig(**axes))
    places = [NamedSharding(mesh, spec) for spec in specs]
    with jax.set_mesh(mesh):
        gradient = jax.jit(
            jax.grad(lambda *a: function(*a).sum()), in_shardings=places, out_shardings=places[0]
        )
        return gradient.lower(*arguments).compile().as_text()


def arrays_in(text):
    """Shapes of all arrays in a program, without dtypes."""
    return {tuple(map(int, s.split(","))) for s in re.findall(r"\w\[([\d,]+)\]", text)}


@pytest.mark.parametrize(
    "axes", [{"data": 1, "fsdp": 8}, {"data": 2, "fsdp": 4}, {"data": 1, "fsdp": 4, "tensor": 2}]
)
def test_the_loss_gathers_each_slice_of_the_table_once(axes):
    hidden, table, target = arrays()
    chunks = 4
    text = compiled(
        lambda table, hidden, target: caption.token_nll(hidden, table, target, chunks),
        table,
        hidden,
        target,
        specs=(P("tensor", "fsdp"), P(BATCH), P(BATCH)),
        axes={"tensor": 1} | axes,
    )
    assert (VOCABULARY, WIDTH) not in arrays_in(text)
    # Once on the way to the loss and once on the way back, together with what else is gathered.
    shards = axes.get("tensor", 1)
    gathered = hlo.collectives(text)["all-gather"]
    assert gathered.count == 2 * chunks
    assert gathered.bytes == 2 * VOCABULARY // shards * WIDTH * 4


@pytest.mark.parametrize(
    "axes", [{"data": 1, "fsdp": 8}, {"data": 2, "fsdp": 4}, {"data": 1, "fsdp": 4, "tensor": 2}]
)
def test_embedding_keeps_the_table_and_its_gradient_in_parts(axes):
    table, target = arrays()[1:]
    decoder = Decoder(
        DecoderConfig(
            vocabulary=VOCABULARY, width=WIDTH, depth=1, heads=1, kv_heads=1, head_width=2,
            mlp_width=2,
        )
    )  # fmt: skip

    def embed(table, tokens):
        x = decoder.apply({"params": {"embedding": table}}, tokens, method=Decoder.embed)
        return jnp.sin(constrain(x.reshape(IMAGES, -1, WIDTH), "tokens"))

    text = compiled(
        embed, table, target, specs=(P("tensor", "fsdp"), P(BATCH)), axes={"tensor": 1} | axes
    )
    shapes = arrays_in(text)
    assert (VOCABULARY, WIDTH) not in shapes
    assert not {shape for shape in shapes if shape[0] == IMAGES and shape[-1] == WIDTH}

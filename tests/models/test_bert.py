"""BERT and the Q-Former against what transformers once said, and what needs no reference."""

import dataclasses
import functools

import golden
import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from parity import close

from regionjax import flops, tables
from regionjax.models import bert
from regionjax.weights import table
from regionjax.weights.table import WeightsError
from regionjax.weights.tables import bert as bert_table

B, R, T, P, E = 2, 3, 4, 7, 10
TEXT = bert.BertConfig(
    width=12, depth=2, heads=3, mlp_width=16, vocabulary=31, token_types=2, head=True
)
QFORMER = bert.BertConfig(
    width=12,
    depth=4,
    heads=3,
    mlp_width=16,
    vocabulary=31,
    queries=5,
    cross_every=2,
    encoder_width=E,
)
FUSION = bert.BertConfig(width=12, depth=3, heads=2, mlp_width=16, cross_every=1, encoder_width=E)
BLIP2 = dataclasses.replace(QFORMER, vocabulary=0)
_rng = np.random.default_rng(0)
TOKENS = _rng.integers(1, 31, (B, R, T), dtype=np.int32)
MASK = np.arange(T) < 1 + np.arange(B * R).reshape(B, R, 1) % T
ENCODED = _rng.normal(size=(B, P, E)).astype(np.float32)
HIDDEN = _rng.normal(size=(B, R, T, 12)).astype(np.float32)
INPUTS = {
    "text": (TEXT, (TOKENS, MASK)),
    "qformer": (QFORMER, (TOKENS, MASK, ENCODED)),
    "fusion": (FUSION, (HIDDEN, MASK, ENCODED)),
    "blip2": (BLIP2, (None, None, ENCODED)),
}


def initialise(config, inputs):
    """Random variables, with no bias at zero."""
    shapes = jax.eval_shape(bert.Bert(config).init, jax.random.key(0), *inputs)
    rng = np.random.default_rng(1)

    def leaf(path, shape):
        values = rng.normal(size=shape.shape) * np.prod(shape.shape[1:-1] or 1) ** -0.5
        return np.float32(0.2 * values + ("scale" in jax.tree_util.keystr(path)))

    return jax.tree_util.tree_map_with_path(leaf, shapes)


@functools.partial(jax.jit, static_argnums=0, static_argnames="method")
def apply(config, variables, *inputs, method=None):
    return bert.Bert(config).apply(variables, *inputs, method=method)


def test_golden_bert():
    kept = golden.read("bert")
    config = bert_table.config_from(kept["json"])
    rows, inputs = bert_table.rows(config), (kept["tokens"], kept["mask"])
    shapes = jax.eval_shape(bert.Bert(config).init, jax.random.key(0), *inputs)["params"]
    variables = {"params": table.to_ours(kept["tensors"], rows, shapes)}
    hidden, _ = apply(config, variables, *inputs)
    logits = apply(config, variables, hidden, method="logits")
    close(logits.reshape(kept["logits"].shape), kept["logits"])
    back = table.to_theirs(variables["params"], rows)
    assert {name: value.tobytes() for name, value in back.items()} == {
        name: value.tobytes() for name, value in kept["tensors"].items()
    }


def test_golden_qformer():
    kept = golden.read("qformer")
    queries = kept["tensors"]["query_tokens"].shape[1]
    config = bert_table.config_from(kept["json"], queries)
    inputs = (kept["tokens"], None, kept["encoded"])
    shapes = jax.eval_shape(bert.Bert(config).init, jax.random.key(0), *inputs)["params"]
    query = table.Row("query_tokens", "query_tokens", shape=(1, queries, -1))
    params = table.to_ours(kept["tensors"], (*bert_table.rows(config), query), shapes)
    hidden, _ = apply(config, {"params": params}, *inputs)
    close(hidden.reshape(kept["hidden"].shape), kept["hidden"])


@pytest.mark.parametrize("name", ["qformer", "fusion"])
def test_many_regions_are_as_many_runs_with_one(name):
    config, (text, mask, encoded) = INPUTS[name]
    variables = initialise(config, INPUTS[name][1])
    hidden, more = apply(config, variables, text, mask, encoded)
    assert hidden.shape == (B, R, config.queries + T, config.width)
    for r in range(R):
        one = slice(r, r + 1)
        alone, others = apply(config, variables, text[:, one], mask[:, one], encoded)
        close(hidden[:, one], alone, 1e-6)
        close(more["hidden"][:, :, one], others["hidden"], 1e-6)
        close(more["probabilities"][:, :, :, one], others["probabilities"], 1e-5)


@pytest.mark.parametrize("name", ["qformer", "fusion"])
def test_regions_share_the_keys_and_values_of_an_image(name):
    """No array of the program is as large as a copy of them for every region would be."""
    config, (text, mask, encoded) = INPUTS[name]
    if config.queries:
        config = dataclasses.replace(config, width=24)  # above heads · queries
    regions, patches = 40, 100  # so that R·P·D outgrows everything else
    text = np.repeat(text[:1, :1], regions, axis=1)
    encoded = np.zeros((1, patches, E), np.float32)
    variables = jax.eval_shape(bert.Bert(config).init, jax.random.key(0), text, None, encoded)
    program = jax.make_jaxpr(bert.Bert(config).apply)(variables, text, None, encoded)

    def sizes(jaxpr):
        for equation in jaxpr.eqns:
            yield from (int(np.prod(variable.aval.shape)) for variable in equation.outvars)
            for inner in jax.extend.core.jaxprs_in_params(equation.params):
                yield from sizes(inner)

    in_layers = config.heads * regions * (config.queries or T) * patches  # scores
    assert in_layers in sizes(program.jaxpr)
    stacked = config.depth // config.cross_every * in_layers  # probabilities of all layers
    copies = regions * patches * config.width
    assert [size for size in sizes(program.jaxpr) if size >= copies and size != stacked] == []


@pytest.mark.parametrize("every, depth", [(2, 6), (1, 3), (1, 1)])
@pytest.mark.parametrize("remat, unroll", [("none", 1), ("matmuls", 2)])
def test_what_queries_gather_is_what_all_layers_say_of_them(every, depth, remat, unroll):
    config, inputs = INPUTS["qformer"]
    sizes = {"cross_every": every, "depth": depth, "remat": remat, "unroll": unroll}
    config = dataclasses.replace(config, **sizes)
    variables = initialise(config, inputs)

    def gradient(whole):
        def loss(variables):
            network = bert.Bert(config)
            if whole:
                hidden = network.apply(variables, *inputs)[0][:, :, : config.queries]
            else:
                hidden = network.apply(variables, *inputs, method="gathered")
            assert hidden.shape == (B, R, config.queries, config.width)
            return (hidden**3).mean(), hidden

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(variables)

    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), *map(gradient, (0, 1)))


def test_gathering_leaves_the_text_out_of_the_last_layer():
    """What it spares, forward and backward: query, output and MLP of every word."""
    config, inputs = INPUTS["qformer"]
    config = dataclasses.replace(config, depth=2)  # one group: the layer behind the looking one
    variables = initialise(config, inputs)

    def counted(gradient, whole):
        def answer(variables):
            method = "__call__" if whole else "gathered"
            hidden = bert.Bert(config).apply(variables, *inputs, method=method)
            return (hidden[0][:, :, : config.queries] if whole else hidden).sum()

        function = jax.grad(answer) if gradient else answer
        return jax.jit(function).lower(variables).cost_analysis()["flops"]

    words, width, hidden = B * R * T, config.width, config.mlp_width
    spared = 2 * words * (2 * width * width + 2 * width * hidden)
    assert counted(False, True) - counted(False, False) > spared
    assert counted(True, True) - counted(True, False) > 3 * spared


@pytest.mark.parametrize("name", ["text", "qformer"])
def test_remat_and_unroll_change_nothing(name):
    config, inputs = INPUTS[name]
    config = dataclasses.replace(config, depth=2)
    variables = initialise(config, inputs)

    def gradient(config):
        def loss(variables):
            hidden, more = bert.Bert(config).apply(variables, *inputs)
            return (hidden**3).mean() + more["hidden"][0].mean() + more["embedding"].mean()

        return jax.jit(jax.value_and_grad(loss))(variables)

    a, b = gradient(config), gradient(dataclasses.replace(config, remat="matmuls", unroll=2))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), a, b)


def test_padding_is_not_seen():
    variables = initialise(TEXT, (TOKENS, MASK))
    hidden, _ = apply(TEXT, variables, TOKENS, MASK)
    other, _ = apply(TEXT, variables, np.where(MASK, TOKENS, 7), MASK)
    np.testing.assert_allclose(hidden[MASK], other[MASK], atol=1e-6)


def random_numbers(function):
    """How many numbers a program of a key draws."""

    def drawn(jaxpr):
        count = 0
        for equation in jaxpr.eqns:
            if equation.primitive.name == "random_bits":
                count += int(np.prod(equation.outvars[0].aval.shape))
            inner = map(drawn, jax.extend.core.jaxprs_in_params(equation.params))
            count += equation.params.get("length", 1) * sum(inner)
        return count

    return drawn(jax.make_jaxpr(function)(jax.random.key(0)).jaxpr)


def test_dropout_follows_its_rng():
    config, inputs = INPUTS["qformer"]
    variables = initialise(config, inputs)

    @jax.jit
    def drop(key):
        return bert.Bert(config).apply(variables, *inputs, rngs={"dropout": key})[0]

    @jax.jit
    def drop_gathered(key):
        method = "gathered"
        return bert.Bert(config).apply(variables, *inputs, rngs={"dropout": key}, method=method)

    spared = random_numbers(drop) - random_numbers(drop_gathered)
    tokens = config.queries + T
    # Of the text in the last layer: attention's weights, its output and that of the MLP.
    assert spared == B * R * T * (config.heads * tokens + 2 * config.width)

    still, _ = apply(config, variables, *inputs)
    for dropped, kept in ((drop, still), (drop_gathered, still[:, :, : config.queries])):
        one, two, again = (dropped(jax.random.key(seed)) for seed in (1, 2, 1))
        np.testing.assert_array_equal(one, again)
        assert np.abs(one - two).max() > 0.1 and np.abs(one - kept).max() > 0.1


def test_gradients_of_probabilities_and_through_them():
    """First and second order against finite differences, in the fusion half."""
    config = dataclasses.replace(FUSION, depth=2)
    with jax.enable_x64(True):
        inputs = np.float64(HIDDEN), MASK, np.float64(ENCODED)
        variables = jax.tree.map(np.float64, initialise(config, inputs))
        network = bert.Bert(config, jnp.float64)
        zero = np.zeros((2, B, config.heads, R, T, P))

        def score(variables, perturbation):
            hidden, more = network.apply(variables, *inputs, perturbation)
            return (hidden[:, :, 0] ** 3).sum(), more["probabilities"]

        def cam(variables):
            """Like GradCAM: probabilities times their positive gradients, in the last layer."""
            gradient, seen = jax.grad(score, argnums=1, has_aux=True)(variables, zero)
            return (seen * jax.nn.relu(gradient))[-1].sum(), gradient

        rng = np.random.default_rng(5)
        (_, first), second = jax.jit(jax.value_and_grad(cam, has_aux=True))(variables)
        value, total = jax.jit(lambda v, p: score(v, p)[0]), jax.jit(lambda v: cam(v)[0])
        way, step = rng.normal(size=zero.shape), 1e-3
        difference = value(variables, step * way) - value(variables, -step * way)
        np.testing.assert_allclose((first * way).sum(), difference / (2 * step), rtol=1e-3)

        ways = jax.tree.map(lambda x: rng.normal(size=x.shape), variables)
        move = lambda step: jax.tree.map(lambda x, w: x + step * w, variables, ways)  # noqa: E731
        difference = (total(move(step)) - total(move(-step))) / (2 * step)
        slope = sum(jax.tree.leaves(jax.tree.map(lambda g, w: (g * w).sum(), second, ways)))
        np.testing.assert_allclose(slope, difference, rtol=1e-3)


@pytest.mark.parametrize("name", INPUTS)
def test_every_parameter_has_a_sharding_rule(name):
    config, inputs = INPUTS[name]
    shapes = jax.eval_shape(bert.Bert(config).init, jax.random.key(0), *inputs)["params"]
    leaves = tables.flatten(shapes)
    found = tables.lookup(bert.sharding_rules(config), list(leaves), "sharding rules")
    assert all(len(found[path]) <= len(leaf.shape) for path, leaf in leaves.items())
    assert not any(v is None for path, v in found.items() if path.endswith("kernel"))


@pytest.mark.parametrize("name", INPUTS)
def test_the_compiler_counts_the_same_flops(name):
    config, (text, mask, encoded) = (*INPUTS[name], None)[0], (*INPUTS[name][1], None)[:3]
    # Wide, so that products outweigh everything that is not one.
    wide = {"width": 768, "mlp_width": 1536, "depth": 2, "unroll": 2}
    wide |= {"encoder_width": 384} if config.cross_every else {}
    config = dataclasses.replace(config, **wide)
    if name == "fusion":
        text = np.zeros((B, R, T, 768), np.float32)
    if encoded is not None:
        encoded = np.zeros((B, P, 384), np.float32)
    inputs = (text, mask, encoded)
    variables = jax.eval_shape(bert.Bert(config).init, jax.random.key(0), *inputs)

    def forward(variables):
        hidden, _ = bert.Bert(config).apply(variables, *inputs)
        if config.head:
            return bert.Bert(config).apply(variables, hidden, method="logits")
        return hidden

    counted = jax.jit(forward).lower(variables).cost_analysis()["flops"]
    regions, length = (1, 0) if text is None else (R, T)
    predicted = R * T if config.head else 0
    part = flops.bert(config, regions, length, P, "bert", ("params/",), (), predicted)
    assert B * part.forward < counted < 1.03 * B * part.forward


@pytest.mark.parametrize(
    "change, message",
    [
        ({"heads": 5}, "width 12 is not a multiple of heads 5"),
        ({"cross_every": 3}, "cross_every is 3; known: 0, 1, 2"),
        ({"depth": 3}, "depth 3 is not a multiple of 2 layers"),
        ({"encoder_width": 0}, "both must be above 0, or neither"),
        ({"vocabulary": 0, "head": True}, "head needs a vocabulary"),
        ({"vocabulary": 0, "token_types": 2}, "token_types needs a vocabulary"),
        ({"remat": "ful"}, "remat='ful'"),
    ],
)
def test_impossible_sizes(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(QFORMER, **change)


def test_a_text_may_be_too_long():
    config = dataclasses.replace(TEXT, positions=3)
    with pytest.raises(ValueError, match="a text of 4 tokens, but there are 3 positions"):
        jax.eval_shape(bert.Bert(config).init, jax.random.key(0), TOKENS)


@pytest.mark.parametrize(
    "config, inputs, message",
    [
        (TEXT, (None,), "text is None; only queries"),
        (TEXT, (HIDDEN,), r"text is \[2, 3, 4, 12\]; with vocabulary 31 it is tokens"),
        (BLIP2, (TOKENS, None, ENCODED), r"with vocabulary 0 it is hidden states \[B, R, T, 12\]"),
        (TEXT, (TOKENS, None, ENCODED), "encoded is .*, but cross_every is 0"),
        (QFORMER, (TOKENS,), "encoded is None, but cross_every is 2"),
        (FUSION, (HIDDEN, None, HIDDEN[:, 0]), r"expected \[B, P, 10\]"),
    ],
)
def test_inputs_that_do_not_fit(config, inputs, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(bert.Bert(config).init, jax.random.key(0), *inputs)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"hidden_act": "relu"}, "hidden_act = 'relu'; here it is always 'gelu'"),
        ({"hidden_dropout_prob": 0.2}, "hidden_dropout_prob = 0.2 and attention_probs_dropout"),
        ({"cross_attention_frequency": 3}, "cross_attention_frequency = 3; here it is 1 or 2"),
    ],
)
def test_another_form_is_refused(change, message):
    json = bert_table.config_to(QFORMER)
    with pytest.raises(WeightsError, match=message):
        bert_table.config_from(json | change, 5)

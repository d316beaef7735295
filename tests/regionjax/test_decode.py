"""Generation against exhaustive enumeration, with a toy model whose logits are a table."""

import itertools

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from regionjax import decode
from regionjax.decode import GenerationConfig

V, EOS, STEPS, B, R = 5, 1, 3, 2, 2
TABLE = np.random.default_rng(0).normal(size=(B, R, STEPS + 1, V, V)).astype(np.float32) * 2


@flax.struct.dataclass
class TableCache:
    """Which table row each segment reads, its step."""

    row: jax.Array
    step: jax.Array

    def take(self, index):
        return TableCache(jnp.take_along_axis(self.row, index, axis=1), self.step)


def advance(cache, tokens):
    table = jnp.asarray(TABLE.reshape(B * R, STEPS + 1, V, V))
    return table[cache.row, cache.step, tokens], TableCache(cache.row, cache.step + 1)


def start():
    rows = jnp.arange(B * R).reshape(B, R)
    return jnp.asarray(TABLE[:, :, 0, 0]), TableCache(rows, jnp.asarray(1))


def log_probability(b, r, tokens):
    total, previous = 0.0, 0
    for step, token in enumerate(tokens):
        logits = TABLE[b, r, step, previous if step else 0].astype(np.float64)
        total += logits[token] - np.log(np.exp(logits).sum())
        previous = token
    return total


def run(**settings):
    config = GenerationConfig(max_new_tokens=STEPS, **settings)
    logits, cache = start()
    return np.asarray(
        decode.generate(logits, cache, advance, jax.random.key(0), eos_id=EOS, config=config)
    )


def test_greedy_takes_the_best_token_each_time():
    got = run()
    for b, r in itertools.product(range(B), range(R)):
        previous, expected = 0, []
        for step in range(STEPS):
            token = int(TABLE[b, r, step, previous if step else 0].argmax())
            expected.append(token)
            previous = token
            if token == EOS:
                break
        assert got[b, r].tolist() == expected + [0] * (STEPS - len(expected))


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_wide_beam_search_finds_the_best_of_all_sequences(penalty):
    got = run(method="beam", beams=V**2, length_penalty=penalty)
    for b, r in itertools.product(range(B), range(R)):
        scored = []
        for length in range(1, STEPS + 1):
            body = [t for t in range(V) if t != EOS]
            for prefix in itertools.product(body, repeat=length - 1):
                for last in range(V) if length == STEPS else [EOS]:  # it may also fill the length
                    tokens = [*prefix, last]
                    scored.append((log_probability(b, r, tokens) / length**penalty, tokens))
        best = max(scored)[1]
        assert got[b, r].tolist() == best + [0] * (STEPS - len(best))


def test_sampling_follows_the_distribution_and_top_p_cuts_it():
    logits = jnp.broadcast_to(jnp.log(jnp.array([0.5, 0.3, 0.15, 0.05])), (20_000, 4))
    drawn = np.asarray(decode.sample(jax.random.key(3), logits, 1.0, 1.0))
    share = np.bincount(drawn, minlength=4) / drawn.size
    np.testing.assert_allclose(share, [0.5, 0.3, 0.15, 0.05], atol=0.015)
    drawn = np.asarray(decode.sample(jax.random.key(4), logits, 1.0, 0.7))
    share = np.bincount(drawn, minlength=4) / drawn.size
    np.testing.assert_allclose(share, [0.625, 0.375, 0, 0], atol=0.015)


def test_unknown_method_is_refused():
    with pytest.raises(ValueError, match="greedy, sample, beam"):
        GenerationConfig(method="breadth")

"""Token by token generation for R segments at once: greedy, sampling, beam search.

It knows no model: `advance(cache, tokens [B, R]) → (logits f32 [B, R, V], cache)` does the work,
and `cache.take(index i32 [B, R·W])` picks or repeats segments, the W continuations of a segment
side by side. All results are i32 [B, R, max_new_tokens], ending with `eos_id` where the model
ended, then 0.
"""

import dataclasses

import jax
import jax.numpy as jnp

NEVER = -1e9  # a score that no real sequence has


@dataclasses.dataclass(frozen=True)
class GenerationConfig:
    """How to generate.

    `method` is greedy, sample or beam. `temperature` and `top_p` (nucleus mass) are used by
    sample; `beams` and `length_penalty` (score = log-probability / length ** penalty) by beam.
    """

    method: str = "greedy"
    max_new_tokens: int = 16
    temperature: float = 1.0
    top_p: float = 1.0
    beams: int = 4
    length_penalty: float = 1.0

    def __post_init__(self):
        if self.method not in ("greedy", "sample", "beam"):
            raise ValueError(f"method={self.method!r}; known: greedy, sample, beam")
        if not (self.temperature > 0 and 0 < self.top_p <= 1):
            raise ValueError("temperature must be > 0, top_p in (0, 1]")
        if self.beams < 1 or self.max_new_tokens < 1:
            raise ValueError("beams and max_new_tokens must be > 0")


def generate(logits, cache, advance, rng, *, eos_id, config):
    """Continues every segment from the `logits` f32 [B, R, V] after its prompt."""
    if config.method == "beam":
        return beam(logits, cache, advance, eos_id, config)

    def unfinished(carry):
        step, _, _, done, _ = carry
        return (step < config.max_new_tokens) & ~done.all()

    def body(carry):
        step, token, cache, done, tokens = carry
        logits, cache = advance(cache, token)
        token = jnp.where(done, 0, pick(logits, rng, step, config))
        tokens = jax.lax.dynamic_update_index_in_dim(tokens, token, step, axis=2)
        return step + 1, token, cache, done | (token == eos_id), tokens

    token = pick(logits, rng, 0, config)
    tokens = jnp.zeros((*logits.shape[:2], config.max_new_tokens), jnp.int32).at[:, :, 0].set(token)
    return jax.lax.while_loop(unfinished, body, (1, token, cache, token == eos_id, tokens))[-1]


def pick(logits, rng, step, config):
    """The next token, i32 [...] of logits [..., V]: the likeliest, or one drawn by (rng, step)."""
    if config.method == "greedy":
        return logits.argmax(-1).astype(jnp.int32)
    return sample(jax.random.fold_in(rng, step), logits, config.temperature, config.top_p)


def sample(rng, logits, temperature, top_p):
    """i32 [...] from logits [..., V], cut to the smallest set that holds `top_p` of the mass."""
    logits = logits / temperature
    if top_p < 1:
        ordered = jnp.sort(logits, axis=-1, descending=True)
        before = jnp.cumsum(jax.nn.softmax(ordered, axis=-1), axis=-1)
        kept = jnp.concatenate([jnp.ones_like(before[..., :1], bool), before[..., :-1] < top_p], -1)
        lowest = jnp.where(kept, ordered, jnp.inf).min(-1, keepdims=True)
        logits = jnp.where(logits >= lowest, logits, -jnp.inf)
    return jax.random.categorical(rng, logits).astype(jnp.int32)


def beam(logits, cache, advance, eos_id, config):
    """Beam search by the rules of `transformers`; the best sequence a segment.

    At every step the 2·W best continuations of the W live beams are split. Those that go on compete
    for the W live places. Those that end (all do at the last step) and are among the W best compete
    for the W finished places. A segment is closed, its finished sequences final, once W have
    finished and the best live beam, scored at its present length, is no better than the worst.
    """
    width, length = config.beams, config.max_new_tokens
    batch, regions, vocabulary = logits.shape

    def score(log_probability, tokens):
        return log_probability / jnp.float32(tokens) ** config.length_penalty

    def pick(values, index):  # [B, R, X, ...] at i32 [B, R, Y]
        index = index.reshape(*index.shape, *([1] * (values.ndim - 3)))
        return jnp.take_along_axis(values, index, axis=2)

    def choose(step, logits, beams):
        live, tokens, done, done_tokens, open_ = beams
        step_nll = jax.nn.log_softmax(logits.reshape(batch, regions, width, vocabulary), axis=-1)
        total = (live[..., None] + step_nll).reshape(batch, regions, -1)
        best, where = jax.lax.top_k(total, 2 * width)  # [B, R, 2W]
        parent, token = where // vocabulary, (where % vocabulary).astype(jnp.int32)
        grown = jax.lax.dynamic_update_index_in_dim(pick(tokens, parent), token, step, axis=3)
        ends = (token == eos_id) | (step + 1 == length)

        # Ties go to the sequence that finished first.
        counts = ends & (jnp.arange(2 * width) < width) & open_[..., None]
        ended = jnp.where(counts, score(best, step + 1), NEVER)
        done, keep = jax.lax.top_k(jnp.concatenate([done, ended], axis=-1), width)
        done_tokens = pick(jnp.concatenate([done_tokens, grown], axis=2), keep)

        live, keep = jax.lax.top_k(jnp.where(ends, NEVER, best), width)
        tokens, parent, token = pick(grown, keep), pick(parent, keep), pick(token, keep)
        open_ &= score(live[..., 0], step + 1) > done[..., -1]
        return parent, token, (live, tokens, done, done_tokens, open_)

    def unfinished(carry):
        step, _, _, _, (*_, open_) = carry
        return (step < length) & open_.any()

    def body(carry):
        step, parent, token, cache, beams = carry
        source = (parent + jnp.arange(regions)[:, None] * width).reshape(batch, -1)
        logits, cache = advance(cache.take(source), token.reshape(batch, -1))
        parent, token, beams = choose(step, logits, beams)
        return step + 1, parent, token, cache, beams

    # All beams start equal, so all but the first start with a score that never wins.
    live = jnp.where(jnp.arange(width) == 0, 0.0, NEVER) * jnp.ones((batch, regions, 1))
    tokens = jnp.zeros((batch, regions, width, length), jnp.int32)
    done = jnp.full(live.shape, NEVER)
    beams = (live, tokens, done, tokens, jnp.ones((batch, regions), bool))
    parent, token, beams = choose(0, jnp.repeat(logits, width, axis=1), beams)
    spread = jnp.repeat(jnp.arange(regions)[None], batch, 0).repeat(width, axis=1)
    carry = (1, parent, token, cache.take(spread), beams)
    return jax.lax.while_loop(unfinished, body, carry)[-1][3][:, :, 0]

"""Token by token generation for R segments at once: greedy, sampling, beam search.

It knows no model: `advance(cache, tokens [B, R]) → (logits f32 [B, R, V], cache)` does the work,
and `cache.take(index i32 [B, R'])` picks or repeats segments. All results are i32
[B, R, max_new_tokens], ending with `eos_id` where the model ended, then 0.
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
        if not (self.temperature > 0 and 0 < self.top_p <= 1 and self.beams > 0):
            raise ValueError("temperature must be > 0, top_p in (0, 1], beams > 0")


def generate(logits, cache, advance, rng, *, eos_id, config):
    """Continues every segment from the `logits` f32 [B, R, V] after its prompt."""
    if config.method == "beam":
        return beam(logits, cache, advance, eos_id, config)

    def pick(logits, step):
        if config.method == "greedy":
            return logits.argmax(-1).astype(jnp.int32)
        return sample(jax.random.fold_in(rng, step), logits, config.temperature, config.top_p)

    def unfinished(carry):
        step, _, _, done, _ = carry
        return (step < config.max_new_tokens) & ~done.all()

    def body(carry):
        step, logits, cache, done, tokens = carry
        token = jnp.where(done, 0, pick(logits, step))
        tokens = jax.lax.dynamic_update_index_in_dim(tokens, token, step, axis=2)
        logits, cache = advance(cache, token)
        return step + 1, logits, cache, done | (token == eos_id), tokens

    tokens = jnp.zeros((*logits.shape[:2], config.max_new_tokens), jnp.int32)
    carry = (0, logits, cache, jnp.zeros(logits.shape[:2], bool), tokens)
    return jax.lax.while_loop(unfinished, body, carry)[-1]


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
    """Beam search; the best finished sequence a segment, or the best unfinished if none ended.

    At every step the 2·W best continuations of the W live beams are split: those that end compete
    for the W finished places, the rest for the W live ones. 2·W is enough, since at most W of them
    can end in `eos_id`.
    """
    width, length = config.beams, config.max_new_tokens
    batch, regions, vocabulary = logits.shape

    def score(log_probability, tokens):
        return log_probability / tokens**config.length_penalty

    def pick(values, index):  # [B, R, X, ...] at i32 [B, R, Y]
        index = index.reshape(*index.shape, *([1] * (values.ndim - 3)))
        return jnp.take_along_axis(values, index, axis=2)

    def body(carry):
        step, live, logits, cache, tokens, done, done_tokens = carry
        step_nll = jax.nn.log_softmax(logits.reshape(batch, regions, width, vocabulary), axis=-1)
        total = (live[..., None] + step_nll).reshape(batch, regions, -1)
        best, where = jax.lax.top_k(total, 2 * width)  # [B, R, 2W]
        parent, token = where // vocabulary, (where % vocabulary).astype(jnp.int32)
        grown = jax.lax.dynamic_update_index_in_dim(pick(tokens, parent), token, step, axis=3)
        ends = token == eos_id

        # Finished beams: the old ones and those that ended now; ties go to the older one.
        ended = jnp.where(ends, score(best, step + 1), NEVER)
        done, keep = jax.lax.top_k(jnp.concatenate([done, ended], axis=-1), width)
        done_tokens = pick(jnp.concatenate([done_tokens, grown], axis=2), keep)

        live, keep = jax.lax.top_k(jnp.where(ends, NEVER, best), width)
        tokens, parent, token = pick(grown, keep), pick(parent, keep), pick(token, keep)
        source = (parent + jnp.arange(regions)[:, None] * width).reshape(batch, -1)
        logits, cache = advance(cache.take(source), token.reshape(batch, -1))
        return step + 1, live, logits, cache, tokens, done, done_tokens

    # All beams start equal, so all but the first start with a score that never wins.
    spread = jnp.repeat(jnp.arange(regions)[None], batch, 0).repeat(width, axis=1)
    live = jnp.where(jnp.arange(width) == 0, 0.0, NEVER) * jnp.ones((batch, regions, 1))
    tokens = jnp.zeros((batch, regions, width, length), jnp.int32)
    carry = (
        *(0, live, jnp.repeat(logits, width, axis=1), cache.take(spread), tokens),
        *(jnp.full(live.shape, NEVER), tokens),
    )
    _, live, _, _, tokens, done, done_tokens = jax.lax.while_loop(
        lambda carry: carry[0] < length, body, carry
    )
    any_done = (done[..., 0] > NEVER / 2)[..., None]
    return jnp.where(any_done, done_tokens[:, :, 0], tokens[:, :, 0])

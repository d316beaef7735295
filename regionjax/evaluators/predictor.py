"""From questions to answers: packs, pads, dispatches and puts the answers back in order.

All questions about one image share its row (R slots; more rows when there are more questions),
rows fill batches of one fixed size, and the last batch is padded, so each predict function compiles
once. Batches are dispatched without waiting for their answers; at most AHEAD of them are under way.
With several processes each one encodes all questions and receives all answers.
"""

import collections
import dataclasses
import functools
import math
import time
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from regionjax.batch import Segment
from regionjax.config import ConfigError

AHEAD = 4  # batches under way; enough to hide the host, few enough to bound memory


@dataclasses.dataclass(frozen=True)
class Query:
    """One question about one image; `record` is opaque and compared by identity."""

    record: Any
    segment: Segment


@dataclasses.dataclass
class Tally:
    """What one predict function was used for."""

    queries: int = 0
    rows: int = 0  # images encoded, one for up to R queries
    batches: int = 0
    seconds: float = 0.0  # from the first question to the last answer, with compilation


class Predictor:
    """Answers queries with the pure predict functions of a system.

    Args:
      functions: {name: function} of a system's contract: caption_nll(params, batch) → [B, R],
        generate(params, batch, rng, *, eos_id, config) → i32 [B, R, T],
        heatmap(params, batch) → [B, R, h, w].
      params: the parameters, laid out on the mesh.
      spec: BatchSpec of every batch.
      encode: (record, list of at most R Segments) → one row: the batch's fields without B.
      decode: token ids of one answer, i32 [T] → text.
      eos_id: the token that ends an answer.
      batch_size: rows a batch, over the whole mesh.
      sharding: NamedSharding of a batch's first axis.
      seed: of sampled text.

    Raises:
      ConfigError: a batch size that the mesh does not divide.
    """

    def __init__(
        self, functions, params, *, spec, encode, decode, eos_id, batch_size, sharding, seed=0
    ):
        first = sharding.spec[0] if sharding.spec else None
        axes = first if isinstance(first, tuple) else (first,) if first else ()
        shards = math.prod(sharding.mesh.shape[axis] for axis in axes)
        if batch_size % shards:
            near = max(shards, round(batch_size / shards) * shards)
            raise ConfigError(
                f"config.evaluate.batch_size = {batch_size} is not divisible by the {shards} "
                f"shards of mesh axes {', '.join(axes)}; use {near}"
            )
        self._functions = functions
        self._params = params
        self._spec = spec
        self._encode = encode
        self._decode = decode
        self._eos_id = eos_id
        self._batch_size = batch_size
        self._sharding = sharding
        self._everywhere = NamedSharding(sharding.mesh, PartitionSpec())
        self._rng = jax.random.key(seed)
        self._compiled = {}
        self.tallies = collections.defaultdict(Tally)

    def caption_nll(self, queries):
        """Mean negative log-likelihood of each query's target, nats a token; f32 [N]."""
        return self._run("caption_nll", queries)

    def generate(self, queries, config):
        """The answer to each query's prompt, list of N texts (targets are not looked at).

        Args:
          config: GenerationConfig.
        """
        options = {"eos_id": self._eos_id, "config": config}
        return [self._decode(ids) for ids in self._run("generate", queries, options)]

    def heatmap(self, queries):
        """Where the thing named by each query's prompt is; f32 [N, h, w], higher is likelier."""
        return self._run("heatmap", queries)

    def _run(self, name, queries, options=None):
        """[N, …] of numpy: what the function says for each query, in order."""
        started = time.perf_counter()
        tally = self.tallies[name]
        answers, under_way = [], collections.deque()
        for rows in _chunks(_packed(queries, self._spec.regions), self._batch_size):
            used = [len(segments) for _, segments in rows]
            under_way.append((self._dispatch(name, options, rows, tally.batches), used))
            tally.queries += sum(used)
            tally.rows += len(rows)
            tally.batches += 1
            if len(under_way) > AHEAD:
                answers += _unpacked(*under_way.popleft())
        for output, used in under_way:
            answers += _unpacked(output, used)
        tally.seconds += time.perf_counter() - started
        return np.stack(answers) if answers else np.zeros((0,), np.float32)

    def _dispatch(self, name, options, rows, number):
        """Starts one batch; returns device values [B, R, …], the same on every process."""
        batch = self._spec.zeros(self._batch_size)
        for index, (record, segments) in enumerate(rows):
            for field, value in self._encode(record, segments).items():
                batch[field][index] = value
        arguments = [self._params, self._on_mesh(batch)]
        if options:
            arguments.append(jax.random.fold_in(self._rng, number))
        with jax.set_mesh(self._sharding.mesh):
            return self._function(name, options)(*arguments)

    def _function(self, name, options):
        key = name, *(options or {}).values()
        if key not in self._compiled:
            function = functools.partial(self._functions[name], **(options or {}))
            self._compiled[key] = jax.jit(function, out_shardings=self._everywhere)
        return self._compiled[key]

    def _on_mesh(self, batch):
        """Every process holds the whole batch and gives its devices their rows."""
        return {
            name: jax.make_array_from_callback(value.shape, self._sharding, value.__getitem__)
            for name, value in batch.items()
        }


def _packed(queries, slots):
    """Yields (record, segments): neighbours of one image together, at most `slots` of them."""
    record, segments = None, []
    for query in queries:
        if segments and (query.record is not record or len(segments) == slots):
            yield record, segments
            segments = []
        record = query.record
        segments.append(query.segment)
    if segments:
        yield record, segments


def _chunks(values, size):
    chunk = []
    for value in values:
        chunk.append(value)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _unpacked(output, used):
    """Device [B, R, …] to the list of answers of the used slots, row by row."""
    output = np.asarray(output)
    return [output[row, slot] for row, slots in enumerate(used) for slot in range(slots)]

"""From questions to answers: packs, pads, dispatches and puts the answers back in order.

All questions about one image share its row (R slots; more rows when there are more questions),
rows fill batches of one fixed size, and the last batch is padded, so each predict function compiles
once. Batches are dispatched without waiting for their answers; at most AHEAD of them are under way.
With several processes each one encodes all questions and receives all answers.

Answers may be kept on disk as they come (answers.py); an evaluation that was stopped finds them
there and asks the rest.
"""

import collections
import dataclasses
import functools
import hashlib
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
    kept: int = 0  # of them, answered before the evaluation was stopped
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
      encode: (record, list of at most R Segments, BatchSpec) → one row: the batch's fields
        without B.
      decode: token ids of one answer, i32 [T] → text.
      eos_id: the token that ends an answer.
      batch_size: rows a batch, over the whole mesh.
      sharding: NamedSharding of a batch's first axis.
      seed: of sampled text.
      answers: Answers, where answers are kept; None to keep none.

    Raises:
      ConfigError: a batch size that the mesh does not divide.
    """

    def __init__(
        self,
        functions,
        params,
        *,
        spec,
        encode,
        decode,
        eos_id,
        batch_size,
        sharding,
        seed=0,
        answers=None,
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
        self._shards = shards
        self._sharding = sharding
        self._answers = answers
        self._everywhere = NamedSharding(sharding.mesh, PartitionSpec())
        self._rng = jax.random.key(seed)
        self._compiled = {}
        self.tallies = collections.defaultdict(Tally)

    def has(self, name):
        """Whether the system has the predict function of that name."""
        return name in self._functions

    def caption_nll(self, queries, slots=None):
        """Mean negative log-likelihood of each query's target, nats a token; f32 [N].

        Args:
          queries: iterable of Query.
          slots: how many queries share one encoding of their image; None for R. The more there
            are, the fewer images a batch has.
        """
        return self._run("caption_nll", queries, slots=slots)

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

    def _run(self, name, queries, options=None, slots=None):
        """[N, …] of numpy: what the function says for each query, in order."""
        started = time.perf_counter()
        tally = self.tallies[name]
        spec, batch_size = self._sizes(slots)
        kept = self._answers and self._answers.next_round(name)
        answers, under_way = [], collections.deque()

        def arrive():
            found = _unpacked(*under_way[0][:2])
            if kept:
                kept.append(under_way[0][2], np.stack(found))
            under_way.popleft()
            answers.extend(found)

        for rows in _chunks(_packed(queries, spec.regions), batch_size):
            used = [len(segments) for _, segments in rows]
            number = tally.batches
            tally.queries += sum(used)
            tally.rows += len(rows)
            tally.batches += 1
            digest = _digest(rows) if kept else b""
            before = kept.kept(digest) if kept else None
            if before is not None:
                answers.extend(before)
                tally.kept += len(before)
                continue
            output = self._dispatch(name, options, rows, number, spec, batch_size)
            under_way.append((output, used, digest))
            if len(under_way) > AHEAD:
                arrive()
        while under_way:
            arrive()
        tally.seconds += time.perf_counter() - started
        return np.stack(answers) if answers else np.zeros((0,), np.float32)

    def _sizes(self, slots):
        """(BatchSpec, rows a batch) with so many slots a row, and about as many a batch as ever."""
        if not slots:
            return self._spec, self._batch_size
        rows = self._batch_size * self._spec.regions // slots
        rows = max(rows // self._shards, 1) * self._shards
        return dataclasses.replace(self._spec, regions=slots), min(rows, self._batch_size)

    def _dispatch(self, name, options, rows, number, spec, batch_size):
        """Starts one batch; returns device values [B, R, …], the same on every process."""
        batch = spec.zeros(batch_size)
        for index, (record, segments) in enumerate(rows):
            for field, value in self._encode(record, segments, spec).items():
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


def _digest(rows):
    """Bytes that tell the questions of a batch from others."""
    digest = hashlib.sha256()
    for _, segments in rows:
        for segment in segments:
            box = np.asarray(segment.region.bounding_box(), np.float32).tobytes()
            digest.update(repr((segment.prompt, segment.target, box)).encode())
        digest.update(b"\n")
    return digest.digest()

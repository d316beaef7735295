"""From questions to answers: packs, pads, dispatches and puts the answers back in order.

All questions about one image share its row (R slots; more rows when there are more questions),
rows fill batches of one fixed size, and the last batch is padded, so each predict function compiles
once for each of the few lengths to which prompts and texts are padded (`padded`). Texts that are
scored for a region share its slot. Batches are dispatched without waiting for their answers; at
most AHEAD of them are under way. With several processes each one encodes all questions and receives
all answers.

Answers may be kept on disk as they come (answers.py), row by row; an evaluation that was stopped
finds them there and asks the rest, on as many devices as there are now.
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

from regionjax.batch import TEXTS, Segment
from regionjax.config import ConfigError
from regionjax.regions import WHOLE_IMAGE

AHEAD = 4  # batches under way; enough to hide the host, few enough to bound memory
PARTS = (8, 4, 2, 1)  # of the most there may be: what texts are padded to


@dataclasses.dataclass(frozen=True)
class Query:
    """One question about one image; `record` is opaque and compared by identity.

    `texts` are the answers that `caption_nll` scores.
    """

    record: Any
    segment: Segment
    texts: tuple[str, ...] = ()


@dataclasses.dataclass
class Row:
    """Neighbouring queries of one image, and what is scored.

    Attributes:
      said: of each query, what it is asked to score: (target i32 [W, T], target_weight f32 [W, T]);
        None where nothing is.
      length: what these texts are padded to.
    """

    record: Any
    length: int = 0
    queries: list[Query] = dataclasses.field(default_factory=list)
    said: list = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Tally:
    """What one predict function was used for."""

    queries: int = 0
    kept: int = 0  # of them, answered before the evaluation was stopped
    rows: int = 0  # images encoded, one for up to R queries
    batches: int = 0
    seconds: float = 0.0  # from the first question to the last answer, with compilation


def padded(tokens, most):
    """The least part of `most` that has room for so many tokens; 1 for none."""
    rooms = [-(-most // part) for part in PARTS]
    return next(room for room in (1, *rooms) if room >= tokens)


class Predictor:
    """Answers queries with the pure predict functions of a system.

    Args:
      functions: {name: function} of a system's contract: caption_nll(params, batch) → [B, R, W],
        generate(params, batch, rng, *, eos_id, config) → i32 [B, R, T],
        heatmap(params, batch) → [B, R, h, w].
      params: the parameters, laid out on the mesh.
      spec: BatchSpec of every batch.
      encode: (record, list of at most R Segments, BatchSpec) → one row: the batch's fields
        without B; with texts_only=True, without the image.
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
        self._latest = None, None  # prompt, texts and W; the same as targets
        self.tallies = collections.defaultdict(Tally)

    def has(self, name):
        """Whether the system has the predict function of that name."""
        return name in self._functions

    def caption_nll(self, queries, texts, together=None, compared=False):
        """Mean negative log-likelihood of each of the queries' texts, nats a token.

        Args:
          queries: iterable of Query.
          texts: W, the most texts that a query has.
          together: how many texts, of one query or of several, share one encoding of their image;
            None for R. The more there are, the fewer images a batch has.
          compared: whether answers to different queries with the same texts will be compared. Then
            they are computed in the same shapes, so that what ties still ties.

        Returns:
          f32 [N, W]; a query that has fewer texts has 0 or NaN behind them.
        """
        scoring = {"texts": texts, "together": together, "compared": compared}
        return self._run("caption_nll", queries, **scoring)

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

    def _run(self, name, queries, options=None, *, texts=0, together=None, compared=False):
        """[N, …] of numpy: what the function says for each query, in order."""
        started = time.perf_counter()
        tally = self.tallies[name]
        spec, batch_size = self._sizes(texts, together)
        kept = self._answers and self._answers.next_round(name)
        answers, under_way = [], collections.deque()

        def arrive():
            output, asked = under_way[0]
            for row, found in zip(asked, np.asarray(output), strict=False):  # the last are empty
                found = found[: len(row.queries)]
                if kept:
                    kept.append(_digest(row), found)
                answers.extend(found)
            under_way.popleft()

        rows = self._packed(queries, spec, texts, compared)
        if kept:
            rows = self._unanswered(rows, kept, answers, tally)
        for asked in _chunks(rows, batch_size, compared):
            number = tally.rows
            tally.queries += sum(len(row.queries) for row in asked)
            tally.rows += len(asked)
            tally.batches += 1
            output = self._dispatch(name, options, asked, number, spec, batch_size)
            under_way.append((output, asked))
            if len(under_way) > AHEAD:
                arrive()
        while under_way:
            arrive()
        tally.seconds += time.perf_counter() - started
        return np.stack(answers) if answers else np.zeros((0, texts) if texts else 0, np.float32)

    def _unanswered(self, rows, kept, answers, tally):
        """Yields the rows from the first on whose answer is not kept; `answers` gets the others."""
        for row in rows:
            found = kept.kept(_digest(row))
            if found is None:
                yield row
                break
            tally.rows += 1
            tally.queries += len(found)
            tally.kept += len(found)
            answers.extend(found)
        yield from rows

    def _sizes(self, texts, together):
        """(BatchSpec, rows a batch): about as many texts, or slots without any, a batch as ever."""
        spec, each = self._spec, max(texts, 1)
        slots = max((together or spec.regions) // each, 1)
        rows = self._batch_size * spec.regions // (slots * each)
        rows = max(rows // self._shards, 1) * self._shards
        return dataclasses.replace(spec, regions=slots), min(rows, self._batch_size)

    def _packed(self, queries, spec, texts, compared):
        """Yields Rows: neighbours of one image together, as many as there are slots."""
        row = None
        for query in queries:
            said, length = self._said(query, spec, texts) if texts else (None, spec.target_length)
            if row and (
                query.record is not row.record
                or len(row.queries) == spec.regions
                or (compared and length != row.length)
            ):
                yield row
                row = None
            row = row or Row(query.record)
            row.length = max(row.length, length)
            row.queries.append(query)
            row.said.append(said)
        if row:
            yield row

    def _said(self, query, spec, texts):
        """A query's texts as (target, target_weight), [W, T] each, and what length they need."""
        key = query.segment.prompt, query.texts, texts
        if key != self._latest[0]:
            prompt = query.segment.prompt
            segments = [Segment(WHOLE_IMAGE, prompt, text) for text in query.texts]
            spec = dataclasses.replace(spec, regions=texts)
            row = self._encode(query.record, segments, spec, texts_only=True)
            self._latest = key, (row["target"], row["target_weight"])
        said = self._latest[1]
        return said, padded(_tokens(said[1]), spec.target_length)

    def _dispatch(self, name, options, rows, number, spec, batch_size):
        """Starts one batch; returns device values [B, R, …], the same on every process."""
        batch, length = spec.zeros(batch_size), max(row.length for row in rows)
        scored = rows[0].said[0]
        if scored is not None:
            shape = (batch_size, spec.regions, len(scored[0]), length)
            batch |= {field: np.zeros(shape, batch[field].dtype) for field in TEXTS}
        for index, row in enumerate(rows):
            segments = [query.segment for query in row.queries]
            for field, value in self._encode(row.record, segments, spec).items():
                if scored is None or field not in TEXTS:
                    batch[field][index] = value
            for slot, said in enumerate(row.said if scored is not None else ()):
                for field, value in zip(TEXTS, said, strict=True):
                    batch[field][index, slot] = value[:, :length]
        batch["prompt"] = batch["prompt"][
            ..., : padded(_tokens(batch["prompt"]), spec.prompt_length)
        ]
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


def _chunks(rows, size, alike):
    """Yields lists of at most `size` neighbouring Rows; `alike`: of one length."""
    chunk = []
    for row in rows:
        if chunk and (len(chunk) == size or (alike and row.length != chunk[0].length)):
            yield chunk
            chunk = []
        chunk.append(row)
    if chunk:
        yield chunk


def _tokens(texts):
    """The most tokens of a text, of ids or weights [..., T] padded with 0."""
    used = texts.any(tuple(range(texts.ndim - 1)))
    return int(np.flatnonzero(used).max(initial=-1)) + 1


def _digest(row):
    """Bytes that tell the questions of a row from others."""
    digest = hashlib.sha256()
    for query in row.queries:
        box = np.asarray(query.segment.region.bounding_box(), np.float32).tobytes()
        asked = query.segment.prompt, query.segment.target, query.texts, box
        digest.update(repr(asked).encode())
    return digest.digest()

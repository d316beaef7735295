"""The training stream: which example comes at which place, made into batches by Grain.

Example i is a function of (seed, i): the mixture gives its source, Grain's index shuffle its
record (a new order every epoch, nothing held in memory), `transforms` the rest. Worker, thread and
host counts only decide who makes it.
"""

import pathlib

import grain
import numpy as np
from absl import flags

from input_pipeline.records import open_records
from input_pipeline.tokens import Tokenizer
from input_pipeline.transforms import EncodeExample

_BATCHES_AHEAD = 4  # batches that threads or a worker may have ready


def training_loader(data, spec, directory, *, seed, batch_size, process_index=0, process_count=1):
    """Endless batches of the train split.

    Args:
      data: DataConfig.
      spec: BatchSpec.
      directory: prepared by prepare.ensure.
      seed: int >= 0; decides mixture, order and augmentation.
      batch_size: global, over all processes.
      process_index, process_count: this host; it makes the examples process_index,
        process_index + process_count, … of each batch.

    Returns:
      An iterator over {name: numpy array of this process's rows}, with get_state() and
      set_state(), whose JSON value (how many examples all processes have consumed) fits any
      number of processes and workers, and close(), which ends threads and workers.

    Raises:
      DataError: nothing prepared for a source, or (from next()) an example that cannot be made.
      ValueError: batch_size that process_count does not divide.
    """
    if batch_size % process_count:
        raise ValueError(f"batch size {batch_size} is not a multiple of {process_count} processes")
    if data.workers and not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain's workers read absl flags
    directory = pathlib.Path(directory)
    tokenizer = Tokenizer(directory / "tokenizer")
    stream = example_stream(data, directory, seed)
    stream = stream.map_with_index(EncodeExample(spec, data, tokenizer, seed))
    elastic = grain.experimental.ElasticIterator(
        stream,
        batch_size,
        grain.sharding.ShardOptions(process_index, process_count),
        read_options=grain.ReadOptions(data.threads, _BATCHES_AHEAD),
        multiprocessing_options=(
            grain.MultiprocessingOptions(data.workers, _BATCHES_AHEAD) if data.workers else None
        ),
    )
    return iter(elastic)


def example_stream(data, directory, seed):
    """The mixture of all sources' records (bytes) in training order, a grain.MapDataset."""
    parts = []
    names = sorted(data.mixture)  # the order in a config file decides nothing
    for number, source in enumerate(names):
        payloads = open_records(directory, source, data.train_split).payloads
        shuffle_seed = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
        parts.append(grain.MapDataset.source(payloads).shuffle(seed=shuffle_seed).repeat(None))
    return grain.MapDataset.mix(parts, weights=[data.mixture[name] for name in names])

"""The training stream: which example comes at which place, made into batches by Grain.

Example i is a function of (seed, i): the mixture gives its component and how far that one is,
Grain's index shuffle the record (a new order every epoch, nothing held in memory), `transforms` the
rest. Worker, thread and host counts only decide who makes it. The position in a checkpoint is how
many examples all processes have consumed, and the mixtures up to there.
"""

import pathlib

import grain
import numpy as np
from absl import flags

from input_pipeline import mixture as mixtures
from input_pipeline.errors import DataError
from input_pipeline.parts import train_parts
from input_pipeline.tokens import Tokenizer
from input_pipeline.transforms import EncodeExample
from regionjax.journal import log

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
      TrainingBatches.

    Raises:
      DataError: nothing prepared for a component of the mixture.
      ValueError: batch_size that process_count does not divide.
    """
    if batch_size % process_count:
        raise ValueError(f"batch size {batch_size} is not a multiple of {process_count} processes")
    if data.workers and not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain's workers read absl flags
    directory = pathlib.Path(directory)
    encode = EncodeExample(spec, data, Tokenizer(directory / "tokenizer"), seed)
    parts = open_parts(data, directory, seed)

    def batches(mixture):
        stream = grain.MapDataset.source(mixtures.MixedSource(mixture, parts))
        elastic = grain.experimental.ElasticIterator(
            stream.map_with_index(encode),
            batch_size,
            grain.sharding.ShardOptions(process_index, process_count),
            read_options=grain.ReadOptions(data.threads, _BATCHES_AHEAD),
            multiprocessing_options=(
                grain.MultiprocessingOptions(data.workers, _BATCHES_AHEAD) if data.workers else None
            ),
        )
        return iter(elastic)

    weights, candidates = example_weights(data, spec, directory)
    log.info("  %s", mixtures.slots_report(weights, candidates, spec.regions))
    return TrainingBatches(batches, mixtures.whole_shares(weights))


class TrainingBatches:
    """An iterator over {name: numpy array of this process's rows}; see training_loader.

    next() raises DataError for an example that cannot be made.
    """

    def __init__(self, batches, shares):
        """Takes a function Mixture → Grain's iterator, and the shares of the components."""
        self._make, self._shares = batches, shares
        self._phases = [[0, shares]]
        self._iterator = batches(mixtures.Mixture(self._phases))

    def __iter__(self):
        return self

    def __next__(self):
        return next(self._iterator)

    def get_state(self):
        """The position as JSON-able values; it fits any number of processes and workers."""
        return {"examples": self._iterator.get_state()["global_next_index"], "phases": self._phases}

    def set_state(self, state):
        """Goes on where get_state was called, from there on with the present mixture."""
        place, phases = state["examples"], state["phases"]
        self._phases = mixtures.continued(phases, self._shares, place)
        if phases and self._phases[-1] != phases[-1]:
            log.info(
                "the mixture changes from example %d on, from %s to %s; each component goes on "
                "where it is",
                place,
                _percent(phases[-1][1]),
                _percent(self._shares),
            )
        self.close()
        self._iterator = self._make(mixtures.Mixture(self._phases))
        self._iterator.set_state({"global_next_index": place})

    def close(self):
        """Ends threads and workers."""
        self._iterator.close()


def _percent(shares):
    total = sum(shares.values())
    return ", ".join(f"{name} {count / total:.2%}" for name, count in shares.items())


def open_parts(data, directory, seed):
    """{component: grain.MapDataset without an end}: its records (bytes) in the order of training.

    The order is a function of the seed and the component's name, whatever else is mixed in.
    """
    parts = {}
    for name, part in train_parts(data, directory).items():
        payloads = part.records().payloads
        entropy = [seed, *name.encode()]
        shuffle_seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
        parts[name] = grain.MapDataset.source(payloads).shuffle(seed=shuffle_seed).repeat(None)
    return parts


def example_weights(data, spec, directory):
    """How often each component comes, and what its records offer.

    Returns:
      ({component: relative number of examples},
       {component: {number of things that a record has to say: records}})

    Raises:
      DataError: a component was not prepared, or no task of its records is trained.
    """
    parts = train_parts(data, directory)
    weights = {name: data.mixture[name] for name in parts}
    candidates = {
        name: mixtures.wanted(part.facts["candidates"], data.task_weights)
        for name, part in parts.items()
    }
    for name, found in candidates.items():
        if not any(found):
            raise DataError(f"mixture: no record of {name} has anything to say that is trained")
    if data.mixture_by == "regions":
        weights = mixtures.weights_by_regions(weights, candidates, spec.regions)
    return weights, candidates

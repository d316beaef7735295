"""Which example of which component comes at which place of the training stream.

The order of components repeats with a period of at most 10 000 places, in which each has a whole
number of places, spread so evenly that at no place a component is a whole example ahead of its
share or behind it. So place i is found without going through those before it.

A mixture may change when a run is continued. The places then fall into phases, and each component
goes on with the example after the last one that it gave; the checkpoint keeps the phases.
"""

import bisect
import collections
import sys

import numpy as np

from input_pipeline.records import BadRecord

_LONGEST = 10_000  # places in a period
_EXACT = 1e-9  # how far from a whole number a share of a period may be by rounding


def whole_shares(weights):
    """Weights as whole numbers of places in a period.

    The shortest period in which all shares are whole; where none of at most 10 000 places is,
    10 000 places shared by largest remainder. Every component has at least one.

    Args:
      weights: {name: number above 0}.

    Returns:
      {name: int}, names sorted.
    """
    names = sorted(weights)
    shares = np.array([weights[name] for name in names], np.float64)
    shares /= shares.sum()
    ideal = np.arange(len(names), _LONGEST + 1)[:, None] * shares
    exact = (np.abs(ideal - np.rint(ideal)) < _EXACT).all(axis=1) & (ideal > 0.5).all(axis=1)
    if exact.any():
        counts = np.rint(ideal[exact.argmax()]).astype(int)
    else:
        counts = np.floor(ideal[-1]).astype(int)
        by_remainder = np.argsort(counts - ideal[-1], kind="stable")
        counts[by_remainder[: _LONGEST - counts.sum()]] += 1
        while not counts.all():
            counts[counts.argmin()] += 1
            counts[counts.argmax()] -= 1
    return dict(zip(names, counts.tolist(), strict=True))


def _period(counts):
    """Order of components in a period: which one, and how often it came before; int64 [P] each.

    Example j of a component with n of P places has the places from jP/n to (j+1)P/n to choose
    from; at each place comes the one whose time is up first. (Baruah et al., Proportionate
    progress, 1996: so every one gets a place in its time.)
    """
    counts = np.array(counts)
    period = counts.sum()
    used = np.zeros_like(counts)
    which, rank = np.empty(period, np.int64), np.empty(period, np.int64)
    opens, closes = np.zeros_like(counts), -(-period // counts)
    for place in range(period):
        chosen = np.where(opens <= place, closes, period + 1).argmin()
        which[place], rank[place] = chosen, used[chosen]
        used[chosen] += 1
        opens[chosen] = used[chosen] * period // counts[chosen]
        closes[chosen] = -(-(used[chosen] + 1) * period // counts[chosen])
    return which, rank


class Mixture:
    """Place in the training stream → (component, example of that component).

    Attributes:
      phases: JSON-able list of [first place, {name: places in a period}], as given.
    """

    def __init__(self, phases):
        self.phases = phases
        self._starts = [start for start, _ in phases]
        self._tables, before = [], {}
        for (start, shares), end in zip(phases, [*self._starts[1:], None], strict=True):
            which, rank = _period(list(shares.values()))
            table = list(shares), list(shares.values()), which, rank, dict(before)
            self._tables.append(table)
            if end is not None:
                cycles, rest = divmod(end - start, len(which))
                seen = np.bincount(which[:rest], minlength=len(shares)).tolist()
                for (name, count), extra in zip(shares.items(), seen, strict=True):
                    before[name] = before.get(name, 0) + cycles * count + extra

    def locate(self, place):
        """(name, index) of place >= 0; the indices of a name count up from 0 without a gap."""
        phase = bisect.bisect_right(self._starts, place) - 1
        names, counts, which, rank, before = self._tables[phase]
        cycle, place = divmod(place - self._starts[phase], len(which))
        number = which[place]
        name = names[number]
        return name, before.get(name, 0) + cycle * counts[number] + int(rank[place])


def continued(phases, shares, place):
    """The phases of a run that goes on at `place` with these shares, which may be the same.

    A phase that gave no example (the run stopped before its first step) leaves no trace.
    """
    kept = [phase for phase in phases if phase[0] < place]
    return kept if kept and kept[-1][1] == shares else [*kept, [place, shares]]


class MixedSource:
    """The bytes of records in the order of a mixture: a random access source without an end.

    In place of a record that cannot be read stands the BadRecord that says why.
    """

    def __init__(self, mixture, parts):
        """Takes a Mixture and {name: sequence without an end}."""
        self.mixture, self.parts = mixture, parts

    def __len__(self):
        return sys.maxsize

    def __getitem__(self, place):
        name, index = self.mixture.locate(int(place))
        try:
            return self.parts[name][index]
        except BadRecord as error:
            return error


# ---- slots --------------------------------------------------------------------------------------


def told(tasks):
    """What a record offers, {task: how often}, in words: "6 describe, 6 locate"."""
    return ", ".join(f"{count} {task}" for task, count in sorted(tasks.items()))


def wanted(offered, task_weights):
    """{number of things that a record has to say: records}, of the tasks that are trained.

    Args:
      offered: {what a record offers, as `told` has it: number of such records}.
      task_weights: {task: weight}; what has a weight of 0 is never trained.
    """
    found = collections.Counter()
    for words, records in offered.items():
        pairs = [pair.split() for pair in words.split(", ") if pair]
        found[sum(int(count) for count, task in pairs if task_weights.get(task, 1))] += records
    return dict(found)


def filled_slots(candidates, regions):
    """How many of R slots the records of a component fill on average.

    Args:
      candidates: {number of things that a record has to say: number of such records}.
      regions: R.

    Returns:
      (mean number of slots filled, share of records with more candidates than slots)
    """
    number = np.array(list(candidates))
    records = np.array(list(candidates.values()))
    mean = (np.minimum(number, regions) * records).sum() / records.sum()
    return float(mean), float(records[number > regions].sum() / records.sum())


def weights_by_regions(weights, candidates, regions):
    """{name: relative number of examples} for weights that are relative numbers of regions.

    Args:
      weights: {name: number above 0}.
      candidates: {name: as in filled_slots}, none without a record that has something to say.
      regions: R.
    """
    examples = {}
    for name, weight in weights.items():
        mean, _ = filled_slots(candidates[name], regions)
        examples[name] = weight / mean
    return examples


def slots_report(weights, candidates, regions):
    """A line that says how full the slots will be.

    Args:
      weights: {name: relative number of examples}.
      candidates, regions: as in weights_by_regions.
    """
    found = {name: filled_slots(candidates[name], regions) for name in weights}
    total = sum(weights.values())
    mean = sum(weights[name] * filled for name, (filled, _) in found.items()) / total
    parts = "; ".join(
        f"{name} {filled:.1f}" + (f", {more:.0%} of its records have more" if more else "")
        for name, (filled, more) in found.items()
    )
    return f"{mean:.1f} of {regions} slots will be filled on average ({parts})"

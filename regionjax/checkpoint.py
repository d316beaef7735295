"""Checkpoints: the train state, the position in the data and the tally, written as one.

A checkpoint is the folder `DIRECTORY/<step>` with three parts: `state` (TrainState), `data` (the
input iterator's position, JSON) and `meta` (step, config, tally; JSON). It is written in the
background under a temporary name and renamed when it is whole, so a crash or a full disk never
leaves half a checkpoint and never costs the one before it. No other module knows Orbax.
"""

import contextlib
import dataclasses
import pathlib

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from regionjax import tables
from regionjax.config import nearest


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or read; the message says which one and why."""


@dataclasses.dataclass(frozen=True)
class OnHost:
    """What to ask for instead of a ShapeDtypeStruct in order to get a numpy array."""

    shape: tuple[int, ...]
    dtype: np.dtype


class Checkpoints:
    """The checkpoints of one run.

    Args:
      directory: made when absent.
      keep_latest: how many of the newest to keep, at least 1.
      keep_every: also keep every checkpoint whose step is a multiple of this; 0 keeps none.
    """

    def __init__(self, directory, *, keep_latest=1, keep_every=0):
        self.directory = pathlib.Path(directory).absolute()
        policies = ocp.training.preservation_policies
        keep = [policies.LatestN(keep_latest)]
        if keep_every:
            keep.append(policies.EveryNSteps(keep_every))
        self._orbax = ocp.training.Checkpointer(
            self.directory,
            preservation_policy=policies.AnyPreservationPolicy(keep),
            cleanup_tmp_directories=True,  # what a killed run left half-written
            context=_context(),
        )
        self._writing = None  # the step of the last save

    def save(self, step, state, data, meta):
        """Starts writing a checkpoint; returns when `state` may be donated or changed.

        A save that is still being written is waited for first, and its failure reported.

        Args:
          step: steps completed.
          state: TrainState.
          data: the input iterator's position after those steps, as JSON-able values.
          meta: JSON-able mapping.

        Raises:
          CheckpointError: this save or the one before could not be written.
        """
        self.wait()
        parts = {"state": state, "data": {"position": data}, "meta": meta}
        self._writing = step
        with self._reported(), jax.transfer_guard("allow"):  # the copy to the host is wanted
            # force: by its own rules Orbax would leave some saves out.
            self._orbax.save_checkpointables_async(step, parts, force=True)

    def wait(self):
        """Returns when the last save is on disk. Raises CheckpointError if it never will be."""
        with self._reported():
            self._orbax.wait()

    def close(self):
        """Waits for the saves, as `wait` does, and frees the writer."""
        try:
            self.wait()
        finally:
            self._orbax.close()

    @contextlib.contextmanager
    def _reported(self):
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            last = latest_step(self.directory)
            before = (
                "there is no earlier one" if last is None else f"step {last} is whole and valid"
            )
            raise CheckpointError(
                f"the checkpoint of step {self._writing} in {self.directory} could not be written "
                f"(is the disk full?): {str(error).splitlines()[0]}; {before}"
            ) from error


def latest_step(directory):
    """The step of the newest whole checkpoint, or None."""
    folder = pathlib.Path(directory)
    steps = [int(p.name) for p in folder.iterdir() if p.name.isdigit()] if folder.is_dir() else []
    return max(steps, default=None)


def load_meta(directory, step):
    """What the run said about itself at this step: step, config, tally."""
    return _load(directory, step, {"meta": None})["meta"]


def load(directory, step, state):
    """Reads a whole checkpoint straight to where it belongs.

    Args:
      directory: of the checkpoints.
      step: a step that is there.
      state: TrainState of ShapeDtypeStructs with shardings; they may be of another mesh than the
        one that saved.

    Returns:
      TrainState, data position.

    Raises:
      CheckpointError: the arrays in the checkpoint are others than those asked for.
    """
    _check_same_arrays(directory, step, tables.flatten(state))
    parts = _load(directory, step, {"state": state, "data": None})
    return parts["state"], parts["data"]["position"]


def load_params(directory, step, params):
    """Reads the parameters only: no optimiser slot leaves the disk.

    Args:
      params: nested dictionary of ShapeDtypeStructs with shardings.

    Returns:
      Like `params`, arrays.
    """
    _check_same_arrays(directory, step, tables.flatten(params, "params"), within="params/")
    return load_some_params(directory, step, params)


def load_some_params(directory, step, params):
    """Like `load_params`, of a checkpoint that may have more; dtypes are converted.

    Args:
      params: nested dictionary of ShapeDtypeStructs with shardings, or of OnHost.
    """
    context = ocp.Context()
    context.pytree.loading.partial_load = True
    with context:
        return _load(directory, step, {"state": {"params": params}})["state"]["params"]


def params_in(directory, step):
    """{path: array's metadata with `shape` and `dtype`} of the parameters, without values."""
    path = _folder(directory, step)
    saved = ocp.metadata(path, checkpointable_name="state").metadata["params"]
    return tables.flatten(saved)


def _context():
    # Weights hardly shrink (8 %), and compressing them takes a second copy and four times as long.
    context = ocp.Context()
    context.array.saving.use_compression = False
    return context


def _load(directory, step, parts):
    return ocp.load_checkpointables(_folder(directory, step), parts)


def _folder(directory, step):
    folder = pathlib.Path(directory).absolute() / str(step)
    if not folder.is_dir():
        raise CheckpointError(f"there is no checkpoint {folder}")
    return folder


def _check_same_arrays(directory, step, wanted, within=""):
    """Compares names, shapes and dtypes before anything is read."""
    path = _folder(directory, step)
    saved = tables.flatten(ocp.metadata(path, checkpointable_name="state").metadata)
    saved = {name: array for name, array in saved.items() if name.startswith(within)}
    for name in wanted:
        if name not in saved:
            raise CheckpointError(f"{path} has no {name}{nearest(name, saved)}")
    for name in saved:
        if name not in wanted:
            raise CheckpointError(f"{path}: {name} is unknown to this run{nearest(name, wanted)}")
    for name, array in wanted.items():
        there = saved[name]
        if tuple(there.shape) != array.shape or there.dtype != array.dtype:
            raise CheckpointError(
                f"{path}: {name} is {there.dtype}{list(there.shape)}, "
                f"this run has {array.dtype}{list(array.shape)}"
            )

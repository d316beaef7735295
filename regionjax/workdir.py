"""The folder of a run: it belongs to one config.

WORKDIR/config.json    the config, as used
WORKDIR/checkpoints/   regionjax/checkpoint.py
WORKDIR/data/          prepared records and the tokenizer (input_pipeline/prepare.py)
WORKDIR/answers/       what an evaluation that was stopped has been told (evaluators/answers.py)
WORKDIR/metrics.jsonl  one line a logged step; WORKDIR/tensorboard/ has the same
WORKDIR/log.txt        what the run said, the whole parameter table included
"""

import json
import os
import pathlib

import jax
from jax.experimental import multihost_utils

from regionjax import checkpoint
from regionjax.config import ConfigError

# What a run may be resumed with although it was started otherwise: nothing here changes what was
# learned so far or, but for the mixture, which example comes next.
MAY_DIFFER = (
    "train.steps",  # train longer; the learning rate follows the new length from here on
    "train.microbatches",  # sums are exact in any number of parts, up to rounding
    "train.log_every",
    "train.checkpoint_every",
    "train.keep_latest",
    "train.keep_every",
    "train.abort_after_skipped",
    "train.evaluate_at_end",
    "mesh.",  # go on with other devices; equal up to rounding
    "data.workers",  # the batches are the same for any number of them
    "data.threads",
    "data.mixture.",  # each component goes on where it is; see input_pipeline/mixture.py
    "data.mixture_by",
    "data.prepared",  # a part may lie elsewhere; prepare.ensure checks that it is the same one
    "data.eval_split",  # nothing is learnt from it
    "data.on_bad",  # a run that met an unreadable image may go on without it
    "evaluate.",
    "dialogue.",
)


def claim(workdir, config, *, force_new=False):
    """Makes `workdir` the folder of this config.

    Args:
      workdir: path; made when absent.
      config: ConfigDict.
      force_new: move an existing folder aside (nothing is deleted) and begin anew.

    Returns:
      The path of the folder.

    Raises:
      ConfigError: the folder has checkpoints of another config; the message lists how they differ.
    """
    folder = pathlib.Path(workdir).absolute()
    record = folder / "config.json"
    first = jax.process_index() == 0
    if force_new:
        if first and folder.exists():
            folder.rename(_free_name(folder))
    else:
        check(folder, config)
    meet("workdir read")  # nobody may write before all have read
    if first:
        folder.mkdir(parents=True, exist_ok=True)
        fresh = folder / "config.json.new"
        fresh.write_text(json.dumps(_plain(config), indent=2) + "\n")
        os.replace(fresh, record)
    meet("workdir claimed")
    return folder


def check(folder, config):
    """Raises ConfigError, a list of differences, if `folder` has checkpoints of another config."""
    record = pathlib.Path(folder) / "config.json"
    # Without a checkpoint there is nothing to lose, nor to go on from.
    if not record.exists() or checkpoint.latest_step(record.parent / "checkpoints") is None:
        return
    if found := differences(json.loads(record.read_text()), _plain(config), MAY_DIFFER):
        raise ConfigError(
            f"{folder} holds a run of another config:\n  "
            + "\n  ".join(found)
            + "\nUse another --workdir, or --force_new_workdir to move this one aside."
        )


def _plain(config):
    """The config as JSON would give it back: tuples are lists."""
    return json.loads(json.dumps(config.to_dict()))


def differences(old, new, may_differ=()):
    """How two configs differ: list of "path: old value -> new value".

    Args:
      old, new: dict, as JSON gives them back.
      may_differ: beginnings of the paths that do not count.
    """
    old, new = _leaves(old), _leaves(new)
    return [
        f"{path}: {old.get(path, 'absent')} -> {new.get(path, 'absent')}"
        for path in dict.fromkeys([*old, *new])
        if old.get(path) != new.get(path) and not path.startswith(may_differ)
    ]


def _leaves(tree, path=""):
    leaves = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            leaves |= _leaves(value, f"{path}{key}.")
        else:
            leaves[f"{path}{key}"] = value
    return leaves


def _free_name(folder):
    number = 1
    while (aside := folder.with_name(f"{folder.name}.old-{number}")).exists():
        number += 1
    return aside


def meet(name):
    """Waits for the other processes, if there are any."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)

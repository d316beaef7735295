"""The command: flags and dispatch only.

    python -m regionjax.main --config FILE[:ARG] --workdir DIR [--mode MODE] [--config.a.b=VALUE …]

Modes:
  train     train, or go on from the last checkpoint in the workdir; then evaluate, unless
            --config.train.evaluate_at_end=False
  evaluate  evaluate the last checkpoint in the workdir
  plan      compile the training step for --topology, without having one

Exit codes:
  0    done
  1    plan: it does not fit; otherwise an error in the program, with its traceback
  2    a flag, a setting, a file or the data cannot be used; the message says which
  3    too many updates in a row were not finite
  4    the disk is full, or a checkpoint could not be written or read; those before stay valid
  130  stopped by Ctrl-C
  143  stopped by SIGTERM; both save one last checkpoint when training has begun, and the same
       command goes on from there
"""

import errno
import itertools
import sys

import jax
from absl import app, flags
from ml_collections import config_flags

from input_pipeline.errors import DataError
from regionjax import config as configs
from regionjax import journal
from regionjax.checkpoint import CheckpointError
from regionjax.config import ConfigError, nearest
from regionjax.metrics import NotFinite
from regionjax.signals import Stopped

_CONFIG = config_flags.DEFINE_config_file("config", None, "config file, FILE or FILE:ARG")
_WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run; made when absent")
_MODE = flags.DEFINE_enum("mode", "train", ("train", "evaluate", "plan"), "what to do")
_FORCE_NEW_WORKDIR = flags.DEFINE_bool(
    "force_new_workdir", False, "move the workdir aside, deleting nothing, and begin anew"
)
_DISTRIBUTED = flags.DEFINE_bool("distributed", False, "one of several processes of a run")
_TOPOLOGY = flags.DEFINE_string("topology", None, "plan: a TPU slice, such as v5e:4x4")
_NUM_SLICES = flags.DEFINE_integer("num_slices", 1, "plan: how many of them", lower_bound=1)


def dispatch():
    """Does what the flags say and returns the exit code."""
    journal.to_console()
    if _DISTRIBUTED.value:
        jax.distributed.initialize()
    if _MODE.value == "plan":
        return _plan()
    # Imported for the mode that needs it: data libraries alone take seconds.
    from regionjax.evaluate import evaluate
    from regionjax.train import train

    _require(_WORKDIR)
    if _MODE.value == "train":
        train(_CONFIG.value, _WORKDIR.value, force_new=_FORCE_NEW_WORKDIR.value)
    if _MODE.value == "evaluate" or _CONFIG.value.train.evaluate_at_end:
        evaluate(_CONFIG.value, _WORKDIR.value)
    return 0


def _plan():
    from regionjax.plan import plan

    _require(_TOPOLOGY)
    return plan(_CONFIG.value, _TOPOLOGY.value, num_slices=_NUM_SLICES.value)


def _require(flag):
    if flag.value is None:
        raise ConfigError(f"--mode {_MODE.value} needs --{flag.name}")


def parse(argv):
    """Parses the flags. An override of a setting that is not there names the nearest one.

    Raises:
      ConfigError: no such flag, file or setting, or a value that is none.
    """
    path = _value(argv, "config")
    if path is not None:
        known = configs.load(path)
        for argument in argv[1:]:
            name = argument.lstrip("-").partition("=")[0]
            if argument.startswith("-") and name.startswith("config."):
                _check_setting(known, name.split(".")[1:])
    try:
        rest = flags.FLAGS(argv)[1:]
    except flags.Error as error:
        raise ConfigError(str(error)) from error
    if rest:
        raise ConfigError(f"what is {rest[0]!r} for? Settings look like --config.train.steps=50")
    if path is None:
        raise ConfigError("--config is missing: a file such as configs/quickstart.py")


def _check_setting(section, path):
    where = "config"
    for name in path:
        if not hasattr(section, "keys") or name not in section:
            others = section.keys() if hasattr(section, "keys") else ()
            hint = nearest(name, others) if others else f"; {where} is a single value"
            raise ConfigError(f"{where}.{name} is not in the config{hint}")
        section, where = section[name], f"{where}.{name}"


def _value(argv, flag):
    """The value of `--flag=value` or `--flag value`, or None."""
    for argument, following in itertools.pairwise([*argv[1:], None]):
        name, equals, value = argument.partition("=")
        if name in (f"--{flag}", f"-{flag}"):
            return value if equals else following
    return None


def main():
    """The whole program; returns one of the exit codes above."""
    app.define_help_flags()
    try:
        parse(sys.argv)
        return dispatch()
    except Stopped as stopped:
        return _say(stopped, 128 + stopped.signal)
    except KeyboardInterrupt:
        return _say("stopped by SIGINT outside training; there was nothing to save", 130)
    except (ConfigError, DataError) as error:
        return _say(error, 2)
    except NotFinite as error:
        return _say(error, 3)
    except CheckpointError as error:
        return _say(error, 4)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        return _say(f"{error}; the checkpoints that are there stay valid", 4)


def _say(what, code):
    print(f"regionjax: {what}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())

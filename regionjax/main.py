"""The command: flags and dispatch only.

    python -m regionjax.main --config FILE[:ARG] --workdir DIR [--mode MODE] [--config.a.b=VALUE …]

A VALUE is a Python literal, or a plain string: --config.train.steps=50,
--config.optim.frozen="(('^params/vit/', True), ('.*', False))", --config.data.root=photos.

Modes:
  train     train, or go on from the last checkpoint in the workdir; then evaluate, unless
            --config.train.evaluate_at_end=False. Of a config with `claims`: train and evaluate all
            its runs, as far as that is to be done, and write their table
  evaluate  evaluate the last checkpoint in the workdir; with `claims`: write the table of the runs
            that are finished
  chat      talk about the photograph --image: lines such as `@12,30 15,33 what is this?`, points in
            pixels, from the terminal or a pipe (/help lists the others). The weights are those of
            the workdir's last checkpoint, else of config.init_from. config.evaluate says how texts
            are made (generation, of answers short_answers; seed), config.dialogue what is told of
            earlier ones. Nothing is written.
  plan      compile the training step for --topology, without having one; without --topology,
            count parameters, memory and FLOPs of the shapes

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

import ast
import errno
import sys

import jax
from absl import app, flags
from ml_collections import ConfigDict

from input_pipeline.errors import DataError
from regionjax import allocator, journal
from regionjax import config as configs
from regionjax.checkpoint import CheckpointError
from regionjax.config import ConfigError, build, nearest
from regionjax.metrics import NotFinite
from regionjax.settings import Settings
from regionjax.signals import Stopped

_CONFIG = flags.DEFINE_string("config", None, "config file, FILE or FILE:ARG")
_WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run; made when absent")
_MODE = flags.DEFINE_enum("mode", "train", ("train", "evaluate", "chat", "plan"), "what to do")
_FORCE_NEW_WORKDIR = flags.DEFINE_bool(
    "force_new_workdir", False, "move the workdir aside, deleting nothing, and begin anew"
)
_IMAGE = flags.DEFINE_string("image", None, "chat: a photograph to begin with")
_DISTRIBUTED = flags.DEFINE_bool("distributed", False, "one of several processes of a run")
_TOPOLOGY = flags.DEFINE_string("topology", None, "plan: a TPU slice, such as v5e:4x4")
_NUM_SLICES = flags.DEFINE_integer("num_slices", 1, "plan: how many of them", lower_bound=1)
# Flags that one mode alone reads.
_OF_MODE = {"train": (_FORCE_NEW_WORKDIR,), "chat": (_IMAGE,), "plan": (_TOPOLOGY, _NUM_SLICES)}


def parse(argv):
    """Reads the command line into the flags and a ConfigDict.

    Raises:
      ConfigError: no such flag, file or section, or a value that a flag cannot have. Whether the
        settings exist and have the right types is for `config.build` to say.
    """
    overrides = [argument for argument in argv[1:] if argument.startswith("--config.")]
    try:
        rest = flags.FLAGS([argument for argument in argv if argument not in overrides])[1:]
    except flags.Error as error:
        raise ConfigError(str(error)) from error
    if rest:
        raise ConfigError(f"what is {rest[0]!r} for? Settings look like --config.train.steps=50")
    if _CONFIG.value is None:
        raise ConfigError("--config is missing: a file such as configs/quickstart.py")
    for mode, own in _OF_MODE.items():
        for flag in own if mode != _MODE.value else ():
            if flag.present:
                raise ConfigError(f"--mode {_MODE.value} has no use for --{flag.name}")
    config = configs.load(_CONFIG.value)
    with config.unlocked(), config.ignore_type():
        for override in overrides:
            _override(config, override)
    return config


def _override(section, argument):
    """Puts `--config.a.b=value` into place; settings that the file leaves out may be given too."""
    path, equals, text = argument.removeprefix("--").partition("=")
    if not equals:
        raise ConfigError(f"{argument} has no value; write {argument}=VALUE")
    where, *parents, key = path.split(".")
    for name in parents:
        sections = [name for name, value in section.items() if isinstance(value, ConfigDict)]
        if name not in sections:
            hint = nearest(name, sections) if sections else ""
            raise ConfigError(f"{where}.{name} is not a section{hint}")
        section, where = section[name], f"{where}.{name}"
    value = _literal(text, section.get(key))
    if isinstance(section.get(key), ConfigDict) and not isinstance(value, dict | None):
        raise ConfigError(f"{path} is a section; set what is in it, as in {path}.NAME=VALUE")
    section[key] = value


def _literal(text, current):
    """The value of a text: a string where there is one already, else a Python literal."""
    if isinstance(current, str):
        return text
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):  # not a literal: a string, such as a path
        return text


def dispatch(config):
    """Does what the flags say and returns the exit code."""
    journal.to_console()
    settings = build(Settings, config, "config")  # what is wrong is said at once
    if _DISTRIBUTED.value:
        jax.distributed.initialize()
    # Imported for the mode that needs it, as the libraries of the others take seconds.
    if _MODE.value == "plan":
        from regionjax.plan import plan

        return plan(config, _TOPOLOGY.value, num_slices=_NUM_SLICES.value)
    workdir = _required(_WORKDIR)
    if _MODE.value == "chat":
        from regionjax.chat import chat

        chat(config, workdir, _IMAGE.value)
        return 0
    if settings.claims:
        from regionjax.claims.study import study

        table_only = _MODE.value == "evaluate"
        study(config, workdir, table_only=table_only, force_new=_FORCE_NEW_WORKDIR.value)
        return 0
    if _MODE.value == "train":
        from regionjax.train import train

        train(config, workdir, force_new=_FORCE_NEW_WORKDIR.value)
    if _MODE.value == "evaluate" or settings.train.evaluate_at_end:
        from regionjax.evaluate import evaluate

        evaluate(config, workdir)
    return 0


def _required(flag):
    if flag.value is None:
        raise ConfigError(f"--mode {_MODE.value} needs --{flag.name}")
    return flag.value


def main():
    """The whole program; returns one of the exit codes above."""
    app.define_help_flags()
    try:
        return dispatch(parse(sys.argv))
    except Stopped as stopped:
        return _say(stopped, 128 + stopped.signal)
    except KeyboardInterrupt:
        return _say("stopped by SIGINT outside training; the same command goes on", 130)
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
    if allocator.computes_itself(jax.config.jax_platforms):
        allocator.keep_freed_memory()
    sys.exit(main())

"""Talking to a run about a photograph: which parameters, which words, then the conversation.

Nothing is written: the folder of the run may be somebody else's.
"""

import pathlib
import tempfile

import jax
import jax.numpy as jnp

from input_pipeline.tokens import Tokenizer, adopt, check_size
from regionjax import checkpoint, sharding, starting, tables, workdir
from regionjax.config import ConfigError, build
from regionjax.dialogue import DialogueConfig, Photograph, Speaker
from regionjax.evaluators.settings import EvaluateConfig
from regionjax.journal import log
from regionjax.mesh import make_mesh
from regionjax.settings import Settings
from regionjax.step import TrainState, init_model
from regionjax.systems import system as systems
from regionjax.terminal import Terminal, from_input


def chat(config, folder, image=None, *, build_system=systems.build):
    """Talks about photographs until the input ends.

    Args:
      config: ConfigDict.
      folder: the run's, see regionjax/workdir.py.
      image: path of the first photograph, or None: the conversation begins with /image.
      build_system: (config, BatchSpec) → System.

    Raises:
      ConfigError: a setting that cannot be used, a folder of another config, no parameters.
      BadImage: the first photograph cannot be read.
    """
    photograph = Photograph.open(image) if image else None  # before anything that takes long
    speaker = open_speaker(config, folder, build_system=build_system)
    terminal = Terminal(speaker, from_input(), _write)
    if photograph:
        terminal.show(photograph)
    terminal.run()


def _write(text):
    print(text, end="", flush=True)


def open_speaker(config, folder, *, build_system=systems.build):
    """The Speaker of a run's newest checkpoint, or of `config.init_from` where there is none.

    Text is generated, and drawn, as `config.evaluate` says.

    Args:
      config: ConfigDict.
      folder: the run's.
      build_system: (config, BatchSpec) → System.

    Raises:
      ConfigError: a setting that cannot be used, a folder of another config, no parameters.
      checkpoint.CheckpointError: a checkpoint of another model.
      DataError: a tokenizer that cannot be used.
    """
    if jax.process_count() > 1:
        raise ConfigError("--mode chat is for one process")
    settings = build(Settings, config, "config")
    asked = build(EvaluateConfig, settings.evaluate, "config.evaluate")
    told = build(DialogueConfig, settings.dialogue, "config.dialogue")
    folder = pathlib.Path(folder)
    mesh = make_mesh(settings.mesh)
    system = build_system(config, settings.batch)
    init = lambda: _untrained(system, settings)  # noqa: E731
    shapes = jax.eval_shape(init)
    places, _ = sharding.state_shardings(shapes, system.sharding_rules, mesh)
    tokenizer = _tokenizer(settings.data, folder / "data" / "tokenizer", system.vocabulary)
    if step := checkpoint.latest_step(folder / "checkpoints"):
        workdir.check(folder, config)
        log.info("weights: step %d of %s", step, folder)
        placed = sharding.placed(shapes.params, places.params)
        params = checkpoint.load_params(folder / "checkpoints", step, placed)
    else:
        params = _from_init(settings.init_from, folder, init, shapes, places)
    return Speaker(
        system.predict,
        params,
        spec=settings.batch,
        tokenizer=tokenizer,
        prompts=settings.data.prompts,
        normalize_text=settings.data.normalize_text,
        generation=asked.generation,
        short_answers=asked.short_answers,
        config=told,
        mesh=mesh,
        seed=asked.seed,
    )


def _untrained(system, settings):
    """TrainState without an optimiser."""
    model, zero = init_model(system, settings.seed, settings.batch), jnp.zeros((), jnp.int32)
    return TrainState(zero, model["params"], model["state"], (), zero, zero)


def _from_init(sections, folder, init, shapes, places):
    """Parameters as a new run would begin with."""
    if not sections:
        raise ConfigError(
            f"{folder} has no checkpoint and config.init_from names none: nothing to talk to"
        )
    start = starting.plan(sections, shapes.params)
    log.info("weights: %s has no checkpoint, so those that a run would start from:", folder)
    params = starting.begin(init, shapes, places, start).params  # logs where each is from
    fresh = set(tables.flatten(shapes.params)) - set(start.sources)
    if fresh:
        log.warning(
            "%d arrays are at random, such as %s; what is said means little before training",
            len(fresh),
            min(fresh),
        )
    return params


def _tokenizer(data, directory, vocabulary):
    """The run's Tokenizer, or the one that a run would adopt."""
    with tempfile.TemporaryDirectory() as scratch:
        if not directory.is_dir():
            if not data.tokenizer:
                raise ConfigError(
                    f"{directory} is not there: training makes it of the data's texts, unless "
                    "config.data.tokenizer names one"
                )
            directory = pathlib.Path(scratch) / "tokenizer"
            adopt(data.tokenizer, data.location_bins, directory)
        check_size(directory, vocabulary)
        return Tokenizer(directory)

"""Training, told once from top to bottom.

The order inside the loop is a contract: a step begins with the next batch and ends with the save,
so a checkpoint of step n holds the position of the input after n batches, and a restart neither
repeats nor leaves out one. `step` means steps completed.
"""

import contextlib
import gc
import pathlib
from concurrent.futures import ThreadPoolExecutor

import jax
from jax.experimental import multihost_utils

from input_pipeline import loader, prepare, tokens
from input_pipeline.leakage import overlaps
from input_pipeline.parts import eval_parts, train_parts
from regionjax import checkpoint, parameters, sharding, starting, utilization, workdir
from regionjax.config import build
from regionjax.journal import log, to_file
from regionjax.mesh import check_batch_size, make_mesh
from regionjax.metrics import Report, Tally
from regionjax.optim import make_optimizer
from regionjax.settings import Settings
from regionjax.signals import Stopped, listening
from regionjax.step import (
    check_loss_weights,
    init_model,
    init_state,
    lower_train_step,
    make_train_step,
)
from regionjax.systems import system as systems


def open_input(data, spec, directory, *, seed, batch_size, vocabulary):
    """The training batches of a config; prepares the data when that is still to be done.

    Args:
      data: DataConfig.
      spec: BatchSpec.
      directory: for records and tokenizer.
      seed: of the stream.
      batch_size: over all processes.
      vocabulary: of the model.

    Returns:
      Iterator over {name: numpy array of this process's images}; get_state, set_state, close.
    """
    if jax.process_index() == 0:
        prepare.ensure(data, spec, directory)
        trained, evaluated = train_parts(data, directory), eval_parts(data, directory)
        for overlap in overlaps(trained.values(), evaluated.values()):
            log.warning("  %s", overlap)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("data prepared")
    tokens.check_size(directory / "tokenizer", vocabulary)
    return loader.training_loader(
        data,
        spec,
        directory,
        seed=seed,
        batch_size=batch_size,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )


def train(config, folder, *, build_system=systems.build, open_input=open_input, force_new=False):
    """Trains the system of a config, or goes on where the folder's last checkpoint stands.

    Args:
      config: ConfigDict.
      folder: the run's, see regionjax/workdir.py.
      build_system: (config, BatchSpec) → System.
      open_input: like the function above.
      force_new: move an existing folder aside first.

    Raises:
      ConfigError: a setting that cannot be used.
      checkpoint.CheckpointError: a checkpoint could not be written, or does not fit the model.
      metrics.NotFinite: `train.abort_after_skipped` updates in a row were skipped.
      signals.Stopped: by SIGINT or SIGTERM, after a last checkpoint.
    """
    settings = build(Settings, config, "config")
    run, spec, seed = settings.train, settings.batch, settings.seed

    # ---- mesh --------------------------------------------------------------------------------
    mesh = make_mesh(settings.mesh)
    check_batch_size(run.batch_size, run.microbatches, mesh)

    # ---- shapes ------------------------------------------------------------------------------
    # Nothing is computed before the shardings are known, so nothing ever lies unsharded.
    system = build_system(config, spec)
    check_loss_weights(settings.losses, system)
    model = jax.eval_shape(lambda: init_model(system, seed, spec))
    optimizer = make_optimizer(settings.optim, run.steps, model["params"])
    init = lambda: init_state(system, optimizer, seed, spec)  # noqa: E731
    shapes = jax.eval_shape(init)

    # ---- shardings ---------------------------------------------------------------------------
    places, dropped = sharding.state_shardings(shapes, system.sharding_rules, mesh)
    batch_place = sharding.batch_sharding(mesh)

    # ---- where the parameters come from --------------------------------------------------------
    # A run that goes on needs nothing but its own checkpoint.
    going_on = checkpoint.latest_step(pathlib.Path(folder) / "checkpoints") and not force_new
    begin_from = starting.plan({} if going_on else settings.init_from, shapes.params)

    # ---- folder ------------------------------------------------------------------------------
    # Only now: a config that cannot run must not claim a folder.
    folder = workdir.claim(folder, config, force_new=force_new)
    saved = checkpoint.latest_step(folder / "checkpoints")
    tally = Tally(saved and checkpoint.load_meta(folder / "checkpoints", saved)["tally"])
    start = saved or 0
    with contextlib.ExitStack() as stack:
        chief = jax.process_index() == 0  # writes everything but the checkpoints' arrays
        if chief:
            stack.enter_context(to_file(folder / "log.txt"))
        stack.enter_context(tally.phase("setup"))
        stack.enter_context(jax.set_mesh(mesh))
        log.info("mesh %s of %s", dict(mesh.shape), mesh.devices.flat[0].device_kind)
        told = (shapes.params, places.params, optimizer, dropped)
        for line in parameters.summarize(*told):
            log.info("  %s", line)
        for line in parameters.describe(*told):
            log.debug("%s", line)
        if start >= run.steps:
            log.info("%s is trained already: step %d of %d", folder, start, run.steps)
            return

        # ---- step ----------------------------------------------------------------------------
        # Compiled ahead, so that the first step takes no longer than the others; in a thread, as
        # it needs nothing but shapes. An error in what follows does not wait for it.
        compiler = ThreadPoolExecutor(1)
        stack.callback(compiler.shutdown, wait=False)
        lowered = lower_train_step(
            make_train_step(
                system,
                optimizer,
                settings.losses,
                seed=seed,
                microbatches=run.microbatches,
                shardings=places,
            ),
            sharding.placed(shapes, places),
            {
                name: jax.ShapeDtypeStruct(field.shape, field.dtype, sharding=batch_place)
                for name, field in spec.abstract(run.batch_size).items()
            },
        )
        compiling = compiler.submit(lowered.compile)
        del lowered

        # ---- input ---------------------------------------------------------------------------
        batches = open_input(
            settings.data,
            spec,
            folder / "data",
            seed=seed,
            batch_size=run.batch_size,
            vocabulary=system.vocabulary,
        )
        stack.callback(batches.close)

        # ---- restore or initialise -----------------------------------------------------------
        # Never both: the model may fill the memory of the devices.
        checkpoints = checkpoint.Checkpoints(
            folder / "checkpoints", keep_latest=run.keep_latest, keep_every=run.keep_every
        )
        stack.callback(checkpoints.close)
        if saved is None:
            log.info("a new run in %s", folder)
            state = starting.begin(init, shapes, places, begin_from)
        else:
            log.info("going on from step %d in %s", saved, folder)
            placed = sharding.placed(shapes, places)
            state, position = checkpoint.load(folder / "checkpoints", saved, placed)
            batches.set_state(position)

        # ---- loop ----------------------------------------------------------------------------
        train_step = compiling.result()
        flops = sum(system.flops().training(shapes.params, optimizer.frozen).values())
        flops *= run.batch_size / mesh.size
        peak = utilization.peak(mesh.devices.flat[0].device_kind)
        report = Report(folder if chief else None, run, start, tally, flops, peak)
        stack.callback(report.close)
        stop = stack.enter_context(listening())  # until here there was nothing to save
        stack.enter_context(_quiet_garbage())
        stack.enter_context(jax.transfer_guard("disallow"))
        stack.enter_context(tally.phase("train"))
        for step in range(start + 1, run.steps + 1):
            with tally.phase("input"):
                batch = next(batches)
            with jax.transfer_guard("allow"):  # the one transfer that is meant to be here
                batch = {
                    name: jax.make_array_from_process_local_data(batch_place, field)
                    for name, field in batch.items()
                }
            state, metrics = train_step(state, batch)
            report.step(step, metrics)
            asked = stop.asked(step)
            if step % run.checkpoint_every == 0 or step == run.steps or asked:
                report.flush()  # the tally in the checkpoint counts this step too
                meta = {"step": step, "config": config.to_dict(), "tally": tally.state()}
                with tally.phase("checkpoint"):
                    checkpoints.save(step, state, batches.get_state(), meta)
                    gc.collect()
            if asked:
                break
        with tally.phase("checkpoint"):
            checkpoints.wait()
        if asked := asked or stop.noted:
            raise Stopped(asked, step)
        log.info("trained %d steps in %.0f s", run.steps, tally.seconds())


@contextlib.contextmanager
def _quiet_garbage():
    """Keeps Python from sweeping its garbage in the middle of a step; the loop does so at saves.

    What is there by now stays to the end, so it is never looked at again.
    """
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()

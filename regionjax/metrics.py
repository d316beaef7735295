"""Numbers of a run: a tally of time and examples, `metrics.jsonl`, TensorBoard, the progress."""

import contextlib
import json
import math
import os
import pathlib
import time

import jax
from tensorboardX import SummaryWriter
from tqdm import tqdm

from regionjax.journal import log


class Tally:
    """Where the time went and what was seen, over all restarts of a run.

    A phase inside another one stops the outer's clock, so that the seconds add up:

        with tally.phase("train"):
            with tally.phase("checkpoint"):
                ...

    `state` is saved in every checkpoint; `Tally(state)` goes on from there.
    """

    def __init__(self, state=None):
        state = state or {"seconds": {}, "counts": {}}
        self._seconds = dict(state["seconds"])
        self._counts = dict(state["counts"])
        self._open = []
        self._since = time.monotonic()

    @contextlib.contextmanager
    def phase(self, name):
        """While inside, time counts for `name`."""
        self._settle()
        self._open.append(name)
        try:
            yield
        finally:
            self._settle()
            self._open.pop()

    def add(self, name, count):
        """Counts some more of something, such as regions."""
        self._counts[name] = self._counts.get(name, 0) + count

    def count(self, name):
        """How many there were up to now."""
        return self._counts.get(name, 0)

    def seconds(self, *phases):
        """Seconds spent in these phases; in all of them when none is named."""
        self._settle()
        return sum(self._seconds.get(name, 0.0) for name in phases or self._seconds)

    def state(self):
        """{"seconds": {phase: seconds}, "counts": {name: int}} up to now, JSON-able."""
        self._settle()
        return {"seconds": dict(self._seconds), "counts": dict(self._counts)}

    def _settle(self):
        now = time.monotonic()
        if self._open:
            name = self._open[-1]
            self._seconds[name] = self._seconds.get(name, 0.0) + now - self._since
        self._since = now


class MetricWriter:
    """Appends to WORKDIR/metrics.jsonl and WORKDIR/tensorboard.

    Args:
      workdir: the run's folder.
      step: the step that the run goes on from. Lines of later steps, which a killed run wrote
        after its last checkpoint, are dropped: these steps are taken again.
    """

    def __init__(self, workdir, step):
        path = pathlib.Path(workdir) / "metrics.jsonl"
        if path.exists():
            _cut(path, step)
        self._lines = path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(pathlib.Path(workdir) / "tensorboard"), purge_step=step + 1)

    def write(self, step, values):
        """Writes {name: number} of a step. Not-a-number and infinity become null in the JSON."""
        plain = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._lines.write(json.dumps({"step": step, **plain}) + "\n")
        self._lines.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def close(self):
        self._lines.close()
        self._board.close()


def read(workdir):
    """The logged steps of a run, oldest first: a list of {"step": int, name: number or None}."""
    path = pathlib.Path(workdir) / "metrics.jsonl"
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1]]  # what follows the last newline is torn


def _cut(path, step):
    kept = [entry for entry in read(path.parent) if entry["step"] <= step]
    shorter = path.with_suffix(".jsonl.new")
    shorter.write_text("".join(json.dumps(entry) + "\n" for entry in kept), encoding="utf-8")
    os.replace(shorter, path)


class Progress:
    """A bar with the loss and the speed; plain lines where the output is not a terminal."""

    def __init__(self, step, steps):
        self._steps, self._speed = steps, ""
        self._bar = tqdm(
            total=steps, initial=step, unit="step", disable=None, dynamic_ncols=True, leave=False
        )

    def advance(self, loss):
        """One more step is done."""
        self._bar.set_postfix_str(f"loss {loss:.4f}{self._speed}", refresh=False)
        self._bar.update()

    def summarize(self, step, loss, regions_per_second, mfu=None):
        """How it goes, at the steps that are logged."""
        self._speed = f", {regions_per_second:.0f} regions/s"
        if mfu is not None:
            self._speed += f", MFU {mfu:.1%}"
        if self._bar.disable:
            log.info("step %d of %d: loss %.4f%s", step, self._steps, loss, self._speed)

    def close(self):
        self._bar.close()


class NotFinite(RuntimeError):
    """Losses or gradients were not finite for too many steps in a row."""


class Report:
    """Follows the loop: counts, writes, shows; and ends a run that only skips.

    The numbers of a step are fetched when the next step has been started, so the device never
    waits for the host.

    Args:
      folder: the run's, or None where another process writes.
      run: TrainConfig.
      step: steps completed so far.
      tally: Tally, whose "train" and "input" phases are the time that counts for the speed.
      flops: of a step on one device, by count.
      peak: FLOP/s of a device, or None where they are not known (regionjax/utilization.py).
    """

    def __init__(self, folder, run, step, tally, flops, peak):
        self._run, self._tally, self._flops, self._peak = run, tally, flops, peak
        self._writer = MetricWriter(folder, step) if folder else None
        self._progress = Progress(step, run.steps) if folder else None
        self._pending = None
        self._marks = self._here(step)

    def step(self, step, values):
        """Takes the metrics of a step just started (device scalars); deals with the one before."""
        self.flush()
        self._pending = step, values

    def flush(self):
        """Waits for the pending step and deals with it.

        Raises:
          NotFinite: `abort_after_skipped` updates in a row were skipped.
        """
        if self._pending is None:
            return
        step, values = self._pending
        self._pending = None
        values = {name: value.item() for name, value in jax.device_get(values).items()}
        self._tally.add("regions", values["regions"])
        self._tally.add("bad_images", values.pop("bad"))
        self._tally.add("long_texts", values.pop("long_texts"))
        if self._writer:
            self._progress.advance(values["loss"])
            if step % self._run.log_every == 0 or step == self._run.steps:
                self._log(step, values)
        self._check_finite(step, values)

    def close(self):
        if self._writer:
            self._progress.close()
            self._writer.close()

    def _log(self, step, values):
        before, self._marks = self._marks, self._here(step)
        steps, regions, seconds = (b - a for a, b in zip(before, self._marks, strict=True))
        values["regions_per_second"] = regions / seconds
        achieved = steps * self._flops / seconds
        values["tflops_per_device"] = achieved / 1e12
        if self._peak is not None:
            values["mfu"] = achieved / self._peak
        values["bad_images"] = self._tally.count("bad_images")
        values["long_texts"] = self._tally.count("long_texts")
        values["seconds"] = self._tally.seconds()
        self._writer.write(step, values)
        self._progress.summarize(
            step, values["loss"], values["regions_per_second"], values.get("mfu")
        )

    def _here(self, step):
        return step, self._tally.count("regions"), self._tally.seconds("train", "input")

    def _check_finite(self, step, values):
        in_row = values["skipped_in_row"]
        if not in_row:
            return
        names = ("gradient_norm", *(name for name in values if name.startswith("loss")))
        wrong = [name for name in names if not math.isfinite(values[name])]
        log.warning("step %d: update skipped, not finite: %s", step, ", ".join(wrong))
        if in_row >= self._run.abort_after_skipped:
            raise NotFinite(
                f"{in_row} updates in a row up to step {step} were not finite "
                f"({', '.join(wrong)}); the parameters are still those of step {step - in_row}"
            )

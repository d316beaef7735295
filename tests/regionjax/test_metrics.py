"""Time that adds up over restarts, and a log of numbers that survives a torn line."""

import json
import math
import types

import jax.numpy as jnp
import pytest

from regionjax import metrics


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only when told to."""
    now = types.SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(metrics.time, "monotonic", lambda: now.seconds)
    return now


def test_inner_phases_stop_the_outer_clock(clock):
    tally = metrics.Tally()
    clock.seconds += 5  # outside every phase
    with tally.phase("train"):
        clock.seconds += 2
        with tally.phase("checkpoint"):
            clock.seconds += 7
        clock.seconds += 1
        assert tally.seconds("train") == 3
    assert tally.seconds("train", "checkpoint") == tally.seconds() == 10


def test_tally_goes_on_after_a_restart(clock):
    first = metrics.Tally()
    with first.phase("train"):
        clock.seconds += 2
        first.add("regions", 30)
        state = json.loads(json.dumps(first.state()))
    second = metrics.Tally(state)
    with second.phase("train"):
        clock.seconds += 4
        second.add("regions", 12)
    assert second.state() == {"seconds": {"train": 6}, "counts": {"regions": 42}}
    assert second.count("bad_images") == 0
    assert first.count("regions") == 30


def test_lines_after_the_last_checkpoint_are_dropped(tmp_path):
    writer = metrics.MetricWriter(tmp_path, 0)
    for step in (1, 2, 3):
        writer.write(step, {"loss": step / 10, "norm": math.inf if step == 2 else 1})
    writer.close()
    with (tmp_path / "metrics.jsonl").open("a") as lines:
        lines.write('{"step": 4, "lo')  # killed while writing
    assert [entry["step"] for entry in metrics.read(tmp_path)] == [1, 2, 3]
    writer = metrics.MetricWriter(tmp_path, 2)
    writer.write(3, {"loss": 0.5})
    writer.close()
    assert metrics.read(tmp_path) == [
        {"step": 1, "loss": 0.1, "norm": 1},
        {"step": 2, "loss": 0.2, "norm": None},
        {"step": 3, "loss": 0.5},
    ]


def test_nothing_logged_yet(tmp_path):
    assert metrics.read(tmp_path) == []


def test_report_is_one_step_late_and_counts_every_step(tmp_path, clock):
    run = types.SimpleNamespace(steps=4, log_every=2, abort_after_skipped=5)
    tally = metrics.Tally()
    report = metrics.Report(tmp_path, run, 0, tally, flops=6e12, peak=16e12)
    with tally.phase("train"):
        for step in (1, 2, 3):
            clock.seconds += 1
            report.step(step, numbers(regions=step, bad=int(step == 1)))
        assert tally.count("regions") == 1 + 2
        report.flush()
    assert tally.count("regions") == 1 + 2 + 3
    report.close()
    (entry,) = metrics.read(tmp_path)
    assert (entry["step"], entry["loss"], entry["bad_images"]) == (2, 0.5, 1)
    assert entry["regions_per_second"] == pytest.approx((1 + 2) / 3)  # fetched in the third second
    assert entry["tflops_per_device"] == pytest.approx(2 * 6 / 3)  # of two steps
    assert entry["mfu"] == pytest.approx(4 / 16)


def test_report_ends_a_run_that_only_skips():
    run = types.SimpleNamespace(steps=9, log_every=1, abort_after_skipped=3)
    report = metrics.Report(None, run, 0, metrics.Tally(), flops=1, peak=None)
    for step in (1, 2, 3):
        report.step(step, numbers(loss=math.nan, skipped_in_row=step))
    with pytest.raises(metrics.NotFinite, match=r"3 .* up to step 3 .*\(loss\).* of step 0"):
        report.flush()


def numbers(**changes):
    values = {"loss": 0.5, "gradient_norm": 1.0, "regions": 1, "bad": 0}
    values |= {"long_texts": 0, "skipped_in_row": 0}
    return {name: jnp.asarray(value) for name, value in (values | changes).items()}

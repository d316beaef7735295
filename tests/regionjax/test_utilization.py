"""Peaks of devices by the names that JAX gives them, and the formula in a run."""

import pytest
import test_plan
import toy

from regionjax import chips, metrics, utilization


@pytest.mark.parametrize(
    "kind, teraflops",
    [
        ("TPU v5 lite", 197),
        ("TPU v5", 459),
        ("TPU v6 lite", 918),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H200", 989),
        ("NVIDIA B200", 2250),
        ("NVIDIA GB200", 2500),
        ("NVIDIA A10G", None),
        ("NVIDIA RTX A1000", None),
        ("cpu", None),
    ],
)
def test_peaks(kind, teraflops):
    assert utilization.peak(kind) == (teraflops and teraflops * 1e12)


@test_plan.compiler_test
@pytest.mark.parametrize("name", chips.CHIPS)
def test_every_slice_that_is_compiled_for_has_a_peak(name):
    _, devices = chips.open_slice(f"{name}:{chips.CHIPS[name].slices[1]}")
    assert utilization.peak(devices[0].device_kind) >= 197e12


def test_a_run_on_a_known_device(tmp_path, monkeypatch):
    """500 FLOPs an image, three times for forward and backward, over the devices of the mesh."""
    monkeypatch.setattr(utilization, "PEAKS", (("cpu", 1e9),))
    toy.run(tmp_path / "run", **{"train.steps": 2})
    last = metrics.read(tmp_path / "run")[-1]
    seconds = last["regions"] / last["regions_per_second"]
    assert last["tflops_per_device"] * 1e12 * seconds == pytest.approx(16 * 3 * 500 / 8)
    assert last["mfu"] == pytest.approx(last["tflops_per_device"] * 1e12 / 1e9)
    assert f"regions/s, MFU {last['mfu']:.1%}" in (tmp_path / "run/log.txt").read_text()

"""A run that is killed and goes on ends bit for bit like one that never stopped."""

import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
import toy
from ml_collections import ConfigDict
from orbax.checkpoint import v1 as ocp

from regionjax import checkpoint, metrics, signals, workdir
from regionjax.config import ConfigError
from regionjax.tables import flatten

sys.path.append(str(pathlib.Path(__file__).parents[1] / "input_pipeline"))

from data_folder import write_folder

pytestmark = pytest.mark.usefixtures("compiled_once")

# What no two runs have in common.
CLOCKS = ("seconds", "regions_per_second", "tflops_per_device")


def history(folder):
    """Everything that was logged, step by step, but for the time it took."""
    return [
        {name: value for name, value in entry.items() if name not in CLOCKS}
        for entry in metrics.read(folder)
    ]


def final_state(folder):
    """(step, {path: array} of the whole train state, data position, counts) of the last save."""
    directory = folder / "checkpoints"
    step = checkpoint.latest_step(directory)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as it was saved: on these very devices
        state = ocp.load(directory / str(step), checkpointable_name="state")
    position = ocp.load_checkpointables(directory / str(step), {"data": None})["data"]["position"]
    counts = checkpoint.load_meta(directory, step)["tally"]["counts"]
    return step, flatten(state), position, counts


def assert_same_run(one, other):
    assert history(one) == history(other)
    step, state, position, counts = final_state(one)
    expected_step, expected, expected_position, expected_counts = final_state(other)
    assert (step, position, counts) == (expected_step, expected_position, expected_counts)
    assert state.keys() == expected.keys()
    for path, array in state.items():
        np.testing.assert_array_equal(array, expected[path], err_msg=path)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """Nine steps without a stop; checkpoints of steps 3, 6 and 9."""
    folder = tmp_path_factory.mktemp("unbroken")
    toy.run(folder)
    return folder


def kill(folder, where, at):
    """Runs the toy in another process, which kills itself with SIGKILL."""
    command = [sys.executable, toy.__file__, str(folder), where, str(at)]
    paths = os.pathsep.join(filter(None, sys.path))
    environment = dict(os.environ, PYTHONPATH=paths)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_killed_between_saves(tmp_path, unbroken):
    kill(tmp_path, "step", 8)
    assert checkpoint.latest_step(tmp_path / "checkpoints") == 6
    assert metrics.read(tmp_path)[-1]["step"] > 6  # steps that will be taken again
    toy.run(tmp_path)
    assert_same_run(tmp_path, unbroken)


def test_killed_in_the_middle_of_a_save(tmp_path, unbroken):
    kill(tmp_path, "save", 6)
    folders = os.listdir(tmp_path / "checkpoints")
    assert [name for name in folders if name.startswith("6.")], folders  # half of it is there
    assert checkpoint.latest_step(tmp_path / "checkpoints") == 3
    toy.run(tmp_path)
    assert_same_run(tmp_path, unbroken)
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["6", "9"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_saves_once_more(tmp_path, unbroken, number):
    def interrupt(first):
        if first == 4 * 16:  # the input of step 5
            os.kill(os.getpid(), number)

    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(signals.Stopped) as stopped:
        toy.run(tmp_path, before=interrupt)
    assert (stopped.value.signal, stopped.value.step) == (number, 5)
    assert handlers == [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    assert checkpoint.latest_step(tmp_path / "checkpoints") == 5
    toy.run(tmp_path)
    assert_same_run(tmp_path, unbroken)


def test_goes_on_with_another_mesh(tmp_path, unbroken):
    folder = tmp_path / "run"
    shutil.copytree(unbroken, folder)
    shutil.rmtree(folder / "checkpoints" / "9")
    toy.run(folder, **{"mesh.data": 1, "mesh.fsdp": 8, "mesh.tensor": 1})
    assert final_state(folder)[2:] == final_state(unbroken)[2:]
    assert history(folder)[:6] == history(unbroken)[:6]
    for mine, theirs in zip(history(folder)[6:], history(unbroken)[6:], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4)  # sums are added up in another order


def test_mixture_changes_on_the_way(tmp_path, monkeypatch):
    """Here the input is the real one; a run that stops and does not change is as if unbroken."""
    monkeypatch.setattr(toy, "VOCABULARY", 64)
    root = write_folder(write_folder(tmp_path / "data", 12), 4, "val", 1001)

    class Enough(Exception):
        pass

    def stop(first):
        if first == 4 * 16:
            while not (tmp_path / "run/checkpoints/3").exists():
                time.sleep(0.01)
            raise Enough

    with pytest.raises(Enough):
        toy.run_on_records(tmp_path / "run", root, before=stop, **{"train.steps": 5})
    shutil.copytree(tmp_path / "run", tmp_path / "changed")
    toy.run_on_records(tmp_path / "run", root, **{"train.steps": 5})
    toy.run_on_records(tmp_path / "unbroken", root, **{"train.steps": 5})
    assert_same_run(tmp_path / "run", tmp_path / "unbroken")
    assert "mixture changes" not in (tmp_path / "run/log.txt").read_text()

    other = {"train.steps": 5, "data.mixture": ConfigDict({"coco": 3.0, "refer": 1.0})}
    with pytest.raises(ConfigError, match=r"data\.crop: absent -> 0\.1\n[^\n]*workdir"):
        toy.run_on_records(tmp_path / "changed", root, **other, **{"data.crop": 0.1})
    toy.run_on_records(tmp_path / "changed", root, **other)
    assert (
        "the mixture changes from example 48 on, from coco 33.33%, localized_narratives 33.33%, "
        "refer 33.33% to coco 75.00%, refer 25.00%; each component goes on where it is\n"
    ) in (tmp_path / "changed/log.txt").read_text()
    mine, theirs = (history(tmp_path / name) for name in ("changed", "unbroken"))
    assert mine[:3] == theirs[:3]
    assert [entry["loss"] for entry in mine[3:]] != [entry["loss"] for entry in theirs[3:]]


def test_finished_run_is_left_alone(unbroken):
    before = (unbroken / "metrics.jsonl").read_bytes()
    toy.run(unbroken)
    assert (unbroken / "metrics.jsonl").read_bytes() == before


def test_full_disk_costs_no_checkpoint(tmp_path):
    """A limit on the size of files stands in for the disk: writing fails in the same place."""
    directory = tmp_path / "checkpoints"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(first):
        if first == 5 * 16:
            while not (directory / "3").exists():  # it is written in the background
                time.sleep(0.01)
            resource.setrlimit(resource.RLIMIT_FSIZE, (2**15, hard))

    try:
        with pytest.raises(checkpoint.CheckpointError) as error:
            toy.run(tmp_path, before=fill, **{"train.keep_latest": 1, "train.log_every": 100})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "step 3 is whole and valid" in str(error.value)
    assert "File too large" in str(error.value)
    assert checkpoint.latest_step(directory) == 3
    toy.run(tmp_path, **{"train.keep_latest": 1, "train.log_every": 100})
    assert os.listdir(directory) == ["9"]


def test_workdir_of_another_config(tmp_path, unbroken):
    folder = tmp_path / "run"
    shutil.copytree(unbroken, folder)
    with pytest.raises(ConfigError) as error:
        toy.run(folder, **{"train.steps": 20, "optim.learning_rate": 0.02, "batch.points": 3})
    assert "\n  batch.points: 2 -> 3\n  optim.learning_rate: 0.01 -> 0.02\n" in str(error.value)
    assert "train.steps" not in str(error.value)
    assert "--force_new_workdir" in str(error.value)
    shutil.rmtree(folder / "checkpoints")  # nothing left to lose
    assert workdir.claim(folder, toy.config(**{"batch.points": 3})) == folder


def test_force_new_moves_the_old_run_aside(tmp_path, unbroken):
    folder = tmp_path / "run"
    shutil.copytree(unbroken, folder)
    (folder / "note").write_text("mine")
    toy.run(folder, force_new=True)
    assert (tmp_path / "run.old-1" / "note").read_text() == "mine"
    assert not (folder / "note").exists()
    assert_same_run(folder, unbroken)
    assert_same_run(tmp_path / "run.old-1", unbroken)

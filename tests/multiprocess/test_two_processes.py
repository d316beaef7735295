"""Two processes with four devices each are one run: same losses, one checkpoint, one stop.

The run is on records, so that hosts share what there is to read, and it goes on with one process.
"""

import os
import pathlib
import re
import signal
import socket
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
sys.path += [str(ROOT / "tests" / "regionjax"), str(ROOT / "tests" / "input_pipeline")]

import toy  # noqa: E402
from data_folder import write_folder  # noqa: E402

from regionjax import checkpoint, metrics  # noqa: E402


class Enough(Exception):
    pass


def after(steps):
    def enough(first):
        if first >= steps * 16:
            raise Enough

    return enough


def free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def test_two_processes_are_one_run_and_one_goes_on(tmp_path, monkeypatch):
    folder, port = tmp_path / "two", free_port()
    root = write_folder(write_folder(tmp_path / "data", 12), 4, "val", 1001)
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path)))
    worker = str(pathlib.Path(__file__).with_name("worker.py"))
    workers = [
        subprocess.Popen(
            [sys.executable, worker, str(folder), str(root), str(port), str(rank)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [worker.communicate(timeout=300)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [128 + signal.SIGTERM] * 2, said
    # The signal reached one of them; both saved the same step.
    [stopped] = {int(re.search(r"stopped after (\d+)", text).group(1)) for text in said}
    assert stopped == checkpoint.latest_step(folder / "checkpoints")

    monkeypatch.setattr(toy, "VOCABULARY", 64)
    for name in ("two", "one"):
        with pytest.raises(Enough):
            toy.run_on_records(tmp_path / name, root, before=after(stopped + 3), **toy.TOGETHER)
    mine, theirs = (metrics.read(tmp_path / name) for name in ("two", "one"))
    assert [entry["step"] for entry in mine] == list(range(1, stopped + 3))
    for entry, expected in zip(mine, theirs, strict=True):
        for name in ("loss", "gradient_norm", "regions", "first_example", "last_example"):
            assert entry[name] == pytest.approx(expected[name], rel=1e-5), name
        assert entry["data/slots_filled"] == pytest.approx(entry["regions"] / 48)

"""The command line: what it prints, its exit codes, and what a failure leaves behind."""

import json
import os
import pathlib
import resource
import subprocess
import sys
import threading
import time

import checkpoints
import numpy as np
import pytest

from regionjax import checkpoint
from regionjax.weights import __main__ as command
from regionjax.weights import files


@pytest.fixture
def weights(monkeypatch, capsys):
    """(arguments) → exit code, what was printed, what was printed as an error."""
    monkeypatch.setattr(command.journal, "to_console", lambda: None)

    def call(*arguments):
        code = command.main([str(argument) for argument in arguments])
        return (code, *capsys.readouterr())

    return call


def test_import_show_and_export(weights, tmp_path):
    theirs, ours, back = (tmp_path / name for name in ("theirs", "ours", "back"))
    tensors = checkpoints.write(theirs)
    count = sum(tensor.size for tensor in tensors.values())
    assert weights("import", theirs, ours, "--mesh", "fsdp=4,tensor=2") == (0, "", "")
    for path in (theirs, ours):
        code, out, _ = weights("show", path)
        total = [line.split() for line in out.splitlines() if line.startswith("all ")]
        assert code == 0 and total == [["all", f"{count:,}", f"{4 * count:,}"]]
        assert "decoder/layers/query/kernel" in out
    code, _, said = weights("import", theirs, ours)
    assert code == 2 and said.startswith(f"regionjax.weights: {ours} holds a checkpoint; name")
    assert weights("export", ours, back, "--shard_gb", "2e-5") == (0, "", "")
    read = files.open_tensors(back)
    assert len(list(back.glob("*.safetensors"))) > 1
    for name, tensor in tensors.items():
        assert read.read(name).tobytes() == tensor.tobytes(), name
    code, _, said = weights("export", ours, back)
    assert code == 2 and said == f"regionjax.weights: {back} exists; name a new one\n"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("import", "nowhere", "ours"), "there is no nowhere"),
        (("import", "theirs", "ours", "--dtype", "bflaot16"), "did you mean `bfloat16`?"),
        (("import", "theirs", "ours", "--mesh", "fspd=2"), "'fspd' is no axis; did you mean `fsdp"),
        (("import", "theirs", "ours", "--mesh", "fsdp"), "--mesh fsdp: invalid literal for int()"),
        (("import", "theirs", "ours", "--mesh", "data=3"), "data=3×fsdp=1×tensor=1 needs 3"),
        (("export", "nowhere", "back"), "there is no checkpoint in nowhere/checkpoints"),
        (("export", "theirs", "back", "--shard_gb", "0"), "at most 0 bytes; expected a number"),
        (("show", "theirs.json"), "there is no theirs.json"),
        (("show", "empty"), "empty/config.json: No such file or directory"),
        (("show", "theirs/config.json"), "config.json is no .pth; of Hugging Face's files, name"),
    ],
)
def test_what_cannot_be_used_is_told_and_leaves_nothing(
    weights, arguments, message, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    checkpoints.write("theirs")
    pathlib.Path("empty").mkdir()
    code, out, said = weights(*arguments)
    assert (code, out) == (2, "") and message in said
    assert sorted(os.listdir()) == ["empty", "theirs"]


def test_an_unknown_command_is_told():
    with pytest.raises(SystemExit) as caught:
        command.main(["imprt", "theirs", "ours"])
    assert caught.value.code == 2


@pytest.fixture
def full_disk():
    """No file may grow beyond 20 kB, as if the disk were full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_no_import(weights, tmp_path, request):
    checkpoints.write(tmp_path / "theirs", {**checkpoints.T5, "vocab_size": 5000})
    request.getfixturevalue("full_disk")
    code, _, said = weights("import", tmp_path / "theirs", tmp_path / "ours")
    assert code == 2 and "could not be written (is the disk full?)" in said
    assert os.listdir(tmp_path) == ["theirs"]


def test_what_is_written_after_a_failure_is_removed(weights, tmp_path, monkeypatch):
    """As by Orbax, where an array could not be written and others still are."""
    checkpoints.write(tmp_path / "theirs")
    late = tmp_path / "ours/checkpoints/0.tmp/d"

    def write():
        end = time.monotonic() + 1
        while time.monotonic() < end:
            late.mkdir(parents=True, exist_ok=True)
            time.sleep(0.01)

    writer = threading.Thread(target=write)

    def save(*_):
        writer.start()
        raise checkpoint.CheckpointError("no")

    monkeypatch.setattr(checkpoint.Checkpoints, "save", save)
    assert weights("import", tmp_path / "theirs", tmp_path / "ours")[0] == 2
    writer.join()
    assert os.listdir(tmp_path) == ["theirs"]


def test_a_full_disk_leaves_no_export(weights, tmp_path, request):
    checkpoints.write(tmp_path / "theirs", {**checkpoints.T5, "vocab_size": 5000})
    assert weights("import", tmp_path / "theirs", tmp_path / "ours")[0] == 0
    request.getfixturevalue("full_disk")
    code, _, said = weights("export", tmp_path / "ours", tmp_path / "back")
    assert code == 2 and "back could not be written (File too large)" in said
    assert sorted(os.listdir(tmp_path)) == ["ours", "theirs"]


@pytest.mark.torch
def test_a_full_disk_leaves_no_pth(tmp_path, full_disk):
    pytest.importorskip("torch")
    headers = {"a": ((100, 100), np.float32)}
    with pytest.raises(files.WeightsError, match="back.pth could not be written"):
        files.write_torch(tmp_path / "back.pth", headers, lambda name: np.ones((100, 100)))
    assert not os.listdir(tmp_path)


@pytest.mark.torch
def test_check_tells_a_changed_weight_by_its_exit_code(weights, tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    import public
    import transformers

    public.build("T5ForConditionalGeneration").save_pretrained(tmp_path / "theirs")
    code, out, _ = weights("check", tmp_path / "theirs")
    assert code == 0 and "logits" in out and "above the tolerance" not in out
    assert " ".join(out.splitlines()[0].split()) == "output shape max abs max rel rms rel KL"

    model = transformers.T5ForConditionalGeneration
    load = model.from_pretrained

    def changed(*arguments, **settings):
        loaded = load(*arguments, **settings)
        with torch.no_grad():
            loaded.encoder.block[1].layer[1].DenseReluDense.wo.weight[3, 5] += 0.1
        return loaded

    monkeypatch.setattr(model, "from_pretrained", changed)
    code, out, _ = weights("check", tmp_path / "theirs")
    assert code == 1 and out.count("above the tolerance") == 2


@pytest.mark.slow
def test_as_a_program(tmp_path):
    checkpoints.write(tmp_path / "theirs")
    file = tmp_path / "theirs/config.json"
    file.write_text(json.dumps({**checkpoints.T5, "architectures": ["T5ForConditionalGenration"]}))
    done = subprocess.run(
        [sys.executable, "-m", "regionjax.weights", "show", str(tmp_path / "theirs")],
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 2 and done.stdout == ""
    assert "did you mean `T5ForConditionalGeneration`?; known: CLIPVisionModel, " in done.stderr

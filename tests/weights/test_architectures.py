"""Every architecture: a directory of transformers, into our checkpoint, back, and compared."""

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import albef_file  # noqa: E402
import public  # noqa: E402

from regionjax.mesh import MeshConfig, make_mesh  # noqa: E402
from regionjax.weights import (  # noqa: E402
    architectures,
    checking,
    exporting,
    files,
    importing,
    showing,
)
from regionjax.weights.table import WeightsError  # noqa: E402

pytestmark = pytest.mark.torch


def test_every_architecture_is_here():
    assert set(public.MODELS) == set(architectures.ARCHITECTURES) - {"ALBEF"}


@pytest.mark.parametrize("name", public.MODELS)
def test_transformers_loads_what_comes_back(name, tmp_path):
    import transformers

    model = public.build(name)
    model.save_pretrained(tmp_path / "theirs", max_shard_size="8KB")
    mesh = make_mesh(MeshConfig(1, 2, 2), jax.devices()[:4])
    importing.import_weights(tmp_path / "theirs", tmp_path / "ours", mesh)
    exporting.export_weights(tmp_path / "ours", tmp_path / "back", shard_bytes=5000)
    found = architectures.identify(tmp_path / "back")
    loaded, said = getattr(transformers, found.architecture.name).from_pretrained(
        tmp_path / "back", output_loading_info=True
    )
    assert not said["unexpected_keys"] and not said["mismatched_keys"]
    # What no vision tower or encoder here has is made anew: the poolers.
    assert all("pooler" in key for key in said["missing_keys"]), said["missing_keys"]
    before, after = model.state_dict(), loaded.state_dict()
    compared = [key for key in after if key in before and key not in said["missing_keys"]]
    if found.architecture.tower is architectures.ARCHITECTURES[name].tower:
        assert set(before) - set(compared) <= said["missing_keys"]
    for key in compared:
        assert torch.equal(before[key], after[key]), key

    # The files too, tensor by tensor: those of theirs that became parameters.
    theirs, back = files.open_tensors(tmp_path / "theirs"), files.open_tensors(tmp_path / "back")
    origin = importing.origin(tmp_path / "ours")
    if architectures.ARCHITECTURES[name].tower is None:
        assert set(back.headers) == set(origin["tensors"])
    for key in set(back.headers) & set(theirs.headers):
        assert back.read(key).tobytes() == theirs.read(key).tobytes(), key


@pytest.mark.parametrize("name", public.MODELS)
def test_check_says_the_same(name, tmp_path):
    public.build(name).save_pretrained(tmp_path)
    comparisons = checking.check(tmp_path)
    lines, alike = checking.report(comparisons, "float32")
    print("\n".join(lines))
    assert comparisons and alike


def test_check_notices(tmp_path):
    """A tensor that is not what the file says, and another seed."""
    public.build("GemmaForCausalLM").save_pretrained(tmp_path)
    comparisons = checking.check(tmp_path, dtype="bfloat16", seed=3)
    assert checking.report(comparisons, "bfloat16")[1]
    assert not checking.report(comparisons, "float32")[1]
    wrong = [checking._compare("logits", np.eye(4), np.eye(4)[::-1])]
    lines, alike = checking.report(wrong, "bfloat16")
    assert not alike and lines[1].endswith("above the tolerance")


def test_albef_is_read_and_written_as_pth(tmp_path):
    tensors = albef_file.write(tmp_path / "theirs.pth")
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    importing.import_weights(tmp_path / "theirs.pth", tmp_path / "ours", mesh)
    exporting.export_weights(tmp_path / "ours", tmp_path / "back.pth")
    back = torch.load(tmp_path / "back.pth", weights_only=True)["model"]
    assert set(back) == set(tensors)
    for name, tensor in back.items():
        assert torch.equal(tensor, tensors[name]), name
    with pytest.raises(WeightsError, match="back.pth exists; name a new one"):
        exporting.export_weights(tmp_path / "ours", tmp_path / "back.pth")
    with pytest.raises(WeightsError, match="no ALBEF in transformers to compare with"):
        checking.check(tmp_path / "theirs.pth")


@pytest.mark.parametrize("name", ["SiglipModel", "Gemma2ForCausalLM"])
def test_show_adds_up(name, tmp_path):
    model = public.build(name)
    model.save_pretrained(tmp_path / "theirs")
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    importing.import_weights(tmp_path / "theirs", tmp_path / "ours", mesh, dtype="bfloat16")
    wanted = model.vision_model if name == "SiglipModel" else model
    count = sum(parameter.numel() for parameter in wanted.parameters())
    for path, size in (("theirs", 4 * count), ("ours", 2 * count)):
        lines = list(showing.show(tmp_path / path))
        (total,) = [line.split() for line in lines if line.split()[:1] == ["all"]]
        assert total == ["all", f"{count:,}", f"{size:,}"]
    ignored = [line for line in showing.show(tmp_path / "theirs") if line.startswith("ignored")]
    assert bool(ignored) == (name == "SiglipModel")

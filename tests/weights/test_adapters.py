"""Adapters in PEFT's format and merged: PEFT and transformers compute the same with them."""

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")

import public  # noqa: E402

from regionjax import checkpoint, lora, tables  # noqa: E402
from regionjax.mesh import MeshConfig, make_mesh  # noqa: E402
from regionjax.weights import exporting, files, importing  # noqa: E402
from regionjax.weights.table import WeightsError  # noqa: E402

pytestmark = pytest.mark.torch

ALPHA = 6.0
# {layer: (dimensions of a kernel that are inputs, that are outputs, rank)}
DECODER = {
    "layers/query": (1, 2, 3),
    "layers/attention_out": (2, 1, 3),
    "layers/mlp_up": (1, 1, 2),
}
T5 = {
    "encoder/layers/value": (1, 2, 2),
    "decoder/layers/cross_out": (2, 1, 1),
}


def run_with_adapters(folder, name, layers):
    """A public model, imported, and a run whose scope `words` it is, with adapters beside it."""
    model = public.build(name)
    model.save_pretrained(folder / "theirs")
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    importing.import_weights(folder / "theirs", folder / "ours", mesh)
    there = checkpoint.params_in(folder / "ours/checkpoints", 0)
    wanted = {path: checkpoint.OnHost(tuple(x.shape), x.dtype) for path, x in there.items()}
    base = checkpoint.load_some_params(folder / "ours/checkpoints", 0, tables.nest(wanted))
    rng, adapters = np.random.default_rng(0), {}
    for path, sizes in layers.items():
        shapes = lora.adapter_shapes(there[f"{path}/kernel"].shape, *sizes)
        for leaf, shape in zip("ab", shapes, strict=True):
            adapters[f"words/{path}/{leaf}"] = rng.normal(0, 0.5, shape).astype(np.float32)
    run = checkpoint.Checkpoints(folder / "run/checkpoints")
    params = {"words": base, lora.SCOPE: tables.nest(adapters)}
    run.save(3, {"params": params}, 0, {"step": 3, "config": {"lora": {"alpha": ALPHA}}})
    run.close()
    return model


def export(folder, out, lora_as):
    exporting.export_weights(
        folder / "run", folder / out, part="words", like=folder / "ours", lora_as=lora_as
    )


def logits(model):
    tokens = torch.arange(2, 12).reshape(2, 5)
    more = {"decoder_input_ids": tokens} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        return model.eval()(input_ids=tokens, **more).logits.numpy()


@pytest.mark.parametrize(
    "name, layers",
    [
        ("Gemma2ForCausalLM", DECODER),
        ("Qwen3ForCausalLM", {**DECODER, "layers/key": (1, 2, 1)}),
        ("T5ForConditionalGeneration", T5),
    ],
)
def test_peft_and_merged_kernels_are_the_same(name, layers, tmp_path):
    model = run_with_adapters(tmp_path, name, layers)
    before = logits(model)
    export(tmp_path, "merged", "merge")
    export(tmp_path, "adapter", "peft")
    merged = logits(type(model).from_pretrained(tmp_path / "merged"))
    adapted = logits(peft.PeftModel.from_pretrained(model, tmp_path / "adapter"))
    assert np.abs(merged - before).max() > 0.01
    np.testing.assert_allclose(adapted, merged, atol=1e-5 * np.abs(merged).max())
    said = files.read_json(tmp_path / "adapter/adapter_config.json")
    assert said["base_model_name_or_path"] == str(tmp_path / "theirs")


def test_what_peft_cannot_hold(tmp_path):
    """The tower of InstructBLIP has query, key and value in one tensor."""
    run_with_adapters(tmp_path, "Blip2VisionModel", {"layers/query": (1, 2, 2)})
    with pytest.raises(WeightsError, match="layers.0.self_attn.qkv.weight holds layers/query and"):
        export(tmp_path, "adapter", "peft")
    export(tmp_path, "merged", "merge")
    with pytest.raises(WeightsError, match="ours has no adapters there"):
        exporting.export_weights(tmp_path / "ours", tmp_path / "adapter", lora_as="peft")
    with pytest.raises(WeightsError, match="adapters as 'petf'; did you mean `peft`"):
        exporting.export_weights(tmp_path / "ours", tmp_path / "adapter", lora_as="petf")
    assert not (tmp_path / "adapter").exists()

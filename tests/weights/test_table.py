"""Tables of names: both directions, bit by bit, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from regionjax.weights.table import Row, WeightsError, prefixed, to_ours, to_theirs

ROWS = (
    Row("patch.weight", "patch_embedding/kernel", "patches"),
    Row("patch.bias", "patch_embedding/bias"),
    Row("positions", "position_embedding", shape=(1, -1, 6)),
    Row("layer.{i}.qkv.weight", "layers/query/kernel", "linear", part=(0, 2)),
    Row("layer.{i}.qkv.weight", "layers/key/kernel", "linear", part=(1, 2)),
    Row("layer.{i}.qkv.bias", "layers/query/bias", part=(0, 2)),
    Row("layer.{i}.qkv.bias", "layers/key/bias", part=(1, 2)),
    Row("layer.{i}.out.weight", "layers/attention_out/kernel", "linear", inputs=2),
    Row("layer.{i}.cross.weight", "pairs/cross/kernel", "linear", step=2, offset=1),
    Row("temperature", "temperature"),
    Row("position_ids", None),
    Row("head.weight", None, tied="words.weight"),
    Row("words.weight", "embedding"),
)


def tensors(dtype=np.float32):
    rng = np.random.default_rng(0)
    normal = lambda *shape: rng.normal(size=shape).astype(dtype)  # noqa: E731
    layers = {
        f"layer.{i}.{name}": normal(*shape)
        for i in range(4)
        for name, shape in {"qkv.weight": (12, 6), "qkv.bias": (12,), "out.weight": (6, 6)}.items()
    }
    return {
        "patch.weight": normal(6, 3, 2, 2),
        "patch.bias": normal(6),
        "positions": normal(1, 5, 6),
        **layers,
        "layer.1.cross.weight": normal(4, 6),
        "layer.3.cross.weight": normal(4, 6),
        "temperature": normal(),
        "words.weight": normal(11, 6),
    }


def shapes(dtype=jnp.float32):
    leaf = lambda *shape: jax.ShapeDtypeStruct(shape, dtype)  # noqa: E731
    heads = lambda: {"kernel": leaf(4, 6, 2, 3), "bias": leaf(4, 2, 3)}  # noqa: E731
    return {
        "patch_embedding": {"kernel": leaf(12, 6), "bias": leaf(6)},
        "position_embedding": leaf(5, 6),
        "layers": {
            "query": heads(),
            "key": heads(),
            "attention_out": {"kernel": leaf(4, 2, 3, 6)},
        },
        "pairs": {"cross": {"kernel": leaf(2, 6, 4)}},
        "temperature": leaf(),
        "embedding": leaf(11, 6),
    }


def test_forms_mean_what_torch_computes():
    theirs = tensors(np.float64)
    ours = to_ours(theirs, ROWS, shapes(np.float64))
    rng = np.random.default_rng(1)
    x = rng.normal(size=6)
    heads = np.einsum("d,dnh->nh", x, ours["layers"]["key"]["kernel"][2])
    qkv = theirs["layer.2.qkv.weight"] @ x  # torch.nn.Linear: x Wᵀ
    np.testing.assert_allclose(heads.reshape(-1), qkv[6:], atol=1e-12)
    y = rng.normal(size=(2, 3))
    out = np.einsum("nh,nhd->d", y, ours["layers"]["attention_out"]["kernel"][3])
    np.testing.assert_allclose(out, theirs["layer.3.out.weight"] @ y.reshape(-1), atol=1e-12)
    cross = x @ ours["pairs"]["cross"]["kernel"][1]
    np.testing.assert_allclose(cross, theirs["layer.3.cross.weight"] @ x, atol=1e-12)
    square = rng.normal(size=(2, 2, 3))  # rows, columns, channels
    conv = np.einsum("ochw,hwc->o", theirs["patch.weight"], square)
    patch = square.reshape(-1) @ ours["patch_embedding"]["kernel"]
    np.testing.assert_allclose(patch, conv, atol=1e-12)
    np.testing.assert_array_equal(
        ours["layers"]["query"]["bias"][1].reshape(-1), theirs["layer.1.qkv.bias"][:6]
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float16, jnp.bfloat16])
def test_there_and_back_is_bit_exact(dtype):
    theirs = tensors(dtype)
    ours = to_ours(theirs, ROWS, shapes())
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(ours))
    back = to_theirs(ours, ROWS)
    assert set(back) == set(theirs)
    for name, tensor in theirs.items():
        assert back[name].shape == tensor.shape, name
        assert back[name].astype(dtype).tobytes() == tensor.tobytes(), name


def test_a_system_prefixes_its_parts():
    rows = prefixed(ROWS, "tower.", "vit/")
    theirs = {f"tower.{name}": tensor for name, tensor in tensors().items()}
    theirs["tower.head.weight"] = theirs["tower.words.weight"]
    ours = to_ours(theirs, rows, {"vit": shapes()})
    assert set(to_theirs(ours, rows)) == set(theirs) - {"tower.head.weight"}


def test_a_tied_tensor_stands_in_for_the_other():
    theirs = tensors()
    expected = theirs["words.weight"]
    theirs["head.weight"] = theirs.pop("words.weight")
    theirs["position_ids"] = np.arange(5)
    ours = to_ours(theirs, ROWS, shapes())
    np.testing.assert_array_equal(ours["embedding"], expected)
    theirs["words.weight"] = expected + 1
    with pytest.raises(WeightsError, match="head.weight and words.weight differ"):
        to_ours(theirs, ROWS, shapes())


def test_one_error_lists_all_differences():
    theirs = tensors()
    theirs["layer.2.qkv.wieght"] = theirs.pop("layer.2.qkv.weight")
    for i in range(4):
        theirs[f"decoder.{i}.something"] = theirs[f"layer.{i}.qkv.bias"]
    theirs["words.weight"] = theirs["words.weight"][:, :5]
    theirs["temperature"] = np.array(1, np.int32)
    with pytest.raises(WeightsError) as caught:
        to_ours(theirs, ROWS, shapes())
    lines = str(caught.value).splitlines()
    assert lines[0] == "the checkpoint does not fit the model:"
    assert "  missing: layer.2.qkv.weight; did you mean `layer.2.qkv.wieght`?" in lines
    assert "  extra: layer.2.qkv.wieght; did you mean `layer.{i}.qkv.weight`?" in lines
    assert "  extra: decoder.{i}.something (i = 0, 1, 2, 3)" in lines
    assert "  dtype: temperature is int32, temperature is float32" in lines
    assert (
        "  shape: words.weight is [11, 5], the config needs [11, 6] (parameter embedding)" in lines
    )
    assert len(lines) == 6


def test_a_table_covers_the_model():
    with pytest.raises(WeightsError, match="no row fills parameter embedding"):
        to_ours(tensors(), ROWS[:-1], shapes())
    wrong = (*ROWS[:-1], Row("words.weight", "embeding"))
    with pytest.raises(WeightsError, match="no parameter embeding .*did you mean `embedding`"):
        to_ours(tensors(), wrong, shapes())
    twice = (*ROWS, Row("words.weight", "embedding"))
    with pytest.raises(WeightsError, match="parameter embedding is filled twice"):
        to_ours(tensors(), twice, shapes())
    half = tuple(row for row in ROWS if row.ours != "layers/key/kernel")
    less = shapes()
    del less["layers"]["key"]["kernel"]
    with pytest.raises(WeightsError, match=r"layer.0.qkv.weight is made of the parts \[\(0, 2\)\]"):
        to_theirs(to_ours(tensors(), half, less), half)

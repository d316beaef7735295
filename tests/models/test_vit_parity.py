"""ViT against the vision towers of transformers, on random tiny models."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import transformers  # noqa: E402
import vit_reference as reference  # noqa: E402
from parity import close, divergence, parameters, randomise  # noqa: E402

from regionjax.models import vit  # noqa: E402
from regionjax.weights import architectures, table  # noqa: E402
from regionjax.weights.tables import vit as vit_table  # noqa: E402

pytestmark = pytest.mark.torch
PAIRS = [
    (kind, tower)
    for kind in vit_table.CLASSES
    for tower in reference.TOWERS
    if kind != "blip_2_vision_model" or tower == "odd_heads"  # theirs is InstructBLIP's code
]


@pytest.fixture(scope="module", params=PAIRS, ids="-".join)
def pair(request):
    model_type, tower = request.param
    settings, sizes = reference.TOWERS[tower]
    model, values = reference.build(model_type, settings)
    config = vit_table.config_from(values)
    images = reference.pictures([(config.image_size, config.image_size), *sizes])
    return model_type, model, config, reference.tensors_of(model), images


def test_hidden_states_of_every_layer_at_any_size(pair):
    model_type, model, config, tensors, images = pair
    network, _ = reference.ours(config, tensors, vit_table.rows(config, model_type))
    for image in images:
        features, pooled, hidden = reference.torch_forward(model, model_type, image, config)
        got, intermediates = network(image)
        close(intermediates["embedding"], hidden[0])
        assert len(intermediates["hidden"]) == len(hidden) - 1 == config.depth
        for ours, theirs in zip(intermediates["hidden"], hidden[1:], strict=True):
            close(ours, theirs)
        close(got, features)
        if config.attention_pool:
            close(intermediates["pooled"], pooled)
        if model_type == "clip_vision_model":
            close(got[:, 0], pooled)


def test_bfloat16_stays_near(pair):
    model_type, model, config, tensors, (image, *_) = pair
    network, _ = reference.ours(config, tensors, vit_table.rows(config, model_type), jnp.bfloat16)
    features, _, _ = reference.torch_forward(model, model_type, image, config)
    got, _ = network(image)
    assert got.dtype == jnp.bfloat16
    assert divergence(got.astype(jnp.float32), features) <= 0.01


def test_there_and_back_is_bit_exact(pair):
    model_type, _, config, tensors, _ = pair
    rows = vit_table.rows(config, model_type)
    _, params = reference.ours(config, tensors, rows)
    back = table.to_theirs(params, rows)
    assert set(back) == set(tensors)
    for name, tensor in tensors.items():
        assert back[name].shape == tensor.shape and back[name].tobytes() == tensor.tobytes(), name
    assert vit_table.config_from(vit_table.config_to(config, model_type)) == config


def recognised(model, folder, config):
    """A directory of theirs is known by its config.json, and every tensor has a row."""
    model.save_pretrained(folder)
    found = architectures.identify(folder)
    assert found.config == config
    rows, shapes = found.architecture.rows(config), found.architecture.shapes(config, "float32")
    return table.check(found.tensors.headers, rows, shapes, folder.name)


@pytest.mark.parametrize("kind", ["clip", "siglip", "siglip2"])
def test_a_public_pair_gives_its_vision_tower(kind, tmp_path):
    """Public CLIP and SigLIP files hold two towers."""
    settings, _ = reference.TOWERS["odd_heads"]
    name = {"clip": "CLIP", "siglip": "Siglip", "siglip2": "Siglip2"}[kind]
    text = {key: settings[key] for key in settings if key not in ("image_size", "patch_size")}
    text |= {"vocab_size": 20, "max_position_embeddings": 8, "eos_token_id": 1, "bos_token_id": 1}
    tower = dict(settings)
    if kind == "siglip2":
        tower["num_patches"] = (tower.pop("image_size") // tower["patch_size"]) ** 2
    theirs = getattr(transformers, f"{name}Config")(vision_config=tower, text_config=text)
    model = randomise(getattr(transformers, f"{name}Model")(theirs))
    config = vit_table.config_from(theirs.to_dict())
    model_type = f"{kind}_vision_model"
    tensors = reference.tensors_of(model)
    tensors["text_model.embeddings.position_ids"] = np.zeros((1, 8), np.int64)  # of older files
    network, _ = reference.ours(config, tensors, vit_table.pair_rows(config, model_type))
    (image,) = reference.pictures([(12, 12)])
    features, *_ = reference.torch_forward(model.vision_model, model_type, image, config)
    close(network(image)[0], features)
    _, ignored = recognised(model, tmp_path, config)
    assert ignored == sorted(n for n in model.state_dict() if not n.startswith("vision_model."))


@pytest.mark.parametrize(
    "name, model_type",
    [
        ("ViTForImageClassification", "vit"),
        ("DeiTForImageClassification", "deit"),
        ("DeiTForImageClassificationWithTeacher", "deit"),
    ],
)
def test_a_classifier_gives_its_tower(name, model_type, tmp_path):
    settings, _ = reference.TOWERS["odd_heads"]
    cls = getattr(transformers, name)
    model = randomise(cls(cls.config_class(**settings)))
    config = vit_table.config_from(model.config.to_dict())
    rows = vit_table.classifier_rows(config, model_type)
    network, _ = reference.ours(config, reference.tensors_of(model), rows)
    (image,) = reference.pictures([(12, 12)])
    tower = getattr(model, model_type)
    close(network(image)[0], reference.torch_forward(tower, model_type, image, config)[0])
    recognised(model, tmp_path, config)


def test_albef_is_a_vit_with_other_names():
    settings, sizes = reference.TOWERS["odd_heads"]
    model, values = reference.build("vit", settings | {"layer_norm_eps": 1e-6})
    config = vit_table.config_from(values)
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    albef = {
        "cls_token": state["embeddings.cls_token"],
        "pos_embed": state["embeddings.position_embeddings"],
        "patch_embed.proj.weight": state["embeddings.patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": state["embeddings.patch_embeddings.projection.bias"],
    }
    for kind in ("weight", "bias"):
        albef[f"norm.{kind}"] = state[f"layernorm.{kind}"]
        for i in range(config.depth):
            theirs, block = f"layers.{i}.", f"blocks.{i}."
            albef[f"{block}attn.qkv.{kind}"] = np.concatenate(
                [state[f"{theirs}attention.{name}_proj.{kind}"] for name in "qkv"]
            )
            for ours, name in {
                "attn.proj": "attention.o_proj",
                "norm1": "layernorm_before",
                "norm2": "layernorm_after",
                "mlp.fc1": "mlp.fc1",
                "mlp.fc2": "mlp.fc2",
            }.items():
                albef[f"{block}{ours}.{kind}"] = state[f"{theirs}{name}.{kind}"]
    rows = vit_table.rows(config, "albef")
    network, params = reference.ours(config, albef, rows)
    for image in reference.pictures([(12, 12), *sizes]):
        close(network(image)[0], reference.torch_forward(model, "vit", image, config)[0])
    back = table.to_theirs(params, rows)
    assert set(back) == set(albef)
    assert all(back[name].tobytes() == albef[name].tobytes() for name in albef)


def test_positions_of_many_grids():
    """From many grids to many, against torch's own interpolation.

    Not to one column: there torch 2.13 repeats the first row when it averages.
    """
    rng = np.random.default_rng(0)
    for grid, shape in [(1, (3, 2)), (2, (1, 5)), (3, (3, 4)), (7, (24, 5)), (16, (26, 26))]:
        square = rng.normal(size=(grid, grid, 3))  # torch's own coordinates err more in float32
        for method, more in (("bicubic", {}), ("bilinear", {"antialias": True})):
            expected = torch.nn.functional.interpolate(
                torch.from_numpy(square).permute(2, 0, 1)[None],
                size=shape,
                mode=method,
                align_corners=False,
                **more,
            )
            got = vit.interpolate(np.float32(square.reshape(-1, 3)), grid, shape, method)
            expected = expected[0].permute(1, 2, 0).reshape(-1, 3).numpy()
            np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)


PUBLIC = {
    "deit-base-patch16-224": "vit",
    "deit-base-distilled-patch16-224": "deit",
    "albef-base-patch16-256": "vit",
    "clip-vit-base-patch16": "clip_vision_model",
    "clip-vit-large-patch14": "clip_vision_model",
    "clip-vit-large-patch14-336": "clip_vision_model",
    "eva-clip-g-patch14-224": "instructblip_vision_model",
    "siglip-so400m-patch14-224": "siglip_vision_model",
    "siglip-so400m-patch14-384": "siglip_vision_model",
    "siglip2-so400m-patch14-224": "siglip_vision_model",
    "siglip2-so400m-patch14-384": "siglip_vision_model",
}


@pytest.mark.parametrize("name", vit.PRESETS)
def test_presets_have_as_many_parameters_as_theirs(name):
    config, model_type = vit.PRESETS[name], PUBLIC[name]
    cls = getattr(transformers, vit_table.CLASSES[model_type])
    more = {"add_pooling_layer": False} if model_type in ("vit", "deit") else {}
    with torch.device("meta"):
        model = cls(cls.config_class(**vit_table.config_to(config, model_type)), **more)
    image = jax.ShapeDtypeStruct((1, config.image_size, config.image_size, 3), np.uint8)
    shapes = jax.eval_shape(vit.ViT(config).init, jax.random.key(0), image)["params"]
    assert parameters(shapes) == sum(tensor.numel() for tensor in model.parameters())
    # What config.json does not say is the preset's too, but for pixels and positions.
    again = vit_table.config_from(vit_table.config_to(config, model_type))
    assert (again.class_token, again.distillation_token) == (
        config.class_token,
        config.distillation_token,
    )

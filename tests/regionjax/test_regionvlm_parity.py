"""regionvlm's loss and gradients are PyTorch's, with the weights of an InstructBLIP."""

import pathlib
import sys

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

torch = pytest.importorskip("torch")
sys.path.append(str(pathlib.Path(__file__).parents[1] / "models"))

import instructblip_reference as reference  # noqa: E402

from regionjax.batch import BatchSpec  # noqa: E402
from regionjax.optim import OptimConfig, make_optimizer  # noqa: E402
from regionjax.systems import regionvlm, system  # noqa: E402
from regionjax.weights import table  # noqa: E402
from regionjax.weights.tables import instructblip as blip_table  # noqa: E402

pytestmark = pytest.mark.torch

EOS = 1
# Names of what RegionVLM trains, as LAVIS does: Q-Former, queries, projection, norm after the ViT.
TRAINED = ("query_tokens", "qformer.", "language_projection.", "vision_model.post_layernorm.")
SPEC = BatchSpec(
    image_size=12,
    mask_size=2,
    regions=1,
    points=2,
    prompt_length=4,
    target_length=6,
    text_length=10,
)
# The reference's Q-Former has 37 words, so numbers share them.
WORDS = {"begin": 2, "end": 3, "left": 4, "right": 5, "numbers": [6 + n % 31 for n in range(101)]}


@pytest.fixture(scope="module")
def pair():
    settings = reference.CONFIGS["instructblip"]
    settings[1]["qformer_config"] |= {"hidden_dropout_prob": 0.0}
    settings[1]["qformer_config"] |= {"attention_probs_dropout_prob": 0.0}
    model, tensors, config = reference.build(*settings)
    section = ConfigDict({"words": WORDS, "eos_id": EOS})
    for name in ("vit", "qformer", "t5"):
        section[name] = vars(getattr(config, name))
    section.vit.interpolation = "none"
    built = system.build(ConfigDict({"system": "regionvlm", "model": section}), SPEC)
    _, variables = reference.ours(config, tensors)
    return model, config, built, variables["params"]


def make_batch(images=4):
    """Every second image is asked about as a whole; prompts from none to full."""
    rng, batch = np.random.default_rng(5), SPEC.zeros(images)
    batch["image"][:] = rng.integers(0, 256, batch["image"].shape)
    batch["region_points"][:] = rng.random(batch["region_points"].shape)
    batch["region_box"][:] = (0.1, 0.1, 0.6, 0.6)
    batch["region_box"][1::2], batch["region_mask"][1::2] = (0, 0, 1, 1), 255
    for image in range(images):
        batch["prompt"][image, 0, : image + 1] = rng.integers(3, 50, image + 1)
        words = 2 + image
        batch["target"][image, 0, :words] = [*rng.integers(3, 50, words - 1), EOS]
    batch["prompt"][0] = 0
    batch["target_weight"][:] = batch["target"] > 0
    return batch


def text_of(points):
    """What the Q-Former is to read, by hand."""
    percent = np.trunc(points.astype(np.float64) * 100).astype(int).tolist()
    inside = [word for x, y in percent for word in (4, 6 + x % 31, 6 + y % 31, 5)]
    return [2, *inside, 3]


def of_pytorch(model, config, batch):
    """Loss, and {name: gradient} of what is trained; everything else is frozen."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.removeprefix("model.").startswith(TRAINED))
        parameter.grad = None
    texts = [text_of(points[0]) for points in batch["region_points"]]
    whole = batch["region_mask"].min((1, 2, 3)) == 255
    texts = [[2, 3] if all_ else text for text, all_ in zip(texts, whole, strict=True)]
    instruction = np.array([text + [0] * (10 - len(text)) for text in texts])[:, None]
    prompts = [[*row[row > 0], EOS] for row in batch["prompt"][:, 0]]
    prompt = np.array([row + [0] * (5 - len(row)) for row in prompts])[:, None]
    arguments = reference.torch_arguments(config, batch["image"], instruction, prompt)
    labels = torch.from_numpy(batch["target"][:, 0]).long()
    said = torch.cat([torch.zeros_like(labels[:, :1]), labels[:, :-1]], dim=1)
    labels = labels.masked_fill(labels == 0, -100)
    out = model(**arguments, decoder_input_ids=said, labels=labels)
    expected = torch.nn.functional.cross_entropy(out.logits.flatten(0, 1), labels.flatten())
    torch.testing.assert_close(out.loss, expected)  # a mean over the tokens of the batch
    out.loss.backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    return float(out.loss.detach()), grads


def test_loss_and_gradients_of_what_is_trained(pair):
    model, config, built, params = pair
    batch = make_batch()
    theirs, expected = of_pytorch(model, config, batch)
    optimizer = make_optimizer(OptimConfig(1e-3, frozen=regionvlm.FROZEN), 10, params)
    trained, frozen = optimizer.split(params)

    @jax.jit
    @jax.value_and_grad
    def loss(trained):
        everything = optimizer.merge(trained, frozen)
        terms, _, _ = built.losses(everything, {}, batch, jax.random.key(0), True)
        total, weight = terms["caption"]
        return total / weight

    ours, gradients = loss(trained)
    assert abs(ours - theirs) <= 1e-3 * abs(theirs)
    # Gradients in the names and shapes of the public file, frozen ones as zeros.
    every = optimizer.merge(gradients, jax.tree.map(np.zeros_like, frozen))
    renamed = table.to_theirs(every, blip_table.rows(config))
    found = {name: g for name, g in renamed.items() if name.startswith(TRAINED)}
    expected = {name.removeprefix("model."): g for name, g in expected.items()}
    assert set(found) == set(expected)
    assert all(not g.any() for name, g in renamed.items() if name not in found)
    largest = max(float(g.abs().max()) for g in expected.values() if g is not None)
    checked = 0
    for name, gradient in expected.items():
        # No softmax feels a key's bias, and the text's part of the last layer reaches nothing.
        gradient = np.zeros_like(found[name]) if gradient is None else gradient.numpy()
        np.testing.assert_allclose(
            found[name],
            gradient,
            rtol=0,
            atol=1e-3 * np.abs(gradient).max() + 1e-7 * largest,
            err_msg=name,
        )
        checked += gradient.any()
    assert checked > 50

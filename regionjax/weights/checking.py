"""Does a checkpoint say the same here as in transformers? Both run on random inputs.

The reference reads its own files with its own code, so names, shapes, forms and configs are all
part of what is compared. Needs torch.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from regionjax import tables
from regionjax.config import nearest
from regionjax.models import t5
from regionjax.models import vit as vit_model
from regionjax.weights import architectures, table
from regionjax.weights.table import WeightsError

# In float32: max |ours − theirs| / max |theirs|. In bfloat16 single outputs may be far off, so
# features are judged by their root mean square; logits by the divergence.
TOLERANCES = {"float32": 1e-4, "bfloat16": 5e-2}
DIVERGENCE = 0.01
DTYPES = tuple(TOLERANCES)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One output: largest absolute and relative error, relative root mean square, KL of logits.

    `divergence` is the mean of KL(theirs ‖ ours) in nats, None for what is no logits.
    """

    name: str
    shape: tuple
    absolute: float
    relative: float
    square: float
    divergence: float | None

    def holds(self, dtype):
        """Whether the error is within the tolerance of this dtype."""
        if dtype == "bfloat16":
            alike = self.divergence is not None or self.square <= TOLERANCES[dtype]
        else:
            alike = self.relative <= TOLERANCES[dtype]
        return bool(alike and (self.divergence is None or self.divergence <= DIVERGENCE))


def check(source, *, dtype="float32", seed=0):
    """Compares the outputs of a Hugging Face directory.

    Args:
      source: the directory.
      dtype: of our computation; theirs is float32.
      seed: of the inputs.

    Returns:
      list of Comparisons.

    Raises:
      WeightsError: torch is not there, or nothing to compare with.
    """
    if dtype not in DTYPES:
        raise WeightsError(f"computation in {dtype!r}{nearest(dtype, DTYPES)}")
    found = architectures.identify(source)
    name, family = found.architecture.name, found.architecture.family
    if family not in OUTPUTS:
        raise WeightsError(f"there is no {name} in transformers to compare with")
    try:
        import torch
        import transformers
    except ImportError as error:
        raise WeightsError("check needs torch (pip install torch)") from error
    reference = getattr(transformers, name).from_pretrained(source, dtype=torch.float32).eval()
    module = found.architecture.module(found.config, jnp.dtype(dtype))
    variables = {"params": _params(found)}
    ours = lambda *inputs, **settings: jax.device_get(  # noqa: E731
        jax.jit(lambda v: module.apply(v, *inputs, **settings))(variables)
    )
    with torch.no_grad():
        outputs = OUTPUTS[family](found, ours, reference, np.random.default_rng(seed))
        return [_compare(*output) for output in outputs]


def report(comparisons, dtype):
    """Lines of a table, and whether all comparisons hold."""
    lines = [f"{'output':<12}{'shape':<20}{'max abs':>10}{'max rel':>10}{'rms rel':>10}{'KL':>10}"]
    for c in comparisons:
        shape = "×".join(map(str, c.shape))
        divergence = "" if c.divergence is None else f"{c.divergence:.1e}"
        ok = "" if c.holds(dtype) else "  above the tolerance"
        lines.append(
            f"{c.name:<12}{shape:<20}{c.absolute:>10.1e}{c.relative:>10.1e}{c.square:>10.1e}"
            f"{divergence:>10}{ok}"
        )
    return lines, all(c.holds(dtype) for c in comparisons)


def _params(found):
    """All parameters, in memory."""
    shapes = found.architecture.shapes(found.config, "float32")
    headers, read = found.tensors.headers, found.tensors.read
    rows = found.architecture.rows(found.config)
    sources, _ = table.check(headers, rows, shapes, "the checkpoint")
    leaves = tables.flatten(shapes)
    return tables.nest({path: table.fill(read, sources[path], leaves[path]) for path in leaves})


def _compare(name, ours, theirs, real=None):
    """`real`: which positions count, a mask of the first dimensions."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if ours.shape != theirs.shape:
        raise WeightsError(f"{name} is {list(ours.shape)} here, {list(theirs.shape)} there")
    shape = ours.shape
    if real is not None:
        ours, theirs = ours[real], theirs[real]
    error = np.abs(ours - theirs)
    divergence = None
    if name == "logits":
        p, q = _log_softmax(theirs), _log_softmax(ours)
        divergence = float((np.exp(p) * (p - q)).sum(-1).mean())
    square = float(np.sqrt((error**2).mean() / (theirs**2).mean()))
    relative = float(error.max() / np.abs(theirs).max())
    return Comparison(name, shape, float(error.max()), relative, square, divergence)


def _log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def _image(config, rng, count=2):
    return rng.integers(0, 256, (count, config.image_size, config.image_size, 3), dtype=np.uint8)


def _pixels(image, config):
    """What a reference gets: normalised, channels first."""
    import torch

    values = (image / 255 - np.array(config.mean)) / np.array(config.std)
    return torch.from_numpy(values.astype(np.float32)).permute(0, 3, 1, 2)


def _text(vocabulary, rng, *shape):
    """Tokens i32 above 1 and a mask, padded with 0 at the end of every other row."""
    tokens = rng.integers(2, vocabulary, shape, dtype=np.int32)
    real = np.ones(shape, bool)
    real[::2, ..., -shape[-1] // 3 :] = False
    return np.where(real, tokens, 0), real


def _long(array):
    import torch

    return torch.tensor(np.ascontiguousarray(array), dtype=torch.long)


def _tower(model):
    """The vision tower of a pair or of a classifier."""
    for name in ("vision_model", "vit", "deit", "swin"):
        if hasattr(model, name):
            return getattr(model, name)
    return model


def _vision(found, ours, model, rng):
    config = found.config
    image, model = _image(config, rng), _tower(model)
    pixels, more = _pixels(image, config), {}
    if type(model).__name__.startswith("Siglip2"):
        pixels, more = _squares(pixels, config)
    theirs = model(pixels, **more).last_hidden_state
    if type(model).__name__.startswith("CLIP"):  # there only the class token is normalised
        theirs = model.post_layernorm(theirs)
    features, between = ours(image)
    yield "features", features, theirs
    if config.attention_pool:
        yield "pooled", between["pooled"], model(pixels, **more).pooler_output


def _squares(pixels, config):
    """SigLIP 2's processor cuts images into patches itself."""
    import torch

    count, side, grid = len(pixels), config.patch_size, config.grid
    squares = np.array(vit_model.squares(jnp.asarray(pixels.permute(0, 2, 3, 1).numpy()), side))
    squares = torch.from_numpy(squares.reshape(count, grid * grid, -1))
    return squares, {
        "pixel_attention_mask": torch.ones(squares.shape[:2], dtype=torch.int64),
        "spatial_shapes": torch.tensor([(grid, grid)] * count),
    }


def _swin(found, ours, model, rng):
    image = _image(found.config, rng)
    theirs = _tower(model)(_pixels(image, found.config)).last_hidden_state
    features, _ = ours(image)
    yield "features", features.reshape(theirs.shape), theirs


def _bert(found, ours, model, rng):
    tokens, real = _text(found.config.vocabulary, rng, 2, min(9, found.config.positions))
    out = model(input_ids=_long(tokens), attention_mask=_long(real))
    hidden, _ = ours(tokens[:, None], real[:, None])
    if not found.config.head:
        yield "hidden", hidden[:, 0], out.last_hidden_state, real
        return
    logits = out.logits if hasattr(out, "logits") else out.prediction_logits
    yield "logits", ours(hidden, method="logits")[:, 0], logits, real


def _decoder(found, ours, model, rng):
    tokens, real = _text(found.config.vocabulary, rng, 2, 12)
    for side in (1, -1):  # padding at the end, at the beginning
        text, mask = tokens[:, ::side], real[:, ::side]
        theirs = model(input_ids=_long(text), attention_mask=_long(mask)).logits
        logits, _ = ours(text, mask, method="read")
        yield "logits", logits, theirs, mask


def _t5(found, ours, model, rng):
    tokens, real = _text(found.config.vocabulary, rng, 2, 11)
    target, _ = _text(found.config.vocabulary, rng, 2, 6)
    inputs = np.asarray(t5.shift_right(target, found.config.start_id))
    theirs = model(
        input_ids=_long(tokens), attention_mask=_long(real), decoder_input_ids=_long(inputs)
    )
    hidden, between = ours(tokens, inputs, real)
    yield "encoded", between["encoded"], theirs.encoder_last_hidden_state, real
    yield "logits", ours(hidden, method="logits"), theirs.logits


def _instructblip(found, ours, model, rng):
    c = found.config
    image, mark = _image(c.vit, rng), found.description.values["image_token_index"]
    prompt, _ = _text(min(c.t5.vocabulary, mark), rng, 2, 1, 5)
    target, _ = _text(c.t5.vocabulary, rng, 2, 1, 6)
    inputs = np.asarray(t5.shift_right(target, c.t5.start_id))
    marks = np.full((2, c.qformer.queries), mark)
    both = np.concatenate([marks, prompt[:, 0]], axis=1)
    more, instruction = {}, None
    if c.qformer.vocabulary:
        length = min(7, c.qformer.positions)
        instruction, real = _text(c.qformer.vocabulary, rng, 2, 1, length)
        more["qformer_input_ids"] = _long(instruction[:, 0])
        more["qformer_attention_mask"] = _long(real[:, 0])
    theirs = model(
        pixel_values=_pixels(image, c.vit),
        input_ids=_long(both),
        attention_mask=_long(both > 0),
        decoder_input_ids=_long(inputs[:, 0]),
        **more,
    )
    hidden, between = ours(image, instruction, prompt, inputs)
    yield "features", between["features"], theirs.vision_outputs.last_hidden_state
    yield "logits", ours(hidden, method="logits")[:, 0], theirs.logits


def _paligemma(found, ours, model, rng):
    c, mark = found.config, found.description.values["image_token_index"]
    image = _image(c.vit, rng)
    words = min(c.decoder.vocabulary, mark)
    prompt, target = (rng.integers(2, words, (2, 1, size), dtype=np.int32) for size in (5, 6))
    marks = np.full((2, c.vit.grid**2), mark)
    tokens = np.concatenate([marks, prompt[:, 0], target[:, 0]], axis=1)
    answer = np.arange(tokens.shape[1]) >= tokens.shape[1] - target.shape[-1]
    theirs = model(
        pixel_values=_pixels(image, c.vit),
        input_ids=_long(tokens),
        attention_mask=_long(np.ones_like(tokens)),
        token_type_ids=_long(np.broadcast_to(answer, tokens.shape)),
    )
    hidden, _ = ours(image, prompt, target)
    predicting = theirs.logits[:, -1 - target.shape[-1] : -1]
    yield "logits", ours(hidden, method="logits")[:, 0], predicting


# By family. ALBEF has no reference that is maintained.
OUTPUTS = {
    "vit": _vision,
    "swin": _swin,
    "bert": _bert,
    "decoder": _decoder,
    "t5": _t5,
    "instructblip": _instructblip,
    "paligemma": _paligemma,
}

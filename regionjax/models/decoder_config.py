"""Variants and sizes of the language model in regionjax/models/decoder.py."""

import dataclasses
import functools

from regionjax.config import nearest
from regionjax.models import layers

LAYER_KINDS = ("full", "local")


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """Sizes and variants of a language model.

    Attributes:
      vocabulary: V; width: D; depth: layers; heads: N; kv_heads: K, which divides N; head_width: H,
        even.
      activation: of the gated MLP, a key of layers.ACTIVATIONS.
      centred_norms: the scales of the norms are stored minus one.
      post_norms: the outputs of attention and MLP are normalised as well.
      head_norms: queries and keys are normalised, a head at a time.
      pattern: kinds of the layers from the first on, repeated: "full", or "local", whose tokens see
        `window` tokens back, themselves included.
      rope_base, rope_factor: of full layers, local_rope_base: of local ones; see
        attention.frequencies.
      query_divisor: scores are divided by its square root; 0 stands for head_width.
      attention_softcap, logit_softcap: see attention.capped.
      scaled_embedding: token embeddings are multiplied by the root of `width`.
      tied: the output table is the input table.
      remat: a key of layers.REMAT_POLICIES or "none"; unroll: layers a scan step.
    """

    vocabulary: int
    width: int
    depth: int
    heads: int
    kv_heads: int
    head_width: int
    mlp_width: int
    activation: str = "silu"
    norm_epsilon: float = 1e-6
    centred_norms: bool = False
    post_norms: bool = False
    head_norms: bool = False
    pattern: tuple[str, ...] = ("full",)
    window: int = 0
    rope_base: float = 10_000.0
    rope_factor: float = 1.0
    local_rope_base: float = 10_000.0
    query_divisor: int = 0
    attention_softcap: float = 0.0
    logit_softcap: float = 0.0
    scaled_embedding: bool = True
    tied: bool = True
    remat: str = "none"
    unroll: int = 1

    def __post_init__(self):
        layers.check_remat(self.remat)
        layers.check_activation(self.activation)
        if self.heads % self.kv_heads:
            raise ValueError(f"kv_heads {self.kv_heads} does not divide heads {self.heads}")
        if self.head_width % 2:
            raise ValueError(f"head_width {self.head_width} is odd; rotary positions need pairs")
        for kind in self.pattern:
            if kind not in LAYER_KINDS:
                raise ValueError(f"pattern has a layer {kind!r}{nearest(kind, LAYER_KINDS)}")
        if not self.pattern:
            raise ValueError("pattern is empty; it needs a kind of layer")
        if ("local" in self.pattern) != (self.window > 0):
            raise ValueError(
                f"pattern {self.pattern} and window {self.window} disagree: "
                "local layers, and only they, need a window above 0"
            )

    @property
    def kinds(self):
        """Kind of every layer."""
        return tuple(self.pattern[i % len(self.pattern)] for i in range(self.depth))


def _gemma(width, depth, heads, kv_heads, mlp_width, head_width=256, vocabulary=256_000, **more):
    more = {"activation": "gelu_tanh", "centred_norms": True, **more}
    return DecoderConfig(vocabulary, width, depth, heads, kv_heads, head_width, mlp_width, **more)


_gemma2 = functools.partial(
    _gemma,
    post_norms=True,
    pattern=("local", "full"),
    window=4096,
    query_divisor=256,
    attention_softcap=50.0,
    logit_softcap=30.0,
)
_gemma3 = functools.partial(
    _gemma,
    post_norms=True,
    head_norms=True,
    pattern=("local",) * 5 + ("full",),
    window=1024,
    rope_base=1e6,
    query_divisor=256,
)
_gemma3_small = functools.partial(_gemma3, vocabulary=262_144, window=512)
_gemma3_large = functools.partial(_gemma3, vocabulary=262_208, rope_factor=8.0)


def _qwen3(width, depth, heads, mlp_width, kv_heads=8, **more):
    more = {"head_norms": True, "rope_base": 1e6, "scaled_embedding": False, **more}
    return DecoderConfig(151_936, width, depth, heads, kv_heads, 128, mlp_width, **more)


# By the names of the public checkpoints.
PRESETS = {
    "gemma-2b": _gemma(2048, 18, 8, 1, 16_384),
    "gemma-7b": _gemma(3072, 28, 16, 16, 24_576),
    "gemma-2-2b": _gemma2(2304, 26, 8, 4, 9216),
    "gemma-2-9b": _gemma2(3584, 42, 16, 8, 14_336),
    "gemma-2-27b": _gemma2(4608, 46, 32, 16, 36_864, head_width=128, query_divisor=144),
    "gemma-3-270m": _gemma3_small(640, 18, 4, 1, 2048),
    "gemma-3-1b": _gemma3_small(1152, 26, 4, 1, 6912),
    "gemma-3-4b": _gemma3_large(2560, 34, 8, 4, 10_240),
    "gemma-3-12b": _gemma3_large(3840, 48, 16, 8, 15_360),
    "gemma-3-27b": _gemma3_large(5376, 62, 32, 16, 21_504, head_width=128, query_divisor=168),
    "qwen3-0.6b": _qwen3(1024, 28, 16, 3072),
    "qwen3-1.7b": _qwen3(2048, 28, 16, 6144),
    "qwen3-4b": _qwen3(2560, 36, 32, 9728),
    "qwen3-8b": _qwen3(4096, 36, 32, 12_288, tied=False),
    "qwen3-14b": _qwen3(5120, 40, 40, 17_408, tied=False),
    "qwen3-32b": _qwen3(5120, 64, 64, 25_600, tied=False),
}

"""Image encoders of the Qwen-VL line, of GLM-V and of Kimi: patches of any-size images, merged two by two.

Sources: arXiv 2409.12191 (Qwen2-VL), 2502.13923 (Qwen2.5-VL), 2511.21631 (Qwen3-VL), 2507.01006 (GLM-4.1V),
2504.07491 (MoonViT).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bytebound.documents.architecture import Block, Conv, Embedding, Linear, Norm, Operator, Parameter, Tower
from bytebound.models.families.pieces import Ops, layers, split
from bytebound.models.families.stacks import attend, feed, norms, read_layers, read_size
from bytebound.models.families.vision import ANY_SIZE

if TYPE_CHECKING:
    from bytebound.models.keys import Keys


class Grid:
    """The patches of one square image of ``ANY_SIZE`` pixels a side, in whole merged squares.

    Args:
        keys: the vision config.
        patch: pixels a side of a patch that the class assumes.
    """

    def __init__(self, keys: Keys, *, patch: int) -> None:
        self.channels = keys.int("in_channels", 3, also=("in_chans",))
        self.patch = read_size(keys, "patch_size", patch)
        self.frames = read_size(keys, "temporal_patch_size", 2)[0]
        self.side = keys.int("spatial_merge_size", 2, most=64)
        keys.skip("image_size", "num_channels")
        merged = max(1, ANY_SIZE // (self.patch[0] * self.side))
        self.tokens_out = merged * merged
        self.tokens = self.tokens_out * self.side**2

    @property
    def kernel(self) -> tuple[int, int, int]:
        """Frames and pixels of one patch."""
        return self.frames, *self.patch


def qwen2_vision(keys: Keys, *, version: str) -> Tower:
    """Build the image encoder of Qwen2-VL (``2``) or Qwen2.5-VL (``2.5``).

    Qwen2.5 looks within windows of 112 pixels a side except in the layers it names.
    """
    newer = version == "2.5"
    grid = Grid(keys, patch=14)
    hidden = keys.int("hidden_size", saved=1280) if newer else keys.int("embed_dim", saved=1280)
    out = keys.int("out_hidden_size", saved=3584) if newer else keys.int("hidden_size", saved=3584)
    heads = keys.int("num_heads", 16)
    depth = read_layers(keys, "depth", 32)
    keys.skip("spatial_patch_size", "tokens_per_second", "fullatt_block_indexes", "architectures")
    if newer:
        inner = keys.int("intermediate_size", saved=3420)
        whole = keys.ints("fullatt_block_indexes") or (7, 15, 23, 31)
        window = (keys.int("window_size", 112) // grid.patch[0]) ** 2
        names: tuple[str, ...] = ("gate_proj", "up_proj", "down_proj")
    else:
        inner = int(hidden * keys.number("mlp_ratio", 4.0))
        whole, window, names = tuple(range(depth)), 0, ("fc1", "fc2")
    vectors = 1 if newer else 2
    dim = split(keys, hidden, heads)

    def layer(index: int) -> Ops:
        local = index not in whole and 0 < window < grid.tokens
        return (
            Norm("norm1", hidden, vectors),
            *attend(
                "attn.", hidden=hidden, heads=heads, head_dim=dim, names=("qkv", "proj"),
                kind="chunk" if local else "full", window=window if local else 0,
            ),
            Norm("norm2", hidden, vectors),
            *feed("mlp.", hidden=hidden, inner=inner, names=names),
        )  # fmt: skip

    wide = hidden * grid.side**2
    scale = grid.tokens_out / grid.tokens
    mlp = feed("merger.mlp.", hidden=wide, inner=wide, outputs=out, names=("0", "2"), token_scale=scale)
    blocks = (
        Block("visual.", (Conv("patch_embed.proj", grid.channels, hidden, grid.kernel, bias=False),)),
        *layers((layer(index) for index in range(depth)), prefix="visual.blocks"),
        Block("visual.", (Norm("merger.ln_q", hidden, vectors), *mlp)),
    )
    return Tower("vision", "encoder", blocks, hidden, tokens=grid.tokens, tokens_out=grid.tokens_out)


def qwen3_vision(keys: Keys, *, deepstack: bool = True) -> Tower:
    """Build the image encoder of Qwen3-VL, or without ``deepstack`` of Qwen3.5.

    Deepstack hands the features of some layers to the decoder through mergers of their own.
    """
    grid = Grid(keys, patch=16)
    hidden = keys.int("hidden_size", saved=1152)
    heads = keys.int("num_heads", 16)
    inner = keys.int("intermediate_size", saved=4304)
    depth = read_layers(keys, "depth", 27)
    out = keys.int("out_hidden_size", saved=3584)
    positions = keys.int("num_position_embeddings", 2304)
    deep = keys.ints("deepstack_visual_indexes")
    deep = (8, 16, 24) if deep is None else deep
    keys.skip("architectures", "hidden_act")
    wide = hidden * grid.side**2
    scale = grid.tokens_out / grid.tokens

    def merger(prefix: str, normed: int) -> Ops:
        first = Norm(f"{prefix}.norm", normed, 2, token_scale=scale if normed == wide else 1.0)
        names = ("linear_fc1", "linear_fc2")
        return (first, *feed(f"{prefix}.", hidden=wide, inner=wide, outputs=out, names=names, token_scale=scale))

    layer = (
        Norm("norm1", hidden, 2),
        *attend("attn.", hidden=hidden, heads=heads, head_dim=split(keys, hidden, heads), names=("qkv", "proj")),
        Norm("norm2", hidden, 2),
        *feed("mlp.", hidden=hidden, inner=inner, names=("linear_fc1", "linear_fc2")),
    )
    end = list(merger("merger", hidden))
    for index in range(len(deep) if deepstack else 0):
        end += merger(f"deepstack_merger_list.{index}", wide)
    start = (
        Conv("patch_embed.proj", grid.channels, hidden, grid.kernel),
        Embedding("pos_embed", positions, hidden),
    )
    blocks = (Block("visual.", start), *layers([layer] * depth, prefix="visual.blocks"), Block("visual.", tuple(end)))
    return Tower("vision", "encoder", blocks, hidden, tokens=grid.tokens, tokens_out=grid.tokens_out)


def glm_vision(keys: Keys) -> Tower:
    """Build the image encoder of GLM-4.1V, GLM-4.5V and GLM-4.6V: patches, down-sampling convolution, gated merger."""
    hidden = keys.int("hidden_size", saved=1536)
    heads = keys.int("num_heads", 12)
    out = keys.int("out_hidden_size", saved=4096)
    inner = keys.int("intermediate_size", saved=13696)
    depth = read_layers(keys, "depth", 24)
    image = read_size(keys, "image_size", 336)
    grid = Grid(keys, patch=14)
    bias = keys.flag("attention_bias", default=False)
    keys.skip("architectures", "hidden_act", "num_channels")
    rows = (image[0] // grid.patch[0]) ** 2
    gated = ("gate_proj", "up_proj", "down_proj")
    layer = (
        Norm("norm1", hidden),
        *attend(
            "attn.", hidden=hidden, heads=heads, head_dim=split(keys, hidden, heads), names=("qkv", "proj"),
            bias=(bias, bias, bias, False),
        ),
        Norm("norm2", hidden),
        *feed("mlp.", hidden=hidden, inner=out, names=gated, bias=False),
    )  # fmt: skip
    scale = grid.tokens_out / grid.tokens
    start = (
        Conv("patch_embed.proj", grid.channels, hidden, grid.kernel),
        Norm("post_conv_layernorm", hidden),
        Embedding("embeddings.position_embedding", rows, hidden),
    )
    end: tuple[Operator, ...] = (
        Norm("post_layernorm", hidden),
        Conv("downsample", hidden, out, (grid.side, grid.side), token_scale=scale),
        Linear("merger.proj", out, out, "mlp", token_scale=scale),
        *norms(out, "merger.post_projection_norm"),
        *feed("merger.", hidden=out, inner=inner, names=gated, bias=False, token_scale=scale),
    )
    blocks = (Block("visual.", start), *layers([layer] * depth, prefix="visual.blocks"), Block("visual.", end))
    return Tower("vision", "encoder", blocks, hidden, tokens=grid.tokens, tokens_out=grid.tokens_out)


def moonvit(keys: Keys, *, text: int, projected: int = 0) -> Tower:
    """Build MoonViT with its projector to the decoder's width ``text``, as Kimi-VL and Kimi K2.5 hold it.

    Args:
        keys: the vision config.
        text: width of the decoder.
        projected: width of the projector's first norm (0: the encoder's).
    """
    hidden = keys.int("hidden_size", also=("vt_hidden_size",), saved=1152)
    heads = keys.int("num_attention_heads", also=("vt_num_attention_heads",), saved=16)
    inner = keys.int("intermediate_size", also=("vt_intermediate_size",), saved=4304)
    depth = keys.int("num_hidden_layers", also=("vt_num_hidden_layers",), saved=27, most=2048)
    rows = keys.int("pos_emb_height", 64, also=("init_pos_emb_height",))
    cols = keys.int("pos_emb_width", 64, also=("init_pos_emb_width",))
    merge = keys.ints("merge_kernel_size", least=1, most=64) or (2, 2)
    patch = read_size(keys, "patch_size", 14)
    width = keys.int("mm_hidden_size", projected or hidden)
    keys.skip(
        "pos_emb_time", "init_pos_emb_time", "pos_emb_type", "merge_type", "mm_projector_type", "text_hidden_size",
        "video_attn_type", "projector_hidden_act", "projector_ln_eps", "architectures", "num_channels",
    )  # fmt: skip
    if len(merge) != 2:
        raise keys.error("merge_kernel_size", f"{merge} is not a height and a width", "write two numbers")
    area = merge[0] * merge[1]
    scale = 1 / area
    layer = (
        Norm("norm0", hidden, 2),
        *attend("", hidden=hidden, heads=heads, head_dim=split(keys, hidden, heads), names=("wqkv", "wo")),
        Norm("norm1", hidden, 2),
        *feed("mlp.", hidden=hidden, inner=inner, names=("fc0", "fc1")),
    )
    start = (Conv("patch_embed.proj", 3, hidden, patch), Parameter("patch_embed.pos_emb.weight", (rows, cols, hidden)))
    end = (
        Norm("vision_tower.encoder.final_layernorm", hidden, 2),
        Norm("mm_projector.pre_norm", width, 2),
        *feed(
            "mm_projector.proj.", hidden=hidden * area, inner=hidden * area, outputs=text, names=("0", "2"),
            token_scale=scale,
        ),
    )  # fmt: skip
    blocks = (
        Block("vision_tower.", start),
        *layers([layer] * depth, prefix="vision_tower.encoder.blocks"),
        Block("", end),
    )
    return Tower("vision", "encoder", blocks, hidden, tokens=rows * cols, tokens_out=rows * cols // area)

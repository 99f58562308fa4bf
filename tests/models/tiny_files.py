"""Write tiny GGUF and safetensors files byte by byte."""

import json
import struct

U32, I32, F32, BOOL, STRING, ARRAY, U64 = 4, 5, 6, 7, 8, 9, 10
CODES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
SIZES = {0: (1, 4), 1: (1, 2), 2: (32, 18), 8: (32, 34), 14: (256, 210), 30: (1, 2)}


def text(value, end="<"):
    """Return a length-prefixed string."""
    data = value.encode()
    return struct.pack(f"{end}Q", len(data)) + data


def value(kind, item, end="<"):
    """Return a metadata value of one kind."""
    if kind == STRING:
        return text(item, end)
    if kind == ARRAY:
        inner, items = item
        return struct.pack(f"{end}IQ", inner, len(items)) + b"".join(value(inner, one, end) for one in items)
    return struct.pack(f"{end}{CODES[kind]}", item)


def gguf(metadata, tensors, *, end="<", version=3, alignment=32, data=True):
    """Return a GGUF file; metadata is (key, kind, value), tensors are (name, shape outermost first, ggml type)."""
    head = b"GGUF" + struct.pack(f"{end}IQQ", version, len(tensors), len(metadata))
    for key, kind, item in metadata:
        head += text(key, end) + struct.pack(f"{end}I", kind) + value(kind, item, end)
    offset = 0
    for name, shape, kind in tensors:
        head += text(name, end) + struct.pack(f"{end}I", len(shape))
        head += b"".join(struct.pack(f"{end}Q", size) for size in reversed(shape))
        head += struct.pack(f"{end}IQ", kind, offset)
        offset += -(-nbytes(shape, kind) // alignment) * alignment
    head += b"\0" * (-len(head) % alignment)
    return head + (b"\0" * offset if data else b"")


def nbytes(shape, kind):
    """Return the bytes a tensor takes."""
    count = 1
    for size in shape:
        count *= size
    block, size = SIZES[kind]
    return count // block * size


def llama(*, layers=2, hidden=64, inner=96, vocab=128, heads=4, kv=2, kind=8, tied=True, down=None):
    """Return metadata and tensors of a small Llama; ``down`` is the type of the last layer's ffn_down."""
    metadata = [
        ("general.architecture", STRING, "llama"),
        ("general.name", STRING, "tiny"),
        ("llama.block_count", U32, layers),
        ("llama.context_length", U32, 256),
        ("llama.embedding_length", U32, hidden),
        ("llama.feed_forward_length", U32, inner),
        ("llama.attention.head_count", U32, heads),
        ("llama.attention.head_count_kv", U32, kv),
        ("llama.rope.freq_base", F32, 1e4),
        ("tokenizer.ggml.tokens", ARRAY, (STRING, ["a", "b"])),
        ("tokenizer.ggml.add_bos_token", BOOL, 1),
    ]
    width = hidden // heads * kv
    tensors = [("token_embd.weight", (vocab, hidden), kind)]
    for at in range(layers):
        last = down if down is not None and at == layers - 1 else kind
        tensors += [
            (f"blk.{at}.attn_norm.weight", (hidden,), 0),
            (f"blk.{at}.attn_q.weight", (hidden, hidden), kind),
            (f"blk.{at}.attn_k.weight", (width, hidden), kind),
            (f"blk.{at}.attn_v.weight", (width, hidden), kind),
            (f"blk.{at}.attn_output.weight", (hidden, hidden), kind),
            (f"blk.{at}.ffn_norm.weight", (hidden,), 0),
            (f"blk.{at}.ffn_gate.weight", (inner, hidden), kind),
            (f"blk.{at}.ffn_up.weight", (inner, hidden), kind),
            (f"blk.{at}.ffn_down.weight", (hidden, inner), last),
        ]
    tensors.append(("output_norm.weight", (hidden,), 0))
    if not tied:
        tensors.append(("output.weight", (vocab, hidden), kind))
    return metadata, tensors


BITS = {"F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "U8": 8, "F8_E4M3": 8, "F4": 4}


def safetensors(tensors, *, extra=None, header=None, data=True):
    """Return a safetensors file; tensors are (name, dtype, shape)."""
    table, at = {}, 0
    if extra is not None:
        table["__metadata__"] = extra
    for name, dtype, shape in tensors:
        count = 1
        for size in shape:
            count *= size
        size = count * BITS[dtype] // 8
        table[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    head = json.dumps(table if header is None else header).encode()
    return struct.pack("<Q", len(head)) + head + (b"\0" * at if data else b"")


LLAMA = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 96, "num_hidden_layers": 2, "vocab_size": 128,
    "max_position_embeddings": 256, "tie_word_embeddings": False, "torch_dtype": "float16",
}  # fmt: skip


def llama_tensors(dtype="F16", norm="F32"):
    """Return the tensors of ``LLAMA`` as its class saves them."""
    tensors = [("model.embed_tokens.weight", dtype, (128, 64)), ("lm_head.weight", dtype, (128, 64))]
    for at in range(2):
        prefix = f"model.layers.{at}."
        tensors += [(f"{prefix}{name}.weight", norm, (64,)) for name in ("input_layernorm", "post_attention_layernorm")]
        shapes = {"q": (64, 64), "k": (32, 64), "v": (32, 64), "o": (64, 64)}
        tensors += [(f"{prefix}self_attn.{name}_proj.weight", dtype, shape) for name, shape in shapes.items()]
        shapes = {"gate": (96, 64), "up": (96, 64), "down": (64, 96)}
        tensors += [(f"{prefix}mlp.{name}_proj.weight", dtype, shape) for name, shape in shapes.items()]
    return [*tensors, ("model.norm.weight", norm, (64,))]

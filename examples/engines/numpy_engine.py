"""An engine in NumPy, complete: llama and qwen2 models in float32. It needs numpy and gguf, and nothing of diffuzz.

    python -m diffuzz dump --model MODEL.gguf --tokens 1780,314,216 --out run.safetensors \\
        --engine "run:python numpy_engine.py"

It is called as

    python numpy_engine.py --model FILE --tokens 1,2,3 --dump OUT.safetensors [--patch IN.safetensors]
    python numpy_engine.py --model FILE --serve
    python numpy_engine.py --describe
"""

import argparse
import json
import struct
import sys

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize

TAPS = [
    "attn_norm", "q", "k", "v", "q_rope", "k_rope", "scores", "probs", "attn", "attn_out", "ffn_inp", "ffn_norm",
    "gate", "up", "glu", "down", "l_out",
]  # fmt: skip


class Model:
    """The numbers and the dequantised weights of a GGUF file."""

    def __init__(self, path, dtype=np.float32):
        reader = GGUFReader(path)
        fields = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("tokenizer")}
        self.architecture, self.dtype = fields["general.architecture"], dtype
        if self.architecture not in ("llama", "qwen2"):
            raise ValueError(f"the architecture {self.architecture} is not llama or qwen2")
        get = {name.partition(".")[2]: value for name, value in fields.items()}.get
        self.layers, self.heads, width = get("block_count"), get("attention.head_count"), get("embedding_length")
        self.key_heads, self.head = get("attention.head_count_kv"), get("attention.key_length") or width // self.heads
        self.eps, self.base = get("attention.layer_norm_rms_epsilon"), get("rope.freq_base") or 10000.0
        self.weights = {t.name: dequantize(t.data, t.tensor_type).astype(dtype) for t in reader.tensors}

    def product(self, name, x):
        """x[n, inputs] with the rows of a weight, and its bias if it has one."""
        y = x @ self.weights[f"{name}.weight"].T
        return y + self.weights[f"{name}.bias"] if f"{name}.bias" in self.weights else y

    def norm(self, name, x):
        """x / sqrt(mean x^2 + eps) * gain"""
        root = np.sqrt((x * x).mean(-1, keepdims=True) + self.dtype(self.eps))
        return x / root * self.weights[f"{name}.weight"]

    def rotated(self, x):
        """x[n, heads, c]: pairs of neighbours (llama) or of elements that are half a head apart (qwen2) are turned."""
        angles = np.arange(len(x))[:, None] / float(self.base) ** (np.arange(0, self.head, 2) / self.head)
        cos, sin = (f(angles).astype(self.dtype)[:, None] for f in (np.cos, np.sin))
        half = self.head // 2
        first, second = (
            (slice(0, None, 2), slice(1, None, 2)) if self.architecture == "llama" else (slice(half), slice(half, None))
        )
        y = np.empty_like(x)
        y[..., first] = x[..., first] * cos - x[..., second] * sin
        y[..., second] = x[..., first] * sin + x[..., second] * cos
        return y

    def run(self, tokens, patch):
        """All taps of one run, each replaced by that of ``patch`` as soon as it is known."""
        taps, n, group = {}, len(tokens), self.heads // self.key_heads

        def tap(name, value):
            taps[name] = value.copy()
            return patch[name].reshape(value.shape).astype(value.dtype) if name in patch else value

        future = np.triu(np.full((n, n), -np.inf, self.dtype), 1)
        x = tap("embd", self.weights["token_embd.weight"][tokens])
        for layer in range(self.layers):
            at = f"blk.{layer}."
            h = tap(f"{at}attn_norm", self.norm(f"{at}attn_norm", x))
            q, k, v = (tap(f"{at}{name}", self.product(f"{at}attn_{name}", h)) for name in "qkv")
            q = tap(f"{at}q_rope", self.rotated(q.reshape(n, self.heads, self.head)))
            k = tap(f"{at}k_rope", self.rotated(k.reshape(n, self.key_heads, self.head)))
            v = v.reshape(n, self.key_heads, self.head).transpose(1, 0, 2).repeat(group, 0)
            scores = tap(f"{at}scores", q.transpose(1, 0, 2) @ k.transpose(1, 2, 0).repeat(group, 0))
            scaled = scores * self.dtype(self.head**-0.5) + future
            e = np.exp(scaled - scaled.max(-1, keepdims=True))
            probs = tap(f"{at}probs", e / e.sum(-1, keepdims=True))
            attn = tap(f"{at}attn", (probs @ v).transpose(1, 0, 2).reshape(n, -1))
            x = tap(f"{at}ffn_inp", x + tap(f"{at}attn_out", self.product(f"{at}attn_output", attn)))
            h = tap(f"{at}ffn_norm", self.norm(f"{at}ffn_norm", x))
            gate = tap(f"{at}gate", self.product(f"{at}ffn_gate", h))
            up = tap(f"{at}up", self.product(f"{at}ffn_up", h))
            glu = tap(f"{at}glu", gate / (1 + np.exp(-gate)) * up)
            x = tap(f"{at}l_out", x + tap(f"{at}down", self.product(f"{at}ffn_down", glu)))
        x = tap("final_norm", self.norm("output_norm", x))
        tap("logits", self.product("output" if "output.weight" in self.weights else "token_embd", x))
        return taps


def save(path, metadata, arrays):
    """A .safetensors file: the length of a JSON header, the header, and the bytes of all arrays."""
    header, end = {"__metadata__": metadata}, 0
    for name, array in arrays.items():
        dtype = {"float32": "F32", "float64": "F64", "int32": "I32"}[array.dtype.name]
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": [end, end + array.nbytes]}
        end += array.nbytes
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for array in arrays.values():
            file.write(np.ascontiguousarray(array).tobytes())


def load(path):
    """The float32 arrays of such a file, by name."""
    with open(path, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        data = file.read()
    places = {name: one["data_offsets"] for name, one in header.items() if one.get("dtype") == "F32"}
    return {name: np.frombuffer(data[begin:end], "<f4") for name, (begin, end) in places.items()}


def dump(model, tokens, path, patch):
    """One run, written to ``path``."""
    metadata = {"format": "diffuzz-dump", "version": "1", "engine": "numpy_engine", "arch": model.architecture}
    arrays = {"tokens": np.array(tokens, np.int32)}
    save(path, metadata | {"products": "f32"}, arrays | model.run(tokens, load(patch) if patch else {}))


def main():
    parser = argparse.ArgumentParser()
    for name in ("--model", "--tokens", "--dump", "--patch"):
        parser.add_argument(name)
    for name in ("--serve", "--describe"):
        parser.add_argument(name, action="store_true")
    given = parser.parse_args()
    if given.describe:
        print(json.dumps({"engine": "numpy_engine", "taps": ["embd", *TAPS, "final_norm", "logits"], "patches": True}))
        return
    model = Model(given.model)
    if not given.serve:
        dump(model, [int(token) for token in given.tokens.split(",")], given.dump, given.patch)
        return
    for line in sys.stdin:
        try:
            asked = json.loads(line)
            dump(model, asked["tokens"], asked["dump"], asked["patch"])
            answer = {"ok": True}
        except Exception as error:
            answer = {"ok": False, "error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()

"""Model code of Hugging Face transformers, without weights: Llama's, T5's and gpt-oss's."""

import numpy as np
import torch
from transformers.integrations.mxfp4 import convert_moe_packed_tensors
from transformers.models.llama import modeling_llama as llama
from transformers.models.t5.modeling_t5 import T5LayerNorm


@torch.no_grad()
def rms_norm(x, eps):
    return llama.LlamaRMSNorm(x.shape[-1], eps)(torch.from_numpy(x)).numpy()


@torch.no_grad()
def t5_norm(x, eps):
    return T5LayerNorm(x.shape[-1], eps)(torch.from_numpy(x)).numpy()


def swiglu(gate, up):
    act = llama.ACT2FN["silu"]
    return (act(torch.from_numpy(gate)) * torch.from_numpy(up)).numpy()


def rope(x, positions, base, mode):
    parameters = {"rope_type": "default", "rope_theta": base}
    config = llama.LlamaConfig(head_dim=x.shape[-1], rope_parameters=parameters)
    q = torch.from_numpy(x)[:, :, None]  # [b, heads, one token, head_dim]
    cos, sin = llama.LlamaRotaryEmbedding(config)(q, torch.from_numpy(positions)[:, None])
    return llama.apply_rotary_pos_emb(q, q, cos, sin)[0][:, :, 0].numpy()


def dequantize_mxfp4(blocks):
    # ggml puts weights i and i + 16 into a byte, gpt-oss 2i and 2i + 1.
    low, high = blocks[:, 1:] & 15, blocks[:, 1:] >> 4
    codes = torch.from_numpy(np.concatenate([low, high], axis=1))
    packed, scales = codes[:, 0::2] | codes[:, 1::2] << 4, torch.from_numpy(blocks[:, :1].copy())
    return convert_moe_packed_tensors(packed[None, :, None], scales[None], dtype=torch.float32)[0].T.numpy()

"""Model code of Hugging Face diffusers, and its dequantisers of GGUF files."""

import torch
from diffusers.models.embeddings import apply_rotary_emb, get_1d_rotary_pos_embed
from diffusers.models.normalization import RMSNorm
from diffusers.quantizers.gguf import utils
from gguf import GGMLQuantizationType as Type


@torch.no_grad()
def rms_norm(x, eps):
    return RMSNorm(x.shape[-1], eps)(torch.from_numpy(x)).numpy()


def rope(x, positions, base, mode):
    norm = mode == "norm"
    cos_sin = get_1d_rotary_pos_embed(x.shape[-1], positions, base, use_real=True, repeat_interleave_real=norm)
    turned = torch.from_numpy(x).transpose(0, 1)[None]  # [1, heads, tokens, head_dim]
    return apply_rotary_emb(turned, cos_sin, use_real_unbind_dim=-1 if norm else -2)[0].transpose(0, 1).numpy()


def _dequantize(blocks, kind):
    parameter = utils.GGUFParameter(torch.from_numpy(blocks), quant_type=kind)
    return utils.dequantize_gguf_tensor(parameter).float().numpy()


def dequantize_q4_0(blocks):
    return _dequantize(blocks, Type.Q4_0)


def dequantize_q4_k(blocks):
    return _dequantize(blocks, Type.Q4_K)


def dequantize_q6_k(blocks):
    return _dequantize(blocks, Type.Q6_K)


def dequantize_q8_0(blocks):
    return _dequantize(blocks, Type.Q8_0)

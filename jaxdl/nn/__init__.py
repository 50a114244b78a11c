"""Layers that a reader knows from papers; their parameters and activations carry logical names."""

from jaxdl.nn.attention import Attention, attend, causal_mask
from jaxdl.nn.layers import conv, dense, dropout, embed
from jaxdl.nn.logits import Logits
from jaxdl.nn.mlp import GeluMLP, SwiGLU
from jaxdl.nn.moe import MoE
from jaxdl.nn.norm import LayerNorm, RMSNorm, batch_norm, layer_norm, rms_norm
from jaxdl.nn.position import Rotary, learned, sinusoidal, sinusoids
from jaxdl.nn.recurrent import LSTM
from jaxdl.nn.stack import Stack
from jaxdl.nn.table import Table, table
from jaxdl.parallel import constrain

__all__ = [
    "LSTM",
    "Attention",
    "GeluMLP",
    "LayerNorm",
    "Logits",
    "MoE",
    "RMSNorm",
    "Rotary",
    "Stack",
    "SwiGLU",
    "Table",
    "attend",
    "batch_norm",
    "causal_mask",
    "constrain",
    "conv",
    "dense",
    "dropout",
    "embed",
    "layer_norm",
    "learned",
    "rms_norm",
    "sinusoidal",
    "sinusoids",
    "table",
]

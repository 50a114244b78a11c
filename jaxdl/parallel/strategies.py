"""Strategies: what each divides, as a dict from logical names to mesh axes.

The mesh decides what happens: under `auto`, the default, `mesh={"fsdp": 4, "model": 2}` is ZeRO-3
over four devices with tensor parallelism over two. An axis of size 1 costs nothing.
"""

from __future__ import annotations

from typing import Any

from jaxdl.core.errors import InputError, suggest
from jaxdl.parallel.mesh import AXES
from jaxdl.parallel.placement import Rules, axes_of, check_known

PARAMETERS = {
    "embed": "model width",
    "mlp": "hidden width",
    "heads": "heads x head size of queries and outputs",
    "kv": "heads x head size of keys and values",
    "vocab": "tokens",
    "pos": "learned positions",
    "classes": "outputs of a classifier",
    "norm": "scales and shifts of normalisation",
    "conv_in": "input channels",
    "conv_out": "output channels",
    "layers": "stacked layers",
    "experts": "experts of a mixture",
}
ACTIVATIONS = {
    "batch": "examples",
    "time": "sequence positions inside a layer",
    "norm_time": "sequence positions between layers, where they are normalised",
    "act_embed": "model width",
    "act_mlp": "hidden width",
    "act_heads": "attention heads",
    "act_kv": "heads of keys and values",
    "act_vocab": "tokens",
    "act_classes": "outputs of a classifier",
    "act_conv": "channels",
    "act_experts": "experts of a mixture",
    "expert_batch": "examples at their experts",
}
WHOLE = {"optimizer": "an optimizer's state, along the first dimension that divides"}
"""Names of tensors as a whole."""
METHODS = {"context": ("ring", "all_to_all")}
"""How a computation is done where several ways exist; the first is the default."""
NAMES = PARAMETERS | ACTIVATIONS | WHOLE

NONE: Rules = dict.fromkeys(NAMES) | {name: ways[0] for name, ways in METHODS.items()}
DP: Rules = {"batch": "data", "expert_batch": "data"}
"""Data parallelism."""
ZERO1: Rules = {"optimizer": ("data", "fsdp")}
"""ZeRO stage 1 (Rajbhandari et al. 2019, arXiv:1910.02054): optimizer state is divided too."""
FSDP: Rules = {"batch": "fsdp", "expert_batch": "fsdp", "embed": "fsdp", "conv_out": "fsdp"}
"""ZeRO stage 3: parameters, gradients and optimizer state are divided."""
TP: Rules = dict.fromkeys(
    ("heads", "kv", "mlp", "vocab", "act_heads", "act_kv", "act_mlp", "act_vocab"), "model"
)
"""Tensor parallelism (Shoeybi et al. 2019, arXiv:1909.08053, section 3)."""
SP: Rules = {"norm_time": "model"}
"""With it, what lies between layers is divided by positions (Korthikanti et al. 2022,
arXiv:2205.05198, section 4.2.2)."""
CP: Rules = {"time": "seq", "norm_time": "seq"}
"""Context parallelism: rings (Liu et al. 2023, arXiv:2310.01889)."""
ULYSSES: Rules = CP | {"context": "all_to_all"}
"""Context parallelism: heads for positions (Jacobs et al. 2023, arXiv:2309.14509)."""
EP: Rules = {"batch": "expert", "experts": "expert", "act_experts": "expert"}
"""Expert parallelism (Lepikhin et al. 2020, arXiv:2006.16668)."""
PP: Rules = {"layers": "pipe"}
"""Pipeline parallelism (Huang et al. 2018, arXiv:1811.06965)."""


def compose(*strategies: Rules) -> dict[str, Any]:
    """One strategy that does what all of them do: a name's axes are put together."""
    found: dict[str, Any] = {}
    for strategy in strategies:
        for name, rule in strategy.items():
            if name in METHODS:
                found[name] = rule
                continue
            asked = {*axes_of(found.get(name)), *axes_of(rule)}
            axes = tuple(axis for axis in AXES if axis in asked)
            found[name] = axes[0] if len(axes) == 1 else axes or None
    return found


STRATEGIES: dict[str, Rules] = {
    "auto": compose(DP, FSDP, TP, CP, EP, PP),
    "dp": DP,
    "zero1": ZERO1,
    "fsdp": FSDP,
    "tp": TP,
    "sp": SP,
    "cp": CP,
    "ulysses": ULYSSES,
    "ep": EP,
    "pp": PP,
}


def resolve(rules: str | Rules) -> dict[str, Any]:
    """The full rule dict of a strategy's name, of several, e.g. `fsdp+tp`, or of a dict of changes
    to `auto`.

    Raises:
        InputError: on an unknown strategy, logical name or method.
    """
    if isinstance(rules, str):
        for name in rules.split("+"):
            if name not in STRATEGIES:
                raise InputError(f"unknown strategy {name!r}; {suggest(name, STRATEGIES)}.")
        return NONE | compose(*(STRATEGIES[name] for name in rules.split("+")))
    check_known(rules, NONE, "rules")
    changes = {k: tuple(v) if isinstance(v, list) else v for k, v in rules.items()}
    for name, ways in METHODS.items():
        if changes.get(name, ways[0]) not in ways:
            raise InputError(f"rules: {name} is {changes[name]!r}; {suggest(changes[name], ways)}.")
    return NONE | STRATEGIES["auto"] | changes

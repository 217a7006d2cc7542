"""Activation functions."""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812  (torch's own spelling)

from effc.ir.trace.onnx.call import Call, Tensor

SELU_ALPHA, SELU_GAMMA = 1.67326319217681884765625, 1.05070102214813232421875


def _leaky_relu(call: Call, x: Tensor) -> Tensor:
    return F.leaky_relu(x, call.get("alpha", 0.01))


def _prelu(call: Call, x: Tensor, slope: Tensor) -> Tensor:
    if call.version < 7 and slope.dim() == 1 and x.dim() > 1:
        slope = slope.reshape([-1, *[1] * (x.dim() - 2)])
    negative = (x * slope) if x.dtype.is_floating_point else (x * slope).to(x.dtype)
    return torch.where(x < 0, negative, x)


def _elu(call: Call, x: Tensor) -> Tensor:
    return F.elu(x, call.get("alpha", 1.0))


def _celu(call: Call, x: Tensor) -> Tensor:
    alpha = call.get("alpha", 1.0)
    return torch.clamp_min(x, 0) + torch.clamp_max(alpha * (torch.exp(x / alpha) - 1), 0)


def _selu(call: Call, x: Tensor) -> Tensor:
    alpha, gamma = call.get("alpha", SELU_ALPHA), call.get("gamma", SELU_GAMMA)
    return gamma * F.elu(x, alpha)


def _hard_sigmoid(call: Call, x: Tensor) -> Tensor:
    alpha, beta = call.get("alpha", 0.2), call.get("beta", 0.5)
    return torch.clamp(alpha * x + beta, 0.0, 1.0)


def _softplus(call: Call, x: Tensor) -> Tensor:
    return F.softplus(x)


def _softsign(call: Call, x: Tensor) -> Tensor:
    return x / (1 + torch.abs(x))


def _thresholded_relu(call: Call, x: Tensor) -> Tensor:
    return torch.where(x > call.get("alpha", 1.0), x, torch.zeros_like(x))


def _gelu(call: Call, x: Tensor) -> Tensor:
    return F.gelu(x, approximate=call.get("approximate", "none"))


def _swish(call: Call, x: Tensor) -> Tensor:
    alpha = call.get("alpha", 1.0)
    return F.silu(x) if alpha == 1.0 else x * torch.sigmoid(alpha * x)


def _swiglu(call: Call, gate: Tensor, x: Tensor) -> Tensor:
    return _swish(call, gate) * x


def _shrink(call: Call, x: Tensor) -> Tensor:
    limit, bias = call.get("lambd", 0.5), call.get("bias", 0.0)
    zero = torch.zeros_like(x)
    low = torch.where(x < -limit, (x + bias).to(x.dtype), zero)
    return torch.where(x > limit, (x - bias).to(x.dtype), low)


def _plain(function: Callable[[Tensor], Tensor]) -> Callable[[Call, Tensor], Tensor]:
    return lambda call, x: function(x)


TABLE: dict[str, Any] = {
    "Relu": _plain(F.relu),
    "LeakyRelu": _leaky_relu,
    "PRelu": _prelu,
    "Elu": _elu,
    "Celu": _celu,
    "Selu": _selu,
    "Sigmoid": _plain(torch.sigmoid),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _plain(F.hardswish),
    "Softplus": _softplus,
    "Softsign": _softsign,
    "ThresholdedRelu": _thresholded_relu,
    "Gelu": _gelu,
    "Mish": _plain(F.mish),
    "Swish": _swish,
    "SwiGLU": _swiglu,
    "Shrink": _shrink,
}

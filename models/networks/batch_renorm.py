"""Batch renormalisation (Ioffe 2017, arXiv 1702.03275)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class BatchRenorm2d(nn.BatchNorm2d):
    """Batch normalisation whose training output depends on the running statistics as its evaluation output does.

    In training x is normalised by the batch's mean and deviation, then corrected: y = x * r + d with
    r = clip(sigma_batch / sigma, 1/r_max, r_max) and d = clip((mu_batch - mu) / sigma, -d_max, d_max), both without
    gradient (equation 4 and algorithm 1). In evaluation it is batch normalisation.

    Input and output: [N, C, H, W].
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self, channels: int, eps: float = 1e-5, momentum: float = 0.01, r_max: float = 3.0, d_max: float = 5.0
    ) -> None:
        super().__init__(channels, eps=eps, momentum=momentum)
        self.rate, self.r_max, self.d_max = momentum, r_max, d_max

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
        deviation = torch.sqrt(variance + self.eps)
        with torch.no_grad():
            running = torch.sqrt(self.running_var + self.eps)
            r = (deviation / running).clamp(1 / self.r_max, self.r_max)
            d = ((mean - self.running_mean) / running).clamp(-self.d_max, self.d_max)
            self.running_mean += self.rate * (mean - self.running_mean)
            self.running_var += self.rate * (variance - self.running_var)
        normal = (x - mean[:, None, None]) / deviation[:, None, None] * r[:, None, None] + d[:, None, None]
        return normal * self.weight[:, None, None] + self.bias[:, None, None]

"""Small networks of other families than the bases: patch kinds, folding and engines must fit any of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from patchd.models.networks import BatchRenorm2d, EfficientNetLite, MobileNetV2
from torch import Tensor, nn

CLASSES = 10
SIDE = 32


class GroupNormBlock(nn.Module):
    """A residual block with group normalisation (He et al. 2016; Wu and He 2018)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.GroupNorm(4, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.GroupNorm(4, outputs)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class GroupNormResNet(nn.Module):
    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 1, 1)
        self.layers = nn.Sequential(GroupNormBlock(16, 16, 1), GroupNormBlock(16, 32, 2), GroupNormBlock(32, 32, 1))
        self.fc = nn.Linear(32, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layers(self.stem(x)).mean((2, 3)))


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.width = heads, width
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.shape[1]
        q, k, v = self.qkv(x).chunk(3, -1)
        q, k, v = (self.apart(part, tokens) for part in (q, k, v))
        weights = torch.softmax(q @ k.transpose(-2, -1) * (self.width // self.heads) ** -0.5, -1)
        return self.out((weights @ v).transpose(1, 2).reshape(-1, tokens, self.width))

    def apart(self, x: Tensor, tokens: int) -> Tensor:
        return x.reshape(-1, tokens, self.heads, self.width // self.heads).transpose(1, 2)


class Layer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.wide, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.narrow(torch.relu(self.wide(self.norm2(x))))


class VisionTransformer(nn.Module):
    """Patches as tokens, layer normalisation before each part, mean over tokens (Dosovitskiy et al. 2021)."""

    def __init__(self, classes: int = CLASSES, side: int = SIDE, width: int = 32) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, width, 8, 8)
        self.places = nn.Parameter(torch.randn(1, (side // 8) ** 2, width) * 0.1)
        self.layers = nn.ModuleList(Layer(width, 4) for _ in range(2))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2) + self.places
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x).mean(1))


class Renormed(nn.Module):
    """Two convolutions with batch renormalisation."""

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 16, 3, 2, 1, bias=False), BatchRenorm2d(16)
        self.conv2, self.norm2 = nn.Conv2d(16, 32, 3, 2, 1, bias=False), BatchRenorm2d(32)
        self.fc = nn.Linear(32, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm1(self.conv1(x)))
        return self.fc(torch.relu(self.norm2(self.conv2(x))).mean((2, 3)))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "efficientnet_lite": lambda: EfficientNetLite(0.25, 0.5, CLASSES),
    "mobilenet_v2": lambda: MobileNetV2(0.25, 0.5, CLASSES),
    "group_norm_resnet": GroupNormResNet,
    "vision_transformer": VisionTransformer,
    "batch_renorm": Renormed,
}


def make(name: str, seed: int = 0) -> nn.Module:
    """A network whose normalisations are as those of a trained one: every scale, bias and statistic its own."""
    torch.manual_seed(seed)
    network = NETWORKS[name]()
    generator = torch.Generator().manual_seed(seed)
    for key, tensor in network.state_dict().items():
        leaf = key.rpartition(".")[2]
        if leaf == "running_mean":
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)
        elif leaf == "running_var" or (leaf == "weight" and tensor.dim() == 1):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
        elif tensor.dim() == 4:  # as large as keeps a signal's size through ReLUs (He et al. 2015)
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * (2 / tensor[0].numel()) ** 0.5)
        elif leaf == "bias":
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)
    return network.eval()

"""Everything torch: base networks, patches, preprocessing, engines, training. Usable alone as a library.

base = load_base("lite0")
patch = load_patch(path, base)
top1(base, [("cat.jpg", 281)], resolution=224)
TorchEngine(base, threads=2).predict(inputs, patch)
"""

from .bases import BASES, Base, fingerprint, imagenet_labels, load_base
from .engine import Engine, EngineRun, TorchEngine
from .evaluation import evaluate, top1, wilson
from .openvino_engine import OpenVinoEngine
from .patched import PatchedNetwork
from .patches import Kind, Patch, load_patch, make_kind, make_kinds, read_metadata, save_patch
from .preprocessing import decode_image, to_input

__all__ = [
    "BASES",
    "Base",
    "Engine",
    "EngineRun",
    "Kind",
    "OpenVinoEngine",
    "Patch",
    "PatchedNetwork",
    "TorchEngine",
    "decode_image",
    "evaluate",
    "fingerprint",
    "imagenet_labels",
    "load_base",
    "load_patch",
    "make_kind",
    "make_kinds",
    "read_metadata",
    "save_patch",
    "to_input",
    "top1",
    "wilson",
]

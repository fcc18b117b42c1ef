"""A network as a graph of its layers and of the functions between them, traced by torch.fx."""

from __future__ import annotations

from torch import fx, nn

from ..policies.errors import UnavailableError
from .networks import BatchRenorm2d

BATCH_NORMS = (nn.BatchNorm2d, BatchRenorm2d)
NORMS = (*BATCH_NORMS, nn.GroupNorm, nn.LayerNorm)
LAYERS = (*NORMS, nn.Conv2d, nn.Linear)


class _Tracer(fx.Tracer):
    """Goes into every module but the known layers, subclasses of torch's own among them."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, LAYERS) or super().is_leaf_module(m, module_qualified_name)


def trace(network: nn.Module) -> fx.Graph:
    """The graph of `network` as it is now, a patch that is bound to it included.

    Raises UnavailableError for a forward pass that depends on its input's values.
    """
    try:
        return _Tracer().trace(network)
    except (fx.proxy.TraceError, TypeError, NotImplementedError) as error:
        raise UnavailableError(f"The network {type(network).__name__} cannot be traced: {error}.") from error

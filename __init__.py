"""patchd: one pretrained base network, many model patches, and the right one for the moment."""

__version__ = "0.1.0"

__all__ = ["__version__"]

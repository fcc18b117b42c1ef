"""The local HTTP API: schemas, routes, caller identity, OpenAPI."""

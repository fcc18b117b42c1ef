"""The control plane: device monitor, jobs, state, local API, worker processes, `patchd` and `patchctl`."""

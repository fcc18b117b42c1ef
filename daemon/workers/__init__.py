"""The worker processes and the messages they exchange with the control plane."""

"""What `patchctl doctor` looks at: small checks of the installation, the machine and a running daemon, one a matter."""

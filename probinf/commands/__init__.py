"""Subcommands of `probinf`, a module each, registered in pyproject.toml; what they share is in `shared`."""

"""The `forebear` command."""

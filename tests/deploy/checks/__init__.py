"""Checks of deploy/ that need no network, no engine and no cluster: each returns what is wrong, as lines."""

"""Alembic's scripts: env.py runs a migration, versions/ holds them. Each one is applied once, in order."""

"""What the engines with a model import, for the process that they are forked from."""


def import_libraries() -> None:
    """Import it all, which takes ten seconds."""
    import forebear.index  # noqa: F401
    import forebear_serve.engine.auditing
    import forebear_serve.engine.maker
    import forebear_serve.engine.tracer  # noqa: F401
    from forebear.diffusion import loading

    loading.import_libraries()

"""The HTTP API: routes by what they are about, over `forebear_serve.parts`."""

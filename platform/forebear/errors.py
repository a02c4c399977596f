"""The one family of errors that Forebear raises on purpose."""


class ForebearError(Exception):
    """A problem that the user can mend; the message says what is wrong and what to do.

    Every subclass takes exactly one argument, the message, so that it survives pickling between Ray processes.
    The command line prints the message on one line and exits with code 2.
    """


class ConfigError(ForebearError):
    """A setting is missing, unknown, or out of range."""


class DataError(ForebearError):
    """The training images cannot be read as asked."""


class ModelError(ForebearError):
    """The diffusion checkpoint cannot be loaded or is of a kind that Forebear does not support."""


class StoreError(ForebearError):
    """Embeddings on disk are damaged, incomplete, or belong to other inputs."""


class SearchIndexError(ForebearError):
    """An index is missing, damaged, or does not belong to its store."""


class JobError(ForebearError):
    """A distributed job ended without all of its work done."""

"""What access tokens allow; for programs that know no database."""

from enum import StrEnum


class Scope(StrEnum):
    """What a token allows. `admin` implies all others; none of the others implies another."""

    READ = "read"
    """Samples, their images and groups, estimators, index facts, audits, reviews."""
    GENERATE = "generate"
    """Generating pictures and attributing them."""
    REVIEW = "review"
    """Creating and changing reviews."""
    ADMIN = "admin"
    """Everything, and starting and cancelling jobs."""

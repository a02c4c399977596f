"""The migrations. Once released, a file here is never changed: a later one changes what it made."""

"""Long work in shards: in process or on Ray actors."""

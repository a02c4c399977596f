"""A cluster that really runs on one Linux machine: hosts, Ray on them, and callers that count what fails."""

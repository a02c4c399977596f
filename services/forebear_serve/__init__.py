"""Services: Ray Serve deployments, HTTP schemas and clients over the Forebear library."""

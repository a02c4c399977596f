"""What the services do, without Ray and HTTP: every class here runs in a test or a script as it does in a replica."""

"""`python -m forebear.forking`: a fork server with a command of its own (forebear.forking.server)."""

import sys

from forebear.forking.server import main

main(sys.argv[1], sys.argv[2], int(sys.argv[3]))

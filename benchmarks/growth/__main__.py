"""`python -m benchmarks.growth`: see `command`."""

import sys

from benchmarks.growth import command

if __name__ == "__main__":
    command.main(sys.argv[1:])

"""Refuse a Python the book was not tested with, in words (runs before anything is installed)."""

import sys

LOWEST, HIGHEST = (3, 11), (3, 13)


def main():  # type: () -> int
    """Return 0 for Python 3.11 to 3.13, otherwise explain and return 1."""
    if LOWEST <= sys.version_info[:2] <= HIGHEST:
        return 0
    sys.stderr.write(
        "Down to One Bit needs Python 3.11, 3.12 or 3.13; {} is {}.{}.\n"
        "Name another one, for example: make book PYTHON=python3.12\n".format(
            sys.executable, *sys.version_info[:2]
        )
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())

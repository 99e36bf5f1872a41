"""The `headrace` command, also `python -m headrace`; the package before it has taken the right `engine`."""

from engine.cli.main import main

__all__ = ["main"]

if __name__ == "__main__":
    main()

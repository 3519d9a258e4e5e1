"""`python -m curious`."""

from curious.cli import main

if __name__ == "__main__":
    main()

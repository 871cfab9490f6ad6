"""``python -m diffuzz``."""

from diffuzz.cli import main

if __name__ == "__main__":
    main()

"""``python -m diffuzz``."""

from diffuzz.cli.main import main

if __name__ == "__main__":
    main()

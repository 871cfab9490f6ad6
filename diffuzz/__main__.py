"""``python -m diffuzz``."""

import os
import sys

if not sys.flags.safe_path and sys.path and sys.path[0] in ("", os.getcwd() if os.path.exists(".") else ""):
    # `python -m` puts the working directory first. A jax.py or a folder strategies/ there hides no library.
    sys.path.append(sys.path.pop(0))

from diffuzz.cli.main import main

if __name__ == "__main__":
    main()

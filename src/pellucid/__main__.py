"""`python -m pellucid`."""

import sys

if __name__ == "__main__":
    if not sys.flags.safe_path:  # Python has put the current folder first on the path; nothing in it is to be run
        del sys.path[0]
    from pellucid.cli import main

    main()

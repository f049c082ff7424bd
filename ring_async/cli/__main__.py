"""`python -m ring_async.cli`: the command line without its script."""

from ring_async.cli.app import main

if __name__ == "__main__":
    main()

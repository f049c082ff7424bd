"""`python -m ring_async.cli`: the command line where the `ring-async` script is not installed."""

from ring_async.cli.app import main

if __name__ == "__main__":
    main()

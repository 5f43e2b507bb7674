"""`python -m resnets` is the command `resnets`."""

from resnets.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())

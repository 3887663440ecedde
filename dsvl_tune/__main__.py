"""`python -m dsvl_tune` is `dsvl-tune`."""

from dsvl_tune.cli.main import main

if __name__ == "__main__":
    main()

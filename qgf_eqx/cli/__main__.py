"""`python -m qgf_eqx.cli`."""

from . import main

if __name__ == "__main__":
    main()

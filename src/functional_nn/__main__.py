"""``python -m functional_nn`` is the command ``functional-nn``."""

from functional_nn.cli import main

if __name__ == "__main__":
    main()

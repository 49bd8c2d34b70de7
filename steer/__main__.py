"""`python -m steer`, and what `accelerate launch -m steer` starts."""

from steer.cli import main

if __name__ == "__main__":
    main()

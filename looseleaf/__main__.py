"""`python -m looseleaf` is the command `looseleaf`."""

from looseleaf.command import main

if __name__ == "__main__":
    main()

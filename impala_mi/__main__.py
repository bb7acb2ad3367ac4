"""`python -m impala_mi`."""

from impala_mi.cli.main import main

if __name__ == "__main__":
    main()

"""`python -m mesh` is the command `mesh`, where the script is not on PATH."""

from mesh.cli.app import main

if __name__ == "__main__":
    main()

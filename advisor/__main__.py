"""``python -m advisor`` is ``advisor``."""

from advisor.cli.main import run

if __name__ == "__main__":
    run()

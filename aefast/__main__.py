"""``python -m aefast``, and the ``aefast`` command."""

import sys


def main() -> None:
    """Run the command line; say in one line which package it lacks."""
    try:
        from aefast.cli import app
    except ModuleNotFoundError as error:
        print(
            f"aefast: the command line needs {error.name}, which is missing: "
            "pip install aefast[cli]",
            file=sys.stderr,
        )
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    app()


if __name__ == "__main__":
    main()

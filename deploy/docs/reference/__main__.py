"""Writes docs/reference anew: `PYTHONPATH=deploy/docs python -m reference`."""

from reference.pages import FOLDER, pages


def main() -> None:
    """Write every page, and delete pages that are made no more."""
    made = pages()
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in made.items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    for path in FOLDER.glob("*.md"):
        if path.name not in made:
            path.unlink()


if __name__ == "__main__":
    main()

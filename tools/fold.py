"""Fold the cells of the notebooks that are to be folded: `python -m tools.fold`."""

import nbformat

from tools.rules import read, toc_files, with_folds


def main() -> None:
    """Rewrite the notebooks whose cells are not folded as they should be."""
    for path in toc_files():
        if path.suffix == ".ipynb":
            notebook = read(path)
            folded = with_folds(notebook)
            if folded != notebook:
                nbformat.write(folded, path)
                print(f"folded cells of {path.name}")


if __name__ == "__main__":
    main()

"""What the book's notebooks share; nothing else of the package imports it.

Its modules need the extra ``figures``, but for ``notebook``.
"""

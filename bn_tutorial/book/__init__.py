"""What the book's notebooks share: data, figures and their look, and a quiet start.

Nothing else of the package imports it. All of its modules but `bn_tutorial.book.notebook` need
what the package's extra ``figures`` installs.
"""

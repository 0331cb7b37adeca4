"""What makes the site, the EPUB and the PDF of the book's pages."""

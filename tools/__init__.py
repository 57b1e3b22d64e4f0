"""Commands that keep the book, its exercises and its address in step. The Makefile calls them."""

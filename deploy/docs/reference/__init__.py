"""The pages of docs/reference, made from the code itself: `make reference` writes them, tests/docs holds them to it."""
